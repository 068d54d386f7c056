"""webhooks: a delivery is handled once, whoever repeats it and whoever dies."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from perkamo import PerkamoConfigurationError
from perkamo.webhooks import (
    Claim,
    DeliveryLog,
    MemoryDeliveryLog,
    PerkamoDeliveryBusyError,
    PerkamoDeliveryLogError,
    SqliteDeliveryLog,
    WebhookDelivery,
    deduplicate,
)
from tests.webhooks.samples import HEADERS, body

ROOT = Path(__file__).parent.parent.parent


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


def test_of_many_threads_one_gets_it(log: DeliveryLog) -> None:
    """Twenty at once; catches a look and a claim in two steps."""
    found: list[bool | None] = []
    together = threading.Barrier(20)

    def race() -> None:
        together.wait()
        try:
            found.append(handle(log))
        except PerkamoDeliveryBusyError:
            found.append(None)

    threads = [threading.Thread(target=race) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(found), found.count(True)) == (20, 1)


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


def test_a_late_handler_does_not_release_another_ones_claim(tmp_path: Path) -> None:
    """Its lease ended and another has it; catches a release without its token."""
    log = SqliteDeliveryLog(tmp_path / "deliveries.db", lease=0.01)
    first = log.claim("dlv_1")
    time.sleep(0.02)
    long = SqliteDeliveryLog(tmp_path / "deliveries.db")
    second = long.claim("dlv_1")

    log.failed("dlv_1", first.token)

    assert (first.state, second.state, long.claim("dlv_1").state) == ("mine", "mine", "busy")


def test_a_handled_delivery_is_forgotten_after_its_time(tmp_path: Path) -> None:
    """The file does not grow for ever; catches rows that nothing removes."""
    log = SqliteDeliveryLog(tmp_path / "deliveries.db", keep=0.01)
    log.claim("dlv_1")
    log.done("dlv_1")
    time.sleep(0.02)

    assert log.claim("dlv_1").state == "mine"


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
        time.sleep(0.02)
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
