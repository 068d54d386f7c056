"""cli/stdio: standard streams that are full, closed or missing, and what a command makes of them."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from perkamo import Event, SyncOutbox
from perkamo.cli.main import main
from perkamo.sandbox import Sandbox, Status
from tests.cli.conftest import COMMAND, variables

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="it takes a shell and a device that is full")

PROGRAM = json.dumps({"blueprint": {"earningRules": [{"event": "a", "label": "\u017dofie"}]}})
EMIT = "emit customer_123 review.created"


def shell(
    sandbox: Sandbox, line: str, *, encoding: str = "utf-8", unbuffered: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a line of a shell in which ``perkamo`` is the command, with the sandbox's keys and address."""
    return subprocess.run(
        ["bash", "-c", f'perkamo() {{ {shlex.join(COMMAND)} "$@"; }}; {line}'],
        env={**variables(sandbox), "PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("output", ["> /dev/full", ">&-"])
def test_an_event_that_counts_is_no_failure_although_its_result_can_not_be_shown(
    sandbox: Sandbox, output: str, unbuffered: str
) -> None:
    """Exit code 0, and the random transaction id on stderr; catches a script that sends the event once more."""
    done = shell(sandbox, f"perkamo {EMIT} {output}", unbuffered=unbuffered)

    [event] = sandbox.events()
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(
        rf"perkamo emit: the event counts, under the transaction id {event.transaction_id}\. "
        r"The result cannot be shown: (No space left on device|standard output is closed)\.\n",
        done.stderr,
    )


def test_an_own_transaction_id_is_not_repeated(sandbox: Sandbox) -> None:
    """The user has it, and it may be a customer's; catches an id in the log of a job."""
    done = shell(sandbox, f"perkamo {EMIT} --transaction-id order_1092 >/dev/full")

    assert (done.returncode, "order_1092" in done.stderr) == (0, False)
    assert done.stderr.startswith("perkamo emit: the event counts, under its transaction id. The result")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["emit", "--help"]])
def test_a_help_text_that_nobody_reads_to_its_end_is_no_failure(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in ``perkamo --help | head -1``; catches "Broken pipe" in a terminal."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        code = main(words)

    assert (code, capfd.readouterr().err) == (0, "")


def test_a_customer_who_was_identified_is_no_failure_either(sandbox: Sandbox) -> None:
    """The call is made, its report is lost; catches the same fault in the other command that writes."""
    done = shell(sandbox, "perkamo identify customer_123 plan=premium >/dev/full")

    assert (done.returncode, sandbox.customer("customer_123").traits) == (0, {"plan": "premium"})
    assert done.stderr == (
        "perkamo identify: the customer was identified. The result cannot be shown: No space left on device.\n"
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("words", ["customer customer_123", "catalog --python", "--help", "emit --help", "--version"])
@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
def test_a_command_that_only_shows_something_fails_where_it_can_not(sandbox: Sandbox, words: str, output: str) -> None:
    """Exit code 1 and one line; catches a traceback, and Python's own exit code 120."""
    done = shell(sandbox, f"perkamo {words} {output}", unbuffered="1" if words == "--version" else "")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert re.match(r"perkamo( \w+)?: cannot write: (No space left on device|standard output is closed)", done.stderr)


@pytest.mark.sample(2)
@pytest.mark.parametrize("errors", ["2>&-", "2>/dev/full"])
def test_notes_are_dropped_where_standard_error_does_not_take_them(sandbox: Sandbox, errors: str) -> None:
    """The token stands alone on stdout, and exit codes stay what they are; catches a note within the output."""
    token = shell(sandbox, f"perkamo token customer_123 {errors}")
    failed = shell(sandbox, f"PERKAMO_SECRET_KEY=sk_test_wrong perkamo customer customer_123 {errors}")
    wrong = shell(sandbox, f"perkamo customer {errors}")

    assert (token.returncode, token.stdout.count("\n")) == (0, 1)
    assert sandbox.check_token(token.stdout.strip(), "browser").user_id == "customer_123"
    assert (failed.returncode, failed.stdout) == (1, "")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_log_of_a_long_command_may_be_lost(sandbox: Sandbox, box: str) -> None:
    """A relay tells why events wait, and goes on where it can't; catches logging's own traceback or exit code 120."""
    sandbox.faults.next("POST /v1/events:batch", Status(503), times=1)

    done = shell(sandbox, f"perkamo outbox relay {box} --until-empty 2>&-")

    assert (done.returncode, len(sandbox.events())) == (0, 1)
    assert "waits" not in done.stdout


@pytest.fixture
def box(tmp_path: Path) -> str:
    """An outbox in which an event waits, quoted for a shell."""
    with SyncOutbox(tmp_path / "box") as outbox:
        outbox.put(Event("customer_123", "review.created", "review_1"))
    return shlex.quote(str(tmp_path / "box"))


def test_a_relay_delivers_although_it_can_show_nothing(sandbox: Sandbox, box: str) -> None:
    """The disk of its log is full, and the events still go; catches a delivery that waits for a report."""
    done = shell(sandbox, f"perkamo outbox relay {box} --until-empty --rebind >/dev/full")

    assert (done.returncode, len(sandbox.events())) == (0, 1)
    assert done.stderr == "perkamo outbox: cannot write: No space left on device\n"


def test_dead_letters_that_wait_again_are_no_failure(sandbox: Sandbox, box: str) -> None:
    """They do, whoever can read it; catches a command that is run again and then finds none."""
    sandbox.faults.next("POST /v1/events:batch", Status(422))

    shell(sandbox, f"perkamo outbox relay {box} --until-empty")
    done = shell(sandbox, f"perkamo outbox requeue {box} >/dev/full")

    told = "dead letters queued for delivery again: 1. The result cannot be shown: No space left on device."
    assert (done.returncode, done.stderr) == (0, f"perkamo outbox: {told}\n")


def test_all_streams_may_be_missing(sandbox: Sandbox) -> None:
    """As under a daemon; catches a socket that becomes standard output, and a traceback into the network."""
    done = shell(sandbox, f"perkamo {EMIT} <&- >&- 2>&-")

    assert (done.returncode, len(sandbox.events())) == (0, 1)


def test_an_import_without_standard_input_says_so(sandbox: Sandbox) -> None:
    """Exit code 1 and one line; catches an AttributeError of None."""
    done = shell(sandbox, "perkamo import - <&-")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "perkamo import: standard input is closed.\n"


def test_every_command_writes_what_the_encoding_lacks_as_an_escape(sandbox: Sandbox) -> None:
    """Text and JSON of a stream, too; catches a UnicodeEncodeError in the middle of it."""
    sandbox.faults.next("GET /v1/program", Status(200, {}, PROGRAM))

    done = shell(sandbox, "perkamo catalog", encoding="ascii")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u017dofie" in done.stdout
