"""Import, outbox, watch, sandbox and demo: their text and JSON, their failures in one line, and what stays hidden."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import anyio
import pytest

from perkamo import AsyncPerkamoClient, Event, PerkamoClient
from perkamo.outbox.outbox import Outbox
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary
from tests.cli.conftest import Perkamo

BATCH = "POST /v1/events:batch"
STREAM = "GET /v1/client/customer/{user_id}/stream"

posix = pytest.mark.skipif(os.name != "posix", reason="the outbox needs flock, and Ctrl-C a SIGINT")


@pytest.fixture
def events(tmp_path: Path) -> str:
    """A file of two events about the customer who must not be seen."""
    path = tmp_path / "events.jsonl"
    line = {"user_id": CANARY_EMAIL, "event": "review.created", "context": {"email": CANARY_EMAIL}}
    path.write_text("".join(json.dumps({**line, "transaction_id": f"review_{n}"}) + "\n" for n in range(2)))
    return str(path)


@pytest.fixture
def outbox(tmp_path: Path) -> str:
    """An outbox in which two such events wait."""

    async def fill() -> None:
        async with Outbox(tmp_path / "outbox") as box:
            for n in range(2):
                await box.put(Event(CANARY_EMAIL, "review.created", f"review_{n}", {"email": CANARY_EMAIL}))

    anyio.run(fill)
    return str(tmp_path / "outbox")


def words_of(name: str, events: str, outbox: str) -> list[str]:
    """Words that make a command call the service about that customer."""
    return {
        "import": ["import", events],
        "outbox": ["outbox", "relay", outbox, "--until-empty"],
        "watch": ["watch", CANARY_EMAIL],
    }[name]


each_caller = pytest.mark.parametrize("name", ["import", "outbox", "watch"])


@pytest.mark.sample(3)
@posix
@each_caller
def test_a_wrong_key_is_told_in_one_line_with_the_request(
    perkamo: Perkamo, name: str, events: str, outbox: str
) -> None:
    """Exit code 1 and the request's id; catches a key, an address or a traceback in the failure."""
    done = perkamo(*words_of(name, events, outbox), PERKAMO_SECRET_KEY=CANARY_KEY)

    *states, told = done.stderr.splitlines()
    assert done.returncode == 1
    assert re.match(rf"perkamo {name}: .*401 .*\(request id req_", told)
    assert all(line.startswith("perkamo watch: ") for line in states)
    assert find_canary(done.stdout + done.stderr) is None


@pytest.mark.sample(3)
@posix
@each_caller
def test_without_a_key_the_variable_is_named(perkamo: Perkamo, name: str, events: str, outbox: str) -> None:
    """What to set, in the words of a shell; catches advice that only fits code."""
    done = perkamo(*words_of(name, events, outbox), PERKAMO_SECRET_KEY="")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"perkamo {name}: There is no server key: set PERKAMO_SECRET_KEY.")
    assert (done.stderr.count("\n"), "api_key" in done.stderr) == (1, False)


@pytest.mark.sample(3)
@posix
@each_caller
def test_what_the_service_refuses_shows_nobody(
    sandbox: Sandbox, perkamo: Perkamo, name: str, events: str, outbox: str
) -> None:
    """A refusal that quotes the customer; catches the service's text where it would reach a log."""
    body = f'{{"message": "No {CANARY_EMAIL}, {CANARY_KEY}\\u001b[2J"}}'
    route, times, code = (
        ("POST /v1/browser-tokens", 1, 3) if name == "watch" else (BATCH, 3, 3 if name == "import" else 0)
    )
    sandbox.faults.next(route, Status(422, {"x-request-id": "req_7"}, body), times=times)

    done = perkamo(*words_of(name, events, outbox))

    assert done.returncode == code
    assert find_canary(done.stdout + done.stderr) is None
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_tells_its_counts_as_json(sandbox: Sandbox, perkamo: Perkamo, events: str) -> None:
    """Counts, and where refused lines are; catches text on standard output among the JSON."""
    first = perkamo("import", events, "--json")
    with Path(events).open("a") as file:
        file.write("broken\n")
    second = perkamo("import", events, "--json")

    assert (first.returncode, first.stderr, second.returncode) == (0, "", 3)
    assert json.loads(first.stdout) == {"lines": 2, "applied": 2, "known": 0, "refused": 0, "rejected": None}
    assert json.loads(second.stdout) == {
        "lines": 3,
        "applied": 0,
        "known": 2,
        "refused": 1,
        "rejected": f"{events}.rejected.jsonl",
    }


