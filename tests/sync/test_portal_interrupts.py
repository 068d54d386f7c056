"""Synchronous calls that are interrupted, cancelled, or cut off by the interpreter's exit."""

import asyncio
import ctypes
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from perkamo import PerkamoClosedError
from perkamo.sync.call import LoopCall
from perkamo.sync.loop_thread import LoopThread
from perkamo.sync.portal import Portal, run
from tests.sync.portal import echo, fail


def test_ctrl_c_cancels_the_call_and_the_next_one_works() -> None:
    """SIGINT raises KeyboardInterrupt at once and cancels the coroutine; catches a request that runs on."""
    ended: list[str] = []
    waiting = threading.Event()

    async def slow() -> None:
        waiting.set()
        try:
            await anyio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def interrupt() -> None:
        assert waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(slow)
    took = time.monotonic() - began
    sender.join()

    assert took < 20
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


def signal_when_waiting() -> None:
    """Interrupt the main thread as soon as it waits for its call."""
    main = threading.main_thread().ident or 0
    while sys._current_frames()[main].f_code.co_name != LoopCall.wait_for.__name__:
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGINT)


def test_an_interrupt_does_not_wait_for_what_refuses_to_end() -> None:
    """Ctrl-C goes on while the coroutine still unwinds; catches a wait without a bound."""
    waiting, unwinding, over = threading.Event(), threading.Event(), threading.Event()

    async def stubborn() -> None:
        waiting.set()
        try:
            await anyio.sleep(30)
        finally:
            with anyio.CancelScope(shield=True):
                unwinding.set()
                await anyio.to_thread.run_sync(over.wait)

    def interrupt() -> None:
        assert waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    timer = threading.Timer(20, over.set)  # or a bug would hang this test
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(stubborn)
    still_unwinding = not over.is_set()
    over.set()
    timer.cancel()
    sender.join()

    assert unwinding.is_set()
    assert still_unwinding


def test_an_interrupt_before_a_call_began_goes_on_at_once() -> None:
    """Ctrl-C while the loop is busy: nobody waits for a call that never begins; catches the call that then runs."""
    busy, go_on = threading.Event(), threading.Event()
    called: list[str] = []

    async def block_the_loop() -> None:
        busy.set()
        assert go_on.wait(20)

    async def note() -> None:
        called.append("called")

    with ThreadPoolExecutor(2) as pool:
        blocker = pool.submit(run, block_the_loop)
        assert busy.wait(10)
        pool.submit(signal_when_waiting)
        with pytest.raises(KeyboardInterrupt):
            run(note)
        was_busy = not blocker.done()
        go_on.set()
        blocker.result(10)

    assert was_busy
    assert run(echo, 1) == 1
    assert called == []


def test_a_call_that_was_given_up_before_it_began_is_done() -> None:
    """Whoever waits for it to unwind need not; catches a grace that is waited out although nothing can unwind."""
    go_on = threading.Event()
    called: list[str] = []

    async def note() -> None:
        called.append("called")

    thread = LoopThread()
    thread.wait_until_started()
    call = LoopCall(thread, note)
    thread.call_soon(lambda: go_on.wait(10))
    call.begin()
    call.give_up()
    go_on.set()

    assert call.wait(10)
    assert called == []
    thread.stop()


def test_a_cancellation_from_elsewhere_is_no_exit() -> None:
    """A call whose own coroutine is cancelled raises just that; catches a message about the interpreter's exit."""

    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(30))
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancelled)


def test_a_task_of_the_caller_that_raises_system_exit_ends_no_loop(portal: Portal) -> None:
    """Others' calls go on in the same loop; catches a loop's thread that a background task can end."""

    async def leave_a_task() -> asyncio.Task[None]:
        return asyncio.create_task(fail(SystemExit(3)))

    async def see(task: asyncio.Task[None]) -> object:
        await asyncio.wait([task])
        return type(task.exception())

    task = portal.run(leave_a_task)

    assert portal.run(see, task) is SystemExit


def test_a_call_that_the_exit_cut_off_says_that_it_may_have_been_applied(portal: Portal) -> None:
    """It unwinds, and its outcome is unknown; catches a task that is just left, and the claim that nothing was sent."""
    waiting, unwound = threading.Event(), threading.Event()

    async def slow() -> None:
        waiting.set()
        try:
            await anyio.sleep(30)
        finally:
            unwound.set()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(portal.run, slow)
        assert waiting.wait(10)
        portal.stop()
        error = call.exception(10)

    assert isinstance(error, PerkamoClosedError)
    assert error.outcome == "unknown"
    assert "may have been applied" in str(error)
    assert unwound.is_set()


def test_an_error_that_is_raised_while_the_exit_cuts_a_call_off_is_the_call_s(portal: Portal) -> None:
    """What the call says itself is more than that it was cancelled; catches an answer in hand that is thrown away."""
    waiting = threading.Event()

    async def slow() -> None:
        waiting.set()
        try:
            await anyio.sleep(30)
        finally:
            raise ValueError("refused")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(portal.run, slow)
        assert waiting.wait(10)
        portal.stop()
        error = call.exception(10)

    assert repr(error) == "ValueError('refused')"


def test_a_call_that_the_exit_overtook_says_that_nothing_was_sent() -> None:
    """Its turn comes when the loop is ending already; catches the word that it may have been applied."""
    called: list[str] = []

    async def note() -> None:
        called.append("called")

    def until_both_wait() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.SelectorEventLoop)
        while len(loop._ready) < 2:  # type: ignore[attr-defined]  # what else tells that both are on their way?
            time.sleep(0.001)

    thread = LoopThread()
    thread.wait_until_started()
    with ThreadPoolExecutor(1) as pool:
        thread.call_soon(until_both_wait)
        thread.call_soon(thread._stop.set)
        error = pool.submit(LoopCall(thread, note).run).exception(10)

    assert isinstance(error, PerkamoClosedError)
    assert (error.outcome, called) == ("not_sent", [])
    assert "Nothing was sent" in str(error)
