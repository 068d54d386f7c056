"""cli/signals: SIGTERM ends each command well, also as process 1 of a container, and so does Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import pytest

from perkamo import Event, SyncOutbox
from perkamo.sandbox import Delay, Sandbox
from tests.cli.conftest import COMMAND, variables

BATCH = "POST /v1/events:batch"


def _has_namespaces() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "--pid", "--fork", "true"], check=False).returncode == 0


as_any_process = pytest.mark.parametrize(
    "as_process_1",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(not _has_namespaces(), reason="it takes a namespace of processes")),
    ],
)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to send")


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, but not without an end."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Running:
    """A command that runs: as any process, or as process 1 of a namespace of its own, as in a container."""

    def __init__(self, sandbox: Sandbox, words: tuple[object, ...], *, as_process_1: bool) -> None:
        outside = ("unshare", "--pid", "--fork", "--kill-child") if as_process_1 else ()
        self.process = subprocess.Popen(
            [*outside, *COMMAND, *map(str, words)],
            env=variables(sandbox),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._as_process_1 = as_process_1

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command itself."""
        pid = self.process.pid
        if self._as_process_1:
            [pid] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; returns the exit code and what it printed."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextmanager
def running(sandbox: Sandbox, *words: object, as_process_1: bool = False) -> Iterator[Running]:
    """Run a command, and kill it at the end if it does not end by itself."""
    command = Running(sandbox, words, as_process_1=as_process_1)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


def fill(path: Path) -> str:
    """Make an outbox in which an event waits."""
    with SyncOutbox(path) as outbox:
        outbox.put(Event("customer_123", "review.created", "review_1"))
    return str(path)


@as_any_process
def test_a_relay_finishes_the_request_on_its_way(sandbox: Sandbox, tmp_path: Path, *, as_process_1: bool) -> None:
    """The event is settled, the exit code 0; catches a container that is killed at the end of its grace."""
    sandbox.faults.next(BATCH, Delay(0.5))

    with running(sandbox, "outbox", "relay", fill(tmp_path / "box"), as_process_1=as_process_1) as relay:
        wait_for(lambda: bool(sandbox.requests))
        relay.send(signal.SIGTERM)
        code, out, err = relay.end()

    assert (code, err) == (0, "")
    assert "Stopped. What waits is kept.\n" in out
    assert re.search(r"^delivered +1$", out, re.MULTILINE)
    assert len(sandbox.events()) == 1


@as_any_process
def test_watching_ends_with_0(sandbox: Sandbox, *, as_process_1: bool) -> None:
    """SIGTERM is its ordinary end; catches a stream that goes on as process 1."""
    with running(sandbox, "watch", "customer_123", as_process_1=as_process_1) as watch:
        assert watch.process.stdout is not None
        watch.process.stdout.readline()
        watch.send(signal.SIGTERM)
        code, out, err = watch.end()

    assert (code, out, err) == (0, "", "perkamo watch: connected\n")


@pytest.mark.sample(2)
@as_any_process
def test_an_import_finishes_its_requests_and_goes_on_later(
    sandbox: Sandbox, tmp_path: Path, *, as_process_1: bool
) -> None:
    """What was on its way is noted and not sent again; 143, because the file is not done; catches a lost half."""
    path = tmp_path / "events.jsonl"
    line = '{"user_id": "u", "event": "review.created", "transaction_id": "t%d"}\n'
    path.write_text("".join(line % number for number in range(3000)))
    sandbox.faults.next(BATCH, Delay(0.5))

    with running(sandbox, "import", path, "--concurrency", 1, as_process_1=as_process_1) as first:
        wait_for(lambda: bool(sandbox.requests))
        first.send(signal.SIGTERM)
        code, out, err = first.end()
    before = len(sandbox.events())
    with running(sandbox, "import", path, "--json") as second:
        again = second.end()

    assert (code, out) == (143, "")
    assert err == f"perkamo import: stopped after line {before:,}. Run the same command again to continue.\n"
    assert 0 < before < 3000
    assert again[0] == 0
    assert json.loads(again[1])["applied"] == 3000
    assert sum(len(json.loads(record.body)["events"]) for record in sandbox.requests) == 3000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_import_that_waits_for_another_program_is_ended_too(
    sandbox: Sandbox, number: signal.Signals, code: int
) -> None:
    """At once, although nothing comes; catches a read that holds up the event loop."""
    with running(sandbox, "import", "-") as command:
        pipe = command.process.stdin
        assert pipe is not None
        pipe.write("\n")
        pipe.flush()
        unread = array("i", [1])
        wait_for(lambda: ioctl(pipe, FIONREAD, unread) == 0 == unread[0])
        command.send(number)
        wait_for(lambda: command.process.poll() is not None)

    assert command.process.returncode == code


@as_any_process
def test_the_sandbox_ends_with_0(sandbox: Sandbox, *, as_process_1: bool) -> None:
    """As other servers do; catches a test environment that takes ten seconds to go down."""
    with running(sandbox, "sandbox", "--port", 0, "--json", as_process_1=as_process_1) as server:
        assert server.process.stdout is not None
        while server.process.stdout.readline() != "}\n":
            pass
        server.send(signal.SIGTERM)

        assert server.end() == (0, "", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_call_that_is_cut_short_tells_the_transaction_id(sandbox: Sandbox, number: signal.Signals, code: int) -> None:
    """It may have been applied, and the id was a random one; catches an event that earns twice."""
    sandbox.faults.next("POST /v1/events", Delay(30))

    with running(sandbox, "emit", "customer_123", "review.created") as emit:
        wait_for(lambda: bool(sandbox.requests))
        emit.send(number)
        ended = emit.end()

    sent = json.loads(sandbox.requests[0].body)["transaction_id"]
    assert ended[:2] == (code, "")
    assert ended[2] == (
        "perkamo emit: stopped. The event may have been applied; "
        f"sending it again is safe with --transaction-id {sent}.\n"
    )


def test_a_signal_that_is_ignored_stays_so(sandbox: Sandbox) -> None:
    """Whoever starts a command decides; catches a handler that is set where none was wanted."""
    sandbox.faults.next("GET /v1/program", Delay(0.5))
    command = ["bash", "-c", 'trap "" TERM; exec "$@"', "bash", *COMMAND, "catalog", "--json"]

    with subprocess.Popen(command, env=variables(sandbox), stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: bool(sandbox.requests))
        process.terminate()
        out, _ = process.communicate(timeout=30)

    assert (process.returncode, bool(json.loads(out))) == (0, True)
