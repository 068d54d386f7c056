"""Each delivery is handled once: repetitions, failures, races, and logs that fail."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import anyio
import pytest

from perkamo import PerkamoError
from perkamo.webhooks import (
    Claim,
    DeliveryLog,
    MemoryDeliveryLog,
    PerkamoDeliveryBusyError,
    PerkamoDeliveryLogError,
    PerkamoWebhookError,
    deduplicate,
)
from tests.webhooks.once import delivery, handle

T = TypeVar("T")


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
    """A cancel of asyncio leaves the thread alone; catches a delivery that stays busy forever."""
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


@pytest.mark.parametrize("error", [PerkamoDeliveryBusyError, PerkamoDeliveryLogError, PerkamoWebhookError])
def test_an_error_is_made_again_from_its_message(error: type[PerkamoError]) -> None:
    """As a task queue with JSON results does; catches a message that is wrapped once more, or a TypeError."""
    again = error(*error("Something happened.").args)

    assert str(again) == "Something happened."
