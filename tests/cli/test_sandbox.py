"""``python -m perkamo``: the commands as processes, as a user runs them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest

from perkamo import Event, Outbox, PerkamoClient
from perkamo.cli.main import COMMANDS, main
from perkamo.sandbox import Sandbox
from tests.sandbox.browser import wait_for
from tests.sandbox.wire import address_of


def perkamo(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "perkamo", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running(*words: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run ``perkamo sandbox`` until the block ends; gives the process and what it printed when it was ready."""
    command = [sys.executable, "-W", "error", "-m", "perkamo", "sandbox", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            greeting = ""
            while "fidelity" not in greeting:
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                greeting += line
            yield process, greeting
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_prints_what_works_and_stops_cleanly(number: signal.Signals) -> None:
    """Expect URL, keys, export lines and a curl line that answers; Ctrl-C ends it with 0 and without a traceback."""
    with running("--port", "0") as (process, greeting):
        url, key = re.findall(r"^  export PERKAMO_BASE_URL=(\S+) PERKAMO_SECRET_KEY=(\S+)$", greeting, re.MULTILINE)[0]
        curl = re.findall(r"^  curl -H '([^:]+): ([^']+)' (\S+)$", greeting, re.MULTILINE)[0]
        request = urllib.request.Request(curl[2], headers={curl[0]: curl[1]})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert b'"user_id":"customer_123"' in answer.read()
        assert url.startswith("http://127.0.0.1:")
        assert (key, curl[1]) == (Sandbox().api_key, key)
        assert f"\n  export PERKAMO_BROWSER_KEY={Sandbox().browser_key}\n" in greeting

        process.send_signal(number)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out.strip(), err) == (0, "Stopped.", "")


def test_a_fault_that_is_still_armed_is_no_reason_to_fail() -> None:
    """Expect Ctrl-C to end with 0 although the page armed a fault that never fired: it is a failure in tests only."""
    with running("--port", "0") as (process, greeting):
        url = re.findall(r"Open (\S+) in a browser", greeting)[0]
        with urllib.request.urlopen(url, timeout=20) as page:
            assert b"<title>Perkamo sandbox</title>" in page.read()
        order = b'{"route": "POST /v1/events", "kind": "lost"}'
        headers = {"content-type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}_sandbox/faults", order, headers), timeout=20
        ) as told:
            assert b"Lost()" in told.read()

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out.strip(), err) == (0, "Stopped.", "")


def test_a_busy_port_ends_with_1_and_one_clear_line() -> None:
    """Expect the port and the remedy within two seconds of the start of the program's own work."""
    with Sandbox() as sandbox:
        port = address_of(sandbox)[1]

        began = time.perf_counter()
        done = perkamo("sandbox", "--port", str(port))

        assert time.perf_counter() - began < 20
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"perkamo sandbox: port {port} on 127.0.0.1 is in use:"
        " stop what uses it, or choose another port (0 for any free one)\n"
    )


