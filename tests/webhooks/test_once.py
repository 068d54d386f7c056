"""webhooks: a delivery is handled once, whoever repeats it and whoever dies."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from perkamo import PerkamoConfigurationError, PerkamoError
from perkamo.webhooks import (
    Claim,
    DeliveryLog,
    MemoryDeliveryLog,
    PerkamoDeliveryBusyError,
    PerkamoDeliveryLogError,
    PerkamoWebhookError,
    SqliteDeliveryLog,
    WebhookDelivery,
    deduplicate,
)
from tests.webhooks.samples import HEADERS, body

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")


def delivery(name: str = "dlv_1") -> WebhookDelivery:
    """A delivery with an id of its own."""
    return WebhookDelivery.parse({**HEADERS, "x-perkamo-delivery": name}, body())


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> DeliveryLog:
    """Each kind of log in turn."""
    return MemoryDeliveryLog() if request.param == "memory" else SqliteDeliveryLog(tmp_path / "deliveries.db")


def handle(log: DeliveryLog, name: str = "dlv_1") -> bool:
    """Handle a delivery; tell whether it was new."""
    with deduplicate(delivery(name), log) as is_new:
        return is_new


@pytest.mark.anyio
async def test_a_repetition_is_told_so(log: DeliveryLog) -> None:
    """The first is new, each further one is not, sync and async alike; catches a log that forgets."""
    found: list[bool] = []

    for _ in range(2):
        async with deduplicate(delivery(), log) as is_new:
            found.append(is_new)
    found.append(handle(log))

    assert found == [True, False, False]
    assert handle(log, "dlv_2")


@pytest.mark.anyio
async def test_what_failed_is_handled_again(log: DeliveryLog) -> None:
    """A handler that raised has handled nothing; catches a claim that counts as done."""
    with pytest.raises(RuntimeError):
        async with deduplicate(delivery(), log):
            raise RuntimeError
    with pytest.raises(RuntimeError), deduplicate(delivery(), log):
        raise RuntimeError

    assert handle(log)


@pytest.mark.anyio
async def test_what_was_cancelled_is_handled_again(log: DeliveryLog) -> None:
    """A client that hangs up cancels the handler; catches a release that the cancellation swallows."""
    with anyio.CancelScope() as scope:
        async with deduplicate(delivery(), log):
            scope.cancel()
            await anyio.sleep_forever()

    assert handle(log)


@pytest.mark.anyio
async def test_one_that_is_being_handled_is_neither_done_nor_new(log: DeliveryLog) -> None:
    """A 2xx now would end the repetitions of what may still fail; catches a second handler and a false done."""
    async with deduplicate(delivery(), log) as is_new:
        with pytest.raises(PerkamoDeliveryBusyError, match="503"):
            handle(log)

    assert is_new
    assert not handle(log)


def race(log: DeliveryLog, name: str) -> bool | None:
    """Handle a delivery; returns None where somebody else has it."""
    try:
        return handle(log, name)
    except PerkamoDeliveryBusyError:
        return None


def test_of_many_threads_one_gets_it(log: DeliveryLog) -> None:
    """Twenty at once; catches a claim that several get."""
    found: list[bool | None] = []
    together = threading.Barrier(20)

    def enter() -> None:
        together.wait()
        found.append(race(log, "dlv_1"))

    threads = [threading.Thread(target=enter) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(found), found.count(True)) == (20, 1)


class Id(str):
    """A delivery id that calls a function at its third look-up: the claim, after the looks for those that exist."""

    __slots__ = ("before_claim", "looks")

    before_claim: Callable[[], None]
    looks: int

    def __hash__(self) -> int:
        self.looks += 1
        if self.looks == 3:
            self.before_claim()
        return super().__hash__()


class Lock:
    """Tells that a thread has come to it; a lock that locks, or one that does not."""

    def __init__(self, *, locks: bool) -> None:
        self.arrived = threading.Semaphore(0)
        self._lock: AbstractContextManager[object] = threading.Lock() if locks else nullcontext()

    def __enter__(self) -> None:
        self.arrived.release()
        self._lock.__enter__()

    def __exit__(self, *ending: object) -> None:
        self._lock.__exit__(None, None, None)


@pytest.mark.parametrize("locks", [True, False])
def test_looking_and_claiming_is_one_step(*, locks: bool) -> None:
    """A second thread comes between both, and gets it without the lock, which is the control; catches two handlers."""
    log, lock = MemoryDeliveryLog(), Lock(locks=locks)
    log._lock = lock  # type: ignore[assignment]  # one that is watched
    states: list[str] = []
    ended = threading.Event()

    def claim_second() -> None:
        states.append(log.claim("dlv_1").state)
        ended.set()

    def let_second_come() -> None:
        other.start()
        for _ in range(2):  # the first one's arrival at the lock, and the second one's
            assert lock.arrived.acquire(timeout=30)
        assert locks or ended.wait(30)

    first = Id("dlv_1")
    first.looks, first.before_claim = 0, let_second_come
    other = threading.Thread(target=claim_second)
    states.append(log.claim(first).state)
    other.join()

    assert sorted(states) == (["busy", "mine"] if locks else ["mine", "mine"])


class BrokenLog(MemoryDeliveryLog):
    """A log that fails at one step."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def claim(self, delivery_id: str) -> Claim:
        """Ask, or fail."""
        return self._or_fail("claim", super().claim(delivery_id))

    def failed(self, delivery_id: str, token: str) -> None:
        """Give back, or fail."""
        self._or_fail("failed", super().failed(delivery_id, token))

    def done(self, delivery_id: str) -> None:
        """Remember, or fail."""
        self._or_fail("done", super().done(delivery_id))

    def _or_fail(self, step: str, result: T) -> T:
        if step == self._step:
            raise PerkamoDeliveryLogError(f"{step} failed")
        return result


