"""portal: the loop thread behind the sync clients, in one process. What needs real processes is in tests/processes."""

import asyncio
import contextvars
import ctypes
import gc
import signal
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from perkamo import PerkamoAsyncUsageWarning, PerkamoError
from perkamo.portal import Held, iterate, later, run

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def echo(value: object, *, after: float = 0) -> object:
    """Return the value, a little later."""
    await anyio.sleep(after)
    return value


async def fail(error: BaseException) -> None:
    """Raise."""
    raise error


def test_a_call_returns_what_its_coroutine_returns() -> None:
    """Arguments go in, the result comes out; catches a lost keyword."""
    assert run(echo, 5, after=0.001) == 5


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("k"), SystemExit(3), KeyboardInterrupt()])
def test_a_call_raises_what_its_coroutine_raises(error: BaseException) -> None:
    """The very error arrives, and the loop lives on; catches a SystemExit that ends the loop's thread."""
    with pytest.raises(type(error)) as caught:
        run(fail, error)

    assert caught.value is error
    assert run(echo, 1) == 1


def test_an_error_leaves_no_cycle_behind() -> None:
    """What a failed call held is freed at once; catches a frame that keeps its own error alive."""

    class Big:
        pass

    freed: list[str] = []

    async def fail_with_something_big() -> None:
        big = Big()
        weakref.finalize(big, freed.append, "freed")
        raise ValueError(big)

    gc.disable()
    try:
        with suppress(ValueError):
            run(fail_with_something_big)
        assert freed == ["freed"]
    finally:
        gc.enable()


def test_the_caller_s_context_is_seen_and_not_changed() -> None:
    """Context variables of the calling thread are visible; catches a task made in the loop's own context."""

    async def look() -> str:
        seen = variable.get()
        variable.set("changed inside")
        return seen

    variable.set("of the caller")

    assert run(look) == "of the caller"
    assert variable.get() == "of the caller"


def test_threads_wait_for_their_own_results() -> None:
    """1,000 calls of 32 threads get their own values; catches results that cross."""
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda n: run(echo, n, after=0.001), range(1000)))

    assert results == list(range(1000))
    assert len([thread for thread in threading.enumerate() if thread.name == "perkamo-portal"]) == 1


def test_ctrl_c_cancels_the_call_and_the_next_one_works() -> None:
    """SIGINT raises KeyboardInterrupt at once and cancels the coroutine; catches a request that runs on."""
    ended: list[str] = []

    async def slow() -> None:
        try:
            await anyio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(slow)
    took = time.monotonic() - began
    timer.join()

    assert took < 5
    assert ended == ["cancelled"]
    assert run(echo, 1) == 1


def test_an_exception_set_on_a_waiting_thread_cancels_the_call() -> None:
    """PyThreadState_SetAsyncExc wakes a waiting thread; catches a wait that only its answer ends."""
    ended: list[str] = []
    waiting = threading.Event()

    class StopError(Exception):
        pass

    async def slow() -> None:
        waiting.set()
        try:
            await anyio.sleep(30)
        finally:
            ended.append("cancelled")

    def call() -> None:
        try:
            run(slow)
        except StopError:
            ended.append("raised")

    thread = threading.Thread(target=call)
    thread.start()
    assert waiting.wait(10)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(StopError))
    thread.join(10)

    assert ended == ["cancelled", "raised"]


def test_a_call_in_the_loop_s_own_thread_is_refused_at_once() -> None:
    """A sync call inside a coroutine of the portal raises; catches the deadlock."""

    async def nested() -> object:
        return run(echo, 1)

    with pytest.raises(PerkamoError, match="inside the event loop that serves it"):
        run(nested)


class AsyncEchoClient:
    """A small async class, as the generated twins stand on."""

    async def echo(self, value: object) -> object:
        """Return the value."""
        return value

    async def echoes(self, value: object) -> AsyncIterator[object]:
        """Yield the value."""
        yield value

    @asynccontextmanager
    async def echoing(self, value: object) -> AsyncIterator[object]:
        """Hold the value."""
        yield value

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


