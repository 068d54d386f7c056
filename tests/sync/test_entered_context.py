"""entered_context: an async context manager that sync code enters and leaves."""

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import anyio
import pytest

from perkamo import PerkamoClosedError
from perkamo.sync.portal import Portal, run, wrap_async_context_manager


async def echo(value: object) -> object:
    """Return the value."""
    return value


def test_a_context_manager_lives_in_one_task() -> None:
    """A task group that is entered in one call may be left in another; catches anyio's 'different task' error."""

    @asynccontextmanager
    async def group() -> AsyncIterator[list[str]]:
        log: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            yield log
        log.append("left")

    manager = wrap_async_context_manager(group())
    with manager as log:
        assert log == []

    assert log == ["left"]


def test_a_context_manager_may_refuse_to_be_entered_or_swallow() -> None:
    """Errors of entering reach the caller, and leaving tells whether it swallowed; catches a task nobody asks."""

    @asynccontextmanager
    async def refusing() -> AsyncIterator[None]:
        raise ValueError("no")
        yield

    @asynccontextmanager
    async def swallowing() -> AsyncIterator[int]:
        try:
            yield 7
        except KeyError:
            return

    with pytest.raises(ValueError, match="no"), wrap_async_context_manager(refusing()):
        pass
    with wrap_async_context_manager(swallowing()) as value:
        raise KeyError("k")
    assert value == 7
    error = OSError("o")
    with pytest.raises(OSError, match="o") as caught, wrap_async_context_manager(swallowing()):
        raise error
    assert caught.value is error


class Slow:
    """A context manager that is slow to enter or to leave, and tells what happened to it."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.log: list[str] = []
        self.left = threading.Event()
        self.waiting = threading.Event()

    async def wait(self, step: str) -> None:
        """Wait in the slow step, until cancelled."""
        if step == self.slow:
            self.waiting.set()
            try:
                await anyio.sleep(30)
            except asyncio.CancelledError:
                self.log.append(f"{step} cancelled")
                raise

    async def __aenter__(self) -> str:
        await self.wait("entering")
        return "entered"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.append(f"leaving, {kind and kind.__name__}")
        self.left.set()
        await self.wait("leaving")


def interrupt_when(waiting: threading.Event) -> threading.Thread:
    """Send this process SIGINT as soon as something waits."""

    def send() -> None:
        assert waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("slow", "log"), [("entering", ["entering cancelled"]), ("leaving", ["leaving, None", "leaving cancelled"])]
)
def test_ctrl_c_cancels_entering_and_leaving(slow: str, log: list[str]) -> None:
    """The step under way is cancelled in the task that makes it; catches a context manager that goes on unseen."""
    manager = Slow(slow)

    sender = interrupt_when(manager.waiting)
    with pytest.raises(KeyboardInterrupt), wrap_async_context_manager(manager):
        pass
    sender.join()

    assert manager.log == log
    assert run(echo, 1) == 1


def test_a_keyboard_interrupt_of_the_block_reaches_the_manager_and_ends_no_loop() -> None:
    """What ends the block may be raised again by the manager; catches an interrupt that ends the loop's thread."""

    class Raising(Slow):
        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None:
            assert error is not None
            raise error

    error = KeyboardInterrupt("of the block")
    run(echo, 1)
    before = [thread for thread in threading.enumerate() if thread.name == "perkamo-portal"]

    with pytest.raises(KeyboardInterrupt) as caught, wrap_async_context_manager(Raising("never")):
        raise error

    assert caught.value is error
    assert run(echo, 1) == 1
    assert [thread for thread in threading.enumerate() if thread.name == "perkamo-portal"] == before


def test_a_manager_that_the_exit_cuts_off_is_left_as_cancelled() -> None:
    """It is told that its block did not end in order; catches a batcher that waits for emits as if all were well."""
    portal = Portal()
    manager = Slow("never")
    entered = portal.wrap_async_context_manager(manager)
    entered.__enter__()

    portal.stop()

    with pytest.raises(PerkamoClosedError) as caught:
        entered.__exit__(None, None, None)
    assert caught.value.outcome == "unknown"
    assert manager.log == ["leaving, CancelledError"]


def test_what_nobody_can_leave_any_more_is_left_and_complained_about() -> None:
    """A held manager that is dropped is left in the background; catches a task that stays forever."""
    manager = Slow("never")

    with pytest.warns(ResourceWarning, match="Slow was entered and never left; use it with 'with'"):
        wrap_async_context_manager(manager).__enter__()

    assert manager.left.wait(10)


def test_an_error_of_entering_leaves_no_cycle_behind() -> None:
    """A failed manager is freed at once; catches an error that is kept by the task which raised it."""

    class Failing(Slow):
        async def __aenter__(self) -> str:
            raise ValueError("no")

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="no"), wrap_async_context_manager(Failing("never")):
            pass
        gone = not any(type(one) is Failing for one in gc.get_objects())  # isinstance() would wake lazy objects
    finally:
        gc.enable()

    assert gone