@pytest.mark.anyio
async def test_a_log_that_fails_to_claim_fails_the_block() -> None:
    """Before it is run, with the log's own error, sync and async; catches an AttributeError of a claim that is not."""
    with pytest.raises(PerkamoDeliveryLogError, match="claim failed"):
        async with deduplicate(delivery(), BrokenLog("claim")):
            pytest.fail("entered")
    with pytest.raises(PerkamoDeliveryLogError, match="claim failed"), deduplicate(delivery(), BrokenLog("claim")):
        pytest.fail("entered")


@pytest.mark.anyio
async def test_a_log_that_fails_does_not_hide_why_the_handler_failed() -> None:
    """The handler's own error is raised, with a note; catches a shop's bug that reads as a full disk."""
    with pytest.raises(ZeroDivisionError) as caught:
        async with deduplicate(delivery(), BrokenLog("failed")):
            raise ZeroDivisionError

    assert caught.value.__notes__ == ["failed failed"]


class SlowLog(MemoryDeliveryLog):
    """Claims when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def claim(self, delivery_id: str) -> Claim:
        """Ask, late."""
        self.begun.set()
        self.go.wait(30)
        return super().claim(delivery_id)


def test_a_claim_that_nobody_waits_for_any_more_is_given_back() -> None:
    """A cancel of asyncio leaves the thread alone; catches a delivery that stays busy for ever."""
    log = SlowLog()

    async def enter() -> None:
        async with deduplicate(delivery(), log):
            pytest.fail("cancelled before")

    async def cancel() -> None:
        task = asyncio.create_task(enter())
        await asyncio.to_thread(log.begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        log.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    assert handle(log)


def test_the_memory_forgets_the_oldest_first() -> None:
    """It is bounded; catches one that grows for ever, or drops the latest."""
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
    mount = f'mount -t tmpfs -o size=128k none {tmp_path} || exit 77; exec "$@"'
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
        "False True {} The delivery was not handled; answer with status 503. Its claim stays until its lease ends, ",
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
    """After the lease, not before; catches a delivery that a dead process keeps for ever."""
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


@pytest.mark.parametrize("error", [PerkamoDeliveryBusyError, PerkamoDeliveryLogError, PerkamoWebhookError])
def test_an_error_is_made_again_from_its_message(error: type[PerkamoError]) -> None:
    """As a task queue with JSON results does; catches a message that is wrapped once more, or a TypeError."""
    again = error(*error("Something happened.").args)

    assert str(again) == "Something happened."