def hold(manager: AbstractAsyncContextManager[object, bool | None]) -> object:
    """Enter and leave."""
    held = Held(manager)
    held.leave(None, None, None)
    return held.value


WAYS: dict[str, tuple[Callable[[AsyncEchoClient], object], str]] = {
    "a call": (lambda client: run(client.echo, 1), "'await client.echo(...)' on AsyncEchoClient"),
    "an iteration": (lambda client: list(iterate(client.echoes(1))), "'async for ... in client.echoes(...)'"),
    "a method that is a context manager": (lambda client: hold(client.echoing(1)), "'async with client.echoing(...)'"),
    "an object that is a context manager": (hold, "'async with client' on AsyncEchoClient"),
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_inside_a_running_loop_works_and_warns_once_per_line(
    backend: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning names the line to write and stands on the caller's file; catches silence, and a flood."""
    monkeypatch.setattr("perkamo.misuse._warned", set())
    call, line = WAYS[way]

    async def main() -> list[object]:
        return [call(AsyncEchoClient()) for _ in range(3)]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = anyio.run(main, backend=backend)

    assert results in ([1, 1, 1], [[1], [1], [1]], ["entered"] * 3)
    assert {type(one.message) for one in caught} == {PerkamoAsyncUsageWarning}
    assert len({(one.filename, one.lineno) for one in caught}) == len(caught)
    assert line in str(caught[0].message)
    assert {one.filename for one in caught} == {__file__}


def test_a_warning_that_is_an_error_is_raised_each_time_and_nothing_is_called() -> None:
    """Under -W error the line never gets through; catches a second call that slips by because the first was noted."""
    called: list[str] = []

    async def note() -> None:
        called.append("called")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(PerkamoAsyncUsageWarning):
                run(note)

    anyio.run(main)

    assert called == []


def test_calls_from_worker_threads_of_other_loops_work() -> None:
    """An anyio worker thread and a task under another portal may call; catches a false warning or a deadlock."""

    async def main() -> object:
        return await anyio.to_thread.run_sync(lambda: run(echo, 1))

    assert anyio.run(main) == 1
    with anyio.from_thread.start_blocking_portal() as other:
        assert other.call(lambda: anyio.to_thread.run_sync(lambda: run(echo, 2))) == 2


def test_an_iterator_takes_a_step_at_a_time_and_closes() -> None:
    """Nothing is fetched ahead, and breaking off closes the async side; catches a queue, and a leak."""
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(5):
                seen.append(f"made {n}")
                yield n
        finally:
            seen.append("closed")

    for n in iterate(numbers()):
        if n == 1:
            break
    gc.collect()

    assert seen == ["made 0", "made 1", "closed"]
    assert list(iterate(numbers())) == [0, 1, 2, 3, 4]


def test_a_context_manager_lives_in_one_task() -> None:
    """A task group that is entered in one call may be left in another; catches anyio's 'different task' error."""

    @asynccontextmanager
    async def group() -> AsyncIterator[list[str]]:
        log: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            yield log
        log.append("left")

    held = Held(group())
    swallowed = held.leave(None, None, None)

    assert held.value == ["left"]
    assert swallowed is False


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

    with pytest.raises(ValueError, match="no"):
        Held(refusing())
    held = Held(swallowing())
    error = KeyError("k")
    assert held.value == 7
    assert held.leave(KeyError, error, None) is True
    assert Held(swallowing()).leave(OSError, OSError("o"), None) is False


def test_a_finalizer_may_leave_work_to_the_loop() -> None:
    """later() returns at once and its errors are dropped; catches a finalizer that waits."""
    done = threading.Event()

    async def work() -> None:
        await anyio.sleep(0.01)
        done.set()
        raise ValueError("dropped")

    later(work)

    assert done.wait(10)
    assert run(echo, 1) == 1
