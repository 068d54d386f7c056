"""Where handled deliveries are remembered: clocks, limits, forks and processes that are killed."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perkamo import PerkamoConfigurationError
from perkamo.webhooks import MemoryDeliveryLog, PerkamoDeliveryLogError, SqliteDeliveryLog
from tests.webhooks.once import handle

ROOT = Path(__file__).parent.parent.parent


def test_the_memory_forgets_the_oldest_first() -> None:
    """It is bounded; catches one that grows forever, or drops the latest."""
    log = MemoryDeliveryLog(max_entries=2)

    for name in ("a", "b", "c"):
        handle(log, name)

    assert [handle(log, "c"), handle(log, "b"), handle(log, "a")] == [False, False, True]


class Clocks:
    """The clocks of a machine: one that runs since it was started, and one that anybody may set."""

    def __init__(self) -> None:
        self.boot = 100.0
        self.wall = 1_700_000_000.0

    def open(self, path: Path, **limits: float) -> SqliteDeliveryLog:
        """Open a log that goes by these clocks."""
        log = SqliteDeliveryLog(path, **limits)
        log._boot_time = lambda: self.boot
        log._wall_time = lambda: self.wall
        return log


@pytest.fixture
def clocks() -> Clocks:
    """The clocks of a machine."""
    return Clocks()


def test_a_late_handler_does_not_release_another_ones_claim(tmp_path: Path, clocks: Clocks) -> None:
    """Its lease ended and another has it; catches a release without its token."""
    log = clocks.open(tmp_path / "deliveries.db", lease=10)
    first = log.claim("dlv_1")
    clocks.boot += 10
    second = log.claim("dlv_1")

    log.failed("dlv_1", first.token)

    assert (first.state, second.state, log.claim("dlv_1").state) == ("mine", "mine", "busy")


def test_a_handled_delivery_is_forgotten_after_its_time(tmp_path: Path, clocks: Clocks) -> None:
    """The file does not grow without end; catches rows that nothing removes."""
    log = clocks.open(tmp_path / "deliveries.db", keep=10)
    log.claim("dlv_1")
    log.done("dlv_1")
    before = log.claim("dlv_1").state
    clocks.boot += 10
    clocks.wall += 10

    assert (before, log.claim("dlv_1").state) == ("done", "mine")


@pytest.mark.parametrize("step", [-400 * 86_400.0, 400 * 86_400.0])
def test_setting_the_clock_changes_nothing(step: float, tmp_path: Path, clocks: Clocks) -> None:
    """A year back or ahead, as a machine without a battery does when it finds the time; catches a second handler."""
    log = clocks.open(tmp_path / "deliveries.db")
    log.claim("busy")
    log.claim("done")
    log.done("done")

    clocks.wall += step

    assert (log.claim("busy").state, log.claim("done").state) == ("busy", "done")


def test_a_claim_of_before_the_machine_was_started_has_ended(tmp_path: Path, clocks: Clocks) -> None:
    """Its process is gone, whatever is left of the lease; what was handled stays so; catches a lease of days."""
    log = clocks.open(tmp_path / "deliveries.db")
    clocks.boot = 1_000_000.0
    log.claim("busy")
    log.claim("done")
    log.done("done")

    clocks.boot = 5.0
    clocks.wall += 60

    assert (log.claim("busy").state, log.claim("done").state) == ("mine", "done")


FULL = """
import sys
from pathlib import Path
from perkamo.webhooks import PerkamoDeliveryLogError, SqliteDeliveryLog

folder = Path(sys.argv[1])
log = SqliteDeliveryLog(folder / "deliveries.db")
log.claim("dlv_1"), log.claim("dlv_2")
token = log.claim("dlv_3").token
with (folder / "ballast").open("wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
for step in (lambda: log.claim("dlv_4"), lambda: log.done("dlv_1"), lambda: log.failed("dlv_3", token)):
    try:
        step()
    except PerkamoDeliveryLogError as error:
        print(error.handled, error.retryable, error)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="it takes a small disk of its own")
