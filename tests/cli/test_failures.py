"""What all commands have in common: one line for a failure, its exit code, no secret in it, and a whole help."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perkamo.sandbox import Delay, Lost, Sandbox, Status
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary
from tests.cli.conftest import Perkamo

COMMANDS = {
    "catalog": ([], "GET /v1/program"),
    "customer": ([CANARY_EMAIL], "GET /v1/customer/{user_id}"),
    "emit": ([CANARY_EMAIL, "purchase.completed", f"email={CANARY_EMAIL}"], "POST /v1/events"),
    "identify": ([CANARY_EMAIL, f"email={CANARY_EMAIL}"], "POST /v1/identify"),
    "program": ([], "GET /v1/program"),
    "token": ([CANARY_EMAIL], "POST /v1/browser-tokens"),
}
"""Each command, words that work with it, and the route that it calls."""

each_command = pytest.mark.parametrize(("name", "words", "route"), [(name, *rest) for name, rest in COMMANDS.items()])


@each_command
def test_a_wrong_key_is_told_in_one_line_with_the_request(
    here: Perkamo, name: str, words: list[str], route: str
) -> None:
    """Exit code 1, the request's id to quote, and neither the key nor who the customer is."""
    done = here(name, *words, PERKAMO_SECRET_KEY=CANARY_KEY)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"perkamo {name}: {route}: 401 ")
    assert "(request id req_" in done.stderr
    assert find_canary(done.stderr) is None


@each_command
def test_without_a_key_the_variable_is_named(here: Perkamo, name: str, words: list[str], route: str) -> None:
    """Exit code 1, and what to set."""
    done = here(name, *words, PERKAMO_SECRET_KEY="")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "PERKAMO_SECRET_KEY" in done.stderr


@each_command
def test_a_refusal_by_the_service_ends_with_3(
    sandbox: Sandbox, here: Perkamo, name: str, words: list[str], route: str
) -> None:
    """Trying again would not help; what the service wrote is shown without the customer's id and without tricks."""
    body = f'{{"message": "No {CANARY_EMAIL}\\u001b[2J\\nhere"}}'
    sandbox.faults.next(route, Status(404, {"x-request-id": "req_7"}, body))

    done = here(name, *words)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert f"perkamo {name}: {route}: 404 No *** [2J here" in done.stderr
    assert find_canary(done.stderr) is None
    assert "\x1b" not in done.stderr


@each_command
def test_a_service_that_is_down_ends_with_1(here: Perkamo, name: str, words: list[str], route: str) -> None:
    """No connection, after three attempts: one line that says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        done = here(name, *words, PERKAMO_BASE_URL=f"http://127.0.0.1:{taken.getsockname()[1]}")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"perkamo {name}: {route}: ")
    assert find_canary(done.stderr) is None


@pytest.mark.parametrize("header", [{}, {"content-encoding": "br"}])
def test_an_answer_that_cannot_be_read_names_the_request(
    sandbox: Sandbox, here: Perkamo, header: dict[str, str]
) -> None:
    """No JSON, or an encoding that nobody asked for: the id to quote is there, once."""
    sandbox.faults.next("GET /v1/program", Status(200, {"x-perkamo-request-id": "req_8", **header}, "<html>"))

    done = here("program")

    assert (done.returncode, done.stderr.count("\n"), done.stderr.count("(request id req_8)")) == (1, 1, 1)


def test_a_lost_answer_is_tried_again_in_silence(sandbox: Sandbox, here: Perkamo) -> None:
    """What a retry mends is no failure: nothing on stderr."""
    sandbox.faults.next("GET /v1/program", Lost())

    done = here("catalog")

    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    "words",
    [
        ["emit", CANARY_EMAIL, "purchase.completed", "--api-key", CANARY_KEY],
        ["emit", f"--key={CANARY_KEY}", CANARY_EMAIL, "a.b"],
        ["customer", "customer_name_4711", "Erika", "Mustermann"],
        ["customer", "--json=customer_name_4711", "Mustermann"],
        ["token", "customer_name_4711", "--ttl", "Mustermann"],
        [CANARY_EMAIL, CANARY_KEY],
    ],
)
def test_wrong_usage_does_not_repeat_what_was_typed(here: Perkamo, words: list[str]) -> None:
    """A key in the wrong place must not reach the log of a CI job by way of an error message."""
    done = here(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert find_canary(done.stderr) is None
    assert "4711" not in done.stderr
    assert "Mustermann" not in done.stderr


def test_a_mistyped_command_is_shown_beside_the_right_ones(here: Perkamo) -> None:
    """Hiding what was typed must not make the error useless."""
    done = here("custmer", "customer_123")

    assert done.returncode == 2
    assert "'custmer'" in done.stderr
    assert "customer" in done.stderr


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_shows_an_example_the_variables_and_the_exit_codes(here: Perkamo, name: str) -> None:
    """A user needs no other page; no option takes a server key."""
    done = here(name, "--help", PERKAMO_SECRET_KEY=CANARY_KEY)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"\nexample:\n  perkamo {name}" in done.stdout
    assert "PERKAMO_SECRET_KEY   the server key; it is read from here only" in done.stdout
    for code in ("0    done", "1    failed", "2    wrong usage", "3    refused", "130  Ctrl-C"):
        assert f"\n  {code}" in done.stdout
    assert "--json" in done.stdout
    assert "key " not in done.stdout.partition("environment:")[0].partition("options:")[2]
    assert find_canary(done.stdout) is None


@pytest.mark.parametrize("name", [*COMMANDS, "import", "outbox", "watch"])
def test_advice_names_what_the_command_line_has(name: str, tmp_path: Path, here: Perkamo) -> None:
    """The option is named, and there; catches an argument of Python's that nobody can type."""
    words = {"import": [__file__], "outbox": ["relay", str(tmp_path)], "watch": ["c1"], "token": ["c1"]}.get(name)
    words = words or COMMANDS[name][0]

    done = here(name, *words, PERKAMO_BASE_URL="http://192.0.2.1:9")
    shown = here(name, "--help")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(
        f"perkamo {name}: PERKAMO_BASE_URL uses plain http, which shows the key to the network; use https, "
        "or give --allow-insecure-http."
    )
    assert "--allow-insecure-http" in shown.stdout


def test_plain_http_is_allowed_where_it_was_asked_for(here: Perkamo) -> None:
    """Then the address is tried; catches an option without an effect."""
    done = here("program", "--allow-insecure-http", PERKAMO_BASE_URL="http://host.invalid:9")

    assert done.returncode == 1
    assert done.stderr.startswith("perkamo program: GET /v1/program: ")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_quietly_with_130(sandbox: Sandbox) -> None:
    """No traceback while a call is under way."""
    sandbox.faults.next("GET /v1/program", Delay(120))
    environment = {**os.environ, "PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "perkamo", "program"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while not sandbox.requests:
        assert process.poll() is None

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it takes a device that is always full")
@pytest.mark.parametrize("words", [["program"], ["catalog", "--python"]])
def test_a_full_disk_is_no_success(sandbox: Sandbox, words: list[str]) -> None:
    """What could not be written must not end with 0."""
    environment = {**os.environ, "PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "perkamo", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert done.stderr.startswith(f"perkamo {words[0]}: cannot write: ")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="Windows knows no broken pipe")
def test_a_reader_that_has_enough_ends_it_quietly(sandbox: Sandbox) -> None:
    """As with ``| head -1``: no traceback and no complaint."""
    environment = {**os.environ, "PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url}
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [sys.executable, "-m", "perkamo", "catalog"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )

    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