@pytest.mark.parametrize("number", ["0", "65", "four", "-1"])
def test_a_wrong_concurrency_is_wrong_usage(here: Perkamo, events: str, number: str) -> None:
    """Exit code 2 before the file is opened; catches a resume file of an import that never began."""
    done = here("import", events, f"--concurrency={number}")

    assert (done.returncode, done.stdout) == (2, "")
    assert "a number from 1 to 64" in done.stderr
    assert not Path(f"{events}.resume").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: data[:20] + b"\xff" * 8 + data[28:], lambda _: b"no gzip"]
)
def test_a_damaged_archive_is_told_in_one_line(here: Perkamo, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Cut short, broken inside, or none at all; catches zlib's own error as a traceback."""
    path = tmp_path / "events.jsonl.gz"
    text = b"".join(b'{"user_id":"u%d","event":"review.created"}\n' % n for n in range(500))
    path.write_bytes(damage(gzip.compress(text)))

    done = here("import", str(path))

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("perkamo import: cannot read or write: ")


@pytest.mark.stress
@posix
def test_the_outbox_speaks_json_in_every_action(sandbox: Sandbox, perkamo: Perkamo, outbox: str) -> None:
    """One document, or one object a line; catches an action that mixes sentences into it."""

    def poison(request: Request) -> Response | None:
        return Response(422, body=b"{}") if b"review_0" in request.body else None

    sandbox.add_handler(poison)

    relayed = perkamo("outbox", "relay", outbox, "--until-empty", "--rebind", "--json")
    dead = perkamo("outbox", "dead", outbox, "--json")
    requeued = perkamo("outbox", "requeue", outbox, "--json")
    counted = perkamo("outbox", "stats", outbox, "--json")

    assert [done.returncode for done in (relayed, dead, requeued, counted)] == [0, 0, 0, 0]
    assert (json.loads(relayed.stdout)["delivered"], json.loads(relayed.stdout)["dead"]) == (1, 1)
    (letter,) = [json.loads(line) for line in dead.stdout.splitlines()]
    assert (letter["transaction_id"], sorted(letter)) == ("review_0", ["reason", "transaction_id"])
    assert json.loads(requeued.stdout) == {"requeued": 1}
    assert json.loads(counted.stdout)["pending"] == 1
    assert find_canary(relayed.stdout + relayed.stderr + dead.stdout + dead.stderr) is None


@pytest.mark.stress
@posix
def test_dead_letters_are_a_table_for_people(sandbox: Sandbox, perkamo: Perkamo, outbox: str) -> None:
    """Id and reason, and the event on request only; catches personal data that nobody asked for."""
    none = perkamo("outbox", "dead", outbox)
    sandbox.add_handler(lambda request: Response(422, body=b"{}") if b"events" in request.body else None)
    perkamo("outbox", "relay", outbox, "--until-empty")

    dead = perkamo("outbox", "dead", outbox)
    whole = perkamo("outbox", "dead", outbox, "--events")

    assert none.stdout == "No dead letters.\n"
    head, *rows = dead.stdout.splitlines()
    assert re.fullmatch(r"transaction id +reason", head)
    assert [row.split()[0] for row in rows] == ["review_0", "review_1"]
    assert find_canary(dead.stdout) is None
    assert CANARY_EMAIL in whole.stdout


@pytest.mark.stress
@posix
def test_dead_letters_of_a_busy_process_are_listed_and_requeued(
    sandbox: Sandbox, perkamo: Perkamo, outbox: str
) -> None:
    """While a relay waits through an outage; catches an operator who has to stop the application."""

    def answer(request: Request) -> Response | None:
        if b"waits" in request.body:
            return Response(503)
        return Response(422, body=b"{}") if b"review_0" in request.body else None

    async def look_from_outside() -> tuple[str, str]:
        sandbox.add_handler(answer)
        async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client, Outbox(outbox) as box:
            await box.put(Event("u", "review.created", "own"))
            async with box.relay(client):
                while (await box.stats()).dead == 0:  # noqa: ASYNC110 - another thread's doing
                    await anyio.sleep(0.01)
                await box.put(Event("u", "review.created", "waits"))
                dead = await anyio.to_thread.run_sync(perkamo, "outbox", "dead", outbox, "--json")
                requeued = await anyio.to_thread.run_sync(perkamo, "outbox", "requeue", outbox, "--json")
        return dead.stdout + dead.stderr, requeued.stdout

    dead, requeued = anyio.run(look_from_outside)

    assert json.loads(dead)["transaction_id"] == "review_0"
    assert json.loads(requeued) == {"requeued": 1}


HOLD = """
import anyio, os, signal, sys
from perkamo import Event
from perkamo.outbox.outbox import Outbox

async def main():
    box = Outbox(sys.argv[1])
    await box.put(Event("u", "review.created", "own"))
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

anyio.run(main)
"""


@posix
def test_a_process_that_stands_still_hides_no_dead_letters(sandbox: Sandbox, perkamo: Perkamo, outbox: str) -> None:
    """Whoever looks reads them; catches a list that silently leaves out what another process has."""
    sandbox.add_handler(lambda request: Response(422, body=b"{}") if b"review_0" in request.body else None)
    perkamo("outbox", "relay", outbox, "--until-empty")
    with subprocess.Popen([sys.executable, "-c", HOLD, outbox], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"

            dead = perkamo("outbox", "dead", outbox)
        finally:
            process.kill()

    assert (dead.returncode, dead.stderr) == (0, "")
    assert "review_0" in dead.stdout


@posix
def test_watching_shows_changes_and_nobody(sandbox: Sandbox, perkamo: Perkamo) -> None:
    """The stream's end is told; catches the customer's id in the text of a line or of a state."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.emit(CANARY_EMAIL, "purchase.completed", {"order_id": "1", "amount": 100}, transaction_id="t1")
    sandbox.faults.next(STREAM, Status(204))

    done = perkamo("watch", CANARY_EMAIL)

    assert (done.returncode, done.stderr) == (0, "The service ended the stream.\n")
    assert find_canary(done.stdout) is None


RECEIVED: list[tuple[str, str]] = []


def wait_for(number: int) -> None:
    """Wait until so many deliveries have come, but not forever."""
    deadline = time.monotonic() + 20
    while len(RECEIVED) < number and time.monotonic() < deadline:
        time.sleep(0.01)


class Receiver(BaseHTTPRequestHandler):
    """Keeps the paths and transaction ids of what is posted."""

    def do_POST(self) -> None:
        """Take a delivery."""
        body = self.rfile.read(int(self.headers["content-length"]))
        RECEIVED.append((self.path, json.loads(body)["data"]["transaction_id"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Say nothing."""


@posix
def test_the_sandbox_tells_its_address_as_json_and_sends_webhooks() -> None:
    """For scripts; catches a greeting that is no JSON, and a reset on the page that ends the deliveries."""
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    hook = f"http://127.0.0.1:{server.server_port}/hooks/abc?k=1"
    command = [sys.executable, "-W", "error", "-m", "perkamo", "sandbox", "--port", "0", "--json", "--webhook", hook]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line
            text += line
        told = json.loads(text)
        with PerkamoClient(told["server_key"], base_url=told["base_url"]) as client:
            client.emit("u1", "review.created", transaction_id="before")
            wait_for(1)
            urllib.request.urlopen(
                f"{told['base_url']}/_sandbox/reset", data=b"", timeout=30
            ).close()  # the page's button
            client.emit("u1", "review.created", transaction_id="after")
        wait_for(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    server.shutdown()
    server.server_close()

    assert (process.returncode, out, err) == (0, "", "")
    assert sorted(told) == ["base_url", "browser_key", "server_key"]
    assert RECEIVED == [("/hooks/abc?k=1", "before"), ("/hooks/abc?k=1", "after")]


@pytest.mark.parametrize("url", ["https://127.0.0.1/x", "http://example.com/hook", "nonsense", "http://localhost:x/"])
def test_webhooks_leave_this_machine_on_no_account(here: Perkamo, url: str) -> None:
    """Wrong usage, told at once; catches a sandbox that posts to a stranger, or that fails with a traceback."""
    done = here("sandbox", "--port", "0", "--webhook", url)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("perkamo sandbox: --webhook: ")
    assert "Traceback" not in done.stderr


def test_the_demo_as_json_holds_the_answers(here: Perkamo) -> None:
    """One document; catches a line of the show on standard output."""
    done = here("demo", "--json")

    shown = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [result["applied"] for result in shown["emitted"]] == [True, True, True, False]
    assert len(shown["batch"]) == 3
    assert shown["customer"]["wallets"]["points"] > 400
    assert "purchase.completed" in [rule["event"] for rule in shown["catalog"]]


@pytest.mark.sample(3)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it takes a device that is always full")
@posix
@pytest.mark.parametrize("name", ["demo", "import", "outbox", "sandbox", "watch"])
def test_a_full_disk_is_no_success(sandbox: Sandbox, name: str, events: str, outbox: str) -> None:
    """Exit code 1 and one line; catches a result that was lost and reported as done."""
    words = {
        "demo": ["demo"],
        "import": ["import", events],
        "outbox": ["outbox", "stats", outbox],
        "sandbox": ["sandbox", "--port", "0"],
        "watch": ["watch", "customer_123", "--json"],
    }[name]
    keys = {"PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BROWSER_KEY": sandbox.browser_key}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "perkamo", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **keys, "PERKAMO_BASE_URL": sandbox.base_url},
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"perkamo {name}: cannot write: ")
    assert "Traceback" not in done.stderr