def test_a_full_disk_says_what_was_handled(tmp_path: Path) -> None:
    """Each step its own truth and advice; catches "was not handled" of what was, which asks for a repetition."""
    mount = f'mount -t tmpfs -o size=128k none {shlex.quote(str(tmp_path))} || exit 77; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", mount, "bash", sys.executable, "-c", FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip("mounting is not allowed here")

    reason = "The log of deliveries can't be used: database or disk is full."
    advice = (
        "False True {} The delivery was not handled; answer with status 503.",
        "True False {} The delivery was handled; answer with a 2xx. A repetition may be handled again.",
        "False True {} The delivery was not handled; answer with status 503. Its claim stays until its lease ends; ",
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line, begin in zip(done.stdout.splitlines(), advice, strict=True):
        assert line.startswith(begin.format(reason))


FORKS = """
import os, signal, threading
from perkamo.webhooks import MemoryDeliveryLog

log = MemoryDeliveryLog()
inside, go = threading.Event(), threading.Event()

class Slow(str):
    def __hash__(self):
        inside.set()
        go.wait(30)
        return str.__hash__(self)

holder = threading.Thread(target=log.claim, args=(Slow("dlv_1"),))
holder.start()
inside.wait(30)
threading.Timer(0.3, go.set).start()
child = os.fork()
if child == 0:
    signal.alarm(10)
    os._exit(0 if (log.claim("dlv_1").state, log.claim("dlv_2").state) == ("busy", "mine") else 1)
go.set()
holder.join()
print(os.waitpid(child, 0)[1], log.claim("dlv_2").state)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it takes a fork")
def test_a_child_that_is_forked_while_the_log_is_in_use_has_it_whole() -> None:
    """The fork waits for whoever is inside; catches a lock that nobody is left to open, and half a claim."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr) == ("0 mine\n", "")


RACER = """
import sys
from perkamo.webhooks import SqliteDeliveryLog
log = SqliteDeliveryLog(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(log.claim(f"dlv_{n}").state == "mine" for n in range(50)))
"""

HOLDER = """
import sys, time
from perkamo.webhooks import SqliteDeliveryLog
log = SqliteDeliveryLog(sys.argv[1], lease=float(sys.argv[2]))
print(log.claim("dlv_1").state, flush=True)
time.sleep(60)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program with pipes."""
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_many_processes_one_gets_each(tmp_path: Path) -> None:
    """Four processes race for fifty deliveries; catches a claim outside a transaction."""
    racers = [start(RACER, str(tmp_path / "deliveries.db")) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"

    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    got = [int(racer.communicate()[0]) for racer in racers]

    assert sum(got) == 50


def test_a_killed_handler_leaves_its_delivery_to_the_next(tmp_path: Path) -> None:
    """After the lease, not before; catches a delivery that a dead process keeps forever."""
    path = str(tmp_path / "deliveries.db")
    states: list[str] = []

    for lease in ("3600", "0.01"):
        holder = start(HOLDER, path, lease)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
        time.sleep(0.02)  # longer than the second lease
        states.append(SqliteDeliveryLog(path).claim("dlv_1").state)
        Path(path).unlink()

    assert states == ["busy", "mine"]


def test_a_file_that_is_no_log_is_told_plainly(tmp_path: Path) -> None:
    """A damaged file, a directory and a missing one; catches sqlite3's errors in the open."""
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no database" * 1000)

    for path in (damaged, tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(PerkamoDeliveryLogError, match="status 503") as caught:
            SqliteDeliveryLog(path)
        assert caught.value.retryable


def test_limits_that_cannot_work_are_refused(tmp_path: Path) -> None:
    """Nothing would ever be remembered; catches a log that is none."""
    with pytest.raises(PerkamoConfigurationError):
        MemoryDeliveryLog(0)
    with pytest.raises(PerkamoConfigurationError):
        SqliteDeliveryLog(tmp_path / "x", lease=0)
    with pytest.raises(PerkamoConfigurationError):
        SqliteDeliveryLog(tmp_path / "x", keep=float("nan"))
