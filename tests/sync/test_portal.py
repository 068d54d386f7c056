"""portal: the loop thread behind the sync clients, in one process. What needs real processes is in tests/processes."""

import asyncio
import contextvars
import ctypes
import gc
import resource
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio

from perkamo import PerkamoClosedError, PerkamoError
from perkamo.sync.call import Call
from perkamo.sync.loop_thread import LoopThread
from perkamo.sync.portal import Portal, finalize_soon, run

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
        try:
            run(fail_with_something_big)
        except ValueError as error:
            message = str(error)
        assert freed == ["freed"]
    finally:
        gc.enable()
    assert "Big" in message


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


def test_calls_from_worker_threads_of_other_loops_work() -> None:
    """An anyio worker thread and a task under another portal may call; catches a false warning or a deadlock."""

    async def main() -> object:
        return await anyio.to_thread.run_sync(lambda: run(echo, 1))

    assert anyio.run(main) == 1
    with anyio.from_thread.start_blocking_portal() as other:
        assert other.call(lambda: anyio.to_thread.run_sync(lambda: run(echo, 2))) == 2


def test_a_finalizer_may_leave_work_to_the_loop() -> None:
    """It returns at once and its errors are dropped; catches a finalizer that waits."""
    done = threading.Event()

    async def work() -> None:
        await anyio.sleep(0.01)
        done.set()
        raise ValueError("dropped")

    assert run(echo, 0) == 0  # the loop has begun, whichever test ran before
    finalize_soon(work)

    assert done.wait(10)
    assert run(echo, 1) == 1


def signal_when_waiting() -> None:
    """Interrupt the main thread as soon as it waits for its call."""
    main = threading.main_thread().ident or 0
    while sys._current_frames()[main].f_code.co_name != Call.wait_for.__name__:
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGINT)


@pytest.fixture
def portal() -> Iterator[Portal]:
    """A portal of the test's own, which has not begun."""
    portal = Portal()
    yield portal
    portal.stop()


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
    call = Call(thread, note)
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


def refuse_threads(patch: pytest.MonkeyPatch) -> None:
    """Let no thread start, as where the system has none left."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", refuse)


def refuse_files(_: pytest.MonkeyPatch) -> None:
    """Let no file be opened in this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("refuse", [refuse_threads, refuse_files])
def test_a_loop_that_can_t_start_is_a_typed_error_and_leaks_nothing(
    refuse: Callable[[pytest.MonkeyPatch], None], portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of threads or files, nothing was sent and a later call works; catches a bare error and an open loop."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with monkeypatch.context() as patch:
            refuse(patch)
            with pytest.raises(PerkamoError, match=r"can't start.*Nothing was sent") as caught:
                portal.run(echo, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    told = (caught.value.outcome, caught.value.retryable)
    del caught
    gc.collect()  # a loop that nobody closed warns now, which fails this test

    assert told == ("not_sent", True)
    assert portal.run(echo, 1) == 1


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
        error = pool.submit(Call(thread, note).run).exception(10)

    assert isinstance(error, PerkamoClosedError)
    assert (error.outcome, called) == ("not_sent", [])
    assert "Nothing was sent" in str(error)


def test_a_loop_policy_of_the_application_is_not_asked(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """One may want its own thread, as those of GUI toolkits do; catches a loop that is not asyncio's own."""

    def refuse() -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)

    assert portal.run(echo, 1) == 1


def test_a_finalizer_may_call_while_the_loop_is_being_started(portal: Portal) -> None:
    """The collector may run one in the midst of anything; catches a lock that its own holder waits for."""
    results: list[object] = []

    def call() -> None:
        with portal._lock:
            results.append(portal.run(echo, 1))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)

    assert results == [1]


def test_a_caller_s_note_of_another_library_is_not_taken_over() -> None:
    """A caller that says it runs on trio gets asyncio's calls all the same; catches anyio asking trio in the loop."""

    def call() -> object:
        sniffio.current_async_library_cvar.set("trio")
        return run(echo, 1, after=0.001)

    assert contextvars.copy_context().run(call) == 1


def test_a_call_into_a_loop_that_has_ended_was_not_sent() -> None:
    """The error says so at once; catches a caller who waits for a loop that is gone, or fears for an event."""
    thread = LoopThread()
    thread.wait_until_started()
    thread.stop()

    with pytest.raises(PerkamoClosedError, match="Nothing was sent") as caught:
        Call(thread, lambda: echo(1)).run()

    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize(("begun", "outcome"), [(True, "unknown"), (False, "not_sent")])
def test_a_forked_child_does_not_wait_for_its_parents_call(*, begun: bool, outcome: str) -> None:
    """Whether it may have been applied depends on whether it had begun; catches an event sent twice, or never."""
    thread = LoopThread()
    thread.wait_until_started()
    has_begun = threading.Event()

    async def stay() -> None:
        has_begun.set()
        await anyio.sleep_forever()

    call = Call(thread, stay)
    if begun:
        call.begin()
        assert has_begun.wait(30)
    parent, thread.pid = thread.pid, -1
    try:
        with pytest.raises(PerkamoError, match="started before the process was forked") as caught:
            call.wait()
    finally:
        thread.pid = parent
        thread.stop()

    assert caught.value.outcome == outcome