def test_a_program_is_read_from_a_file(tmp_path: Path) -> None:
    """Expect its rules to be served."""
    file = tmp_path / "program.json"
    file.write_text('{"wallets": [{"key": "xp"}], "earningRules": [{"event": "lesson.done", "reward": {"amount": 3}}]}')

    with running("--port", "0", "--program", str(file)) as (_, greeting):
        url, key = re.findall(r"PERKAMO_BASE_URL=(\S+) PERKAMO_SECRET_KEY=(\S+)", greeting)[0]
        request = urllib.request.Request(f"{url}/v1/program", headers={"x-perkamo-api-key": key})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert b'"event":"lesson.done"' in answer.read()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"wallets": []}', "program.wallets must name at least one wallet"),
        ("{", "program is not JSON"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_program_ends_with_1_and_its_place(
    tmp_path: Path, text: str | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect one line on stderr, no traceback."""
    file = tmp_path / "program.json"
    if text is not None:
        file.write_text(text)

    assert main(["sandbox", "--port", "0", "--program", str(file)]) == 1

    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_the_command_gives_the_signals_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Expect Ctrl-C to end it with 0, and to mean again what it meant before: a program may call main()."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        while signal.getsignal(signal.SIGINT) is before[0]:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    code = main(["sandbox", "--port", "0"])
    helper.join()

    assert (code, capsys.readouterr().out.endswith("Stopped.\n")) == (0, True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_exposed_sandbox_says_what_that_opens() -> None:
    """Expect the warning, and API, control plane and /healthz on every address; the page's address still opens."""
    with running("--port", "0", "--host", "0.0.0.0", "--expose") as (_, greeting):
        url = re.findall(r"Open (\S+)/ in a browser", greeting)[0]
        for address in (url, url.replace("127.0.0.1", "127.0.0.2")):
            for path in ("/healthz", "/_sandbox/health", "/"):
                with urllib.request.urlopen(address + path, timeout=20) as answer:
                    assert answer.status == 200

    for word in ("EXPOSED", "use the API", "read all", "reset the sandbox", "arm faults", "test data only"):
        assert word in greeting


def test_webhooks_reach_an_allowed_host_with_the_secret_header(tmp_path: Path) -> None:
    """Expect the header of README's own example in each delivery; the host is named by the user, not guessed."""
    received: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.headers["X-Shop-Secret"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    events = tmp_path / "events.jsonl"
    events.write_text('{"user_id": "a", "event": "user.registered", "transaction_id": "t"}\n')
    with ThreadingHTTPServer(("127.0.0.2", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.2:{server.server_port}/hook"
        words = ["--webhook", url, "--webhook-allow", "127.0.0.2", "--webhook-header", "X-Shop-Secret: s3cret"]
        with running("--port", "0", *words, "--replay", str(events)) as (process, _):
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
            assert process.stdout.readline() == "Replayed 1 request. 200: 1\n"
            wait_for(lambda: bool(received))
        server.shutdown()

    assert received == ["s3cret"]


def test_what_was_recorded_is_replayed(tmp_path: Path) -> None:
    """Expect one process to keep what came and another to end in the same state: two commands, as a user types them."""
    file = tmp_path / "today.jsonl"
    with running("--port", "0", "--record", str(file), "--pseudonyms") as (_, greeting):
        url, key = re.findall(r"PERKAMO_BASE_URL=(\S+) PERKAMO_SECRET_KEY=(\S+)", greeting)[0]
        with PerkamoClient(key, base_url=url) as client:
            client.emit("customer_1", "user.registered", transaction_id="registration_1")

    with running("--port", "0", "--replay", str(file), "--speed", "0") as (process, greeting):
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Replayed"):
            pass
        url = re.findall(r"PERKAMO_BASE_URL=(\S+)", greeting)[0]
        with urllib.request.urlopen(f"{url}/_sandbox/state", timeout=20) as answer:
            state = json.loads(answer.read())

    assert line == "Replayed 1 request. 200: 1\n"
    assert [customer["wallets"] for customer in state["customers"]] == [{"points": 50}]
    assert "customer_1" not in file.read_text()


@pytest.mark.parametrize("space", [None, "shop"])
def test_what_waits_in_an_outbox_is_replayed_and_stays(space: str | None, tmp_path: Path) -> None:
    """Expect its events in the sandbox, and the outbox as it was: a look at what a stuck outbox would do."""
    place = tmp_path / "outbox"

    async def use(put: int) -> int:
        async with Outbox(place, space=space) as outbox:
            for number in range(put):
                await outbox.put(Event("customer_1", "review.created", f"review_{number}"))
            return (await outbox.stats()).pending

    assert anyio.run(use, 3) == 3
    words = [] if space is None else ["--space", space]
    with running("--port", "0", "--replay", str(place), *words) as (process, greeting):
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Replayed"):
            assert line
        url = re.findall(r"PERKAMO_BASE_URL=(\S+)", greeting)[0]
        with urllib.request.urlopen(f"{url}/_sandbox/state", timeout=20) as answer:
            state = json.loads(answer.read())

    assert [event["transaction_id"] for event in state["events"]] == ["review_0", "review_1", "review_2"]
    assert anyio.run(use, 0) == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--record", "a.jsonl", "--replay", "./a.jsonl"], "--record and --replay name one file"),
        (["--speed", "5"], "--speed and --space need --replay FILE"),
        (["--space", "shop"], "--speed and --space need --replay FILE"),
    ],
)
def test_options_of_recordings_that_do_not_go_together_are_reported(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect wrong usage at once; catches a replay that plays what it records, and never ends."""
    assert main(["sandbox", "--port", "0", *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_directory_without_an_outbox_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect a sentence; catches a copy of whatever directory is named."""
    assert main(["sandbox", "--port", "0", "--replay", str(tmp_path)]) == 1
    assert "contains no outbox" in capsys.readouterr().err


def test_a_recording_that_can_not_be_read_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect the line's number, or the file's name, on stderr."""
    file = tmp_path / "wrong.jsonl"
    file.write_text("nonsense\n")

    assert main(["sandbox", "--port", "0", "--replay", str(file)]) == 1
    assert "line 1 is not JSON" in capsys.readouterr().err
    assert main(["sandbox", "--port", "0", "--replay", str(tmp_path / "none")]) == 1
    assert main(["sandbox", "--port", "0", "--record", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("cannot use") == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "0.0.0.0"], "--expose"),
        (["--pseudonyms"], "--record"),
        (["--webhook-allow", "shop"], "--webhook URL"),
        (["--webhook", "http://shop:8000/"], "--webhook-allow"),
        (["--webhook", "https://localhost/"], "http URLs"),
    ],
)
def test_options_that_do_not_go_together_end_with_2(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect what to write instead, and no sandbox."""
    assert main(["sandbox", "--port", "0", *words]) == 2

    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--webhook-header", "secret"], ["--webhook-header", "a b: c"], ["--speed", "-1"]])
def test_wrong_values_are_wrong_usage(words: list[str]) -> None:
    """Expect argparse's exit code."""
    with pytest.raises(SystemExit) as end:
        main(["sandbox", *words])

    assert end.value.code == 2


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["sandbox", "--port", "65536"], ["sandbox", "--port", "x"], ["sandbox", "--nope"]]
)
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    """Expect argparse's usage line."""
    done = perkamo(*words)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: perkamo")


def test_help_names_every_command_and_loads_none() -> None:
    """Expect the list of commands without httpx, asyncio or the sandbox in memory."""
    code = (
        "import sys; from perkamo.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "rooms = ('httpx', 'asyncio', 'anyio', 'perkamo.sandbox', 'perkamo.cli.demo')\n"
        "print([name for name in rooms if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"^    {name}\s+{re.escape(summary)}$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_a_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect --help to work after the command's name."""
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])

    assert end.value.code == 0
    assert f"usage: perkamo {name}" in capsys.readouterr().out


def test_the_demo_shows_everything_in_three_seconds() -> None:
    """Expect points, a level-up, a perk, a duplicate, a batch and the catalogue, in plain ASCII, and exit code 0."""
    began = time.perf_counter()
    done = perkamo("demo")
    took = time.perf_counter() - began

    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "identify  customer_123",
        "+50 points",
        "unlocked: Welcome member (perk)",
        "+129 points",
        "LEVEL UP: level 2",
        "unlocked: Free shipping (perk)",
        "duplicate",
        "batch     review.created",
        "no rule, nothing earned",
        "wallets   ",
        "perks     Welcome member, Free shipping",
        "purchase.completed         Bought something",
        "python -m perkamo sandbox",
    ):
        assert part in done.stdout
    assert done.stdout.isascii()
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    assert took < 20, "three seconds on a quiet machine"


def test_the_demo_may_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    """Expect main() to play it in this process too."""
    assert main(["demo"]) == 0
    assert "LEVEL UP: level 2" in capsys.readouterr().out


def test_the_demo_needs_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a proxy, a foreign base URL and a foreign key in the environment not to matter."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "PERKAMO_BASE_URL"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("PERKAMO_SECRET_KEY", "sk_live_wrong")

        assert perkamo("demo").returncode == 0
