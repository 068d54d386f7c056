"""The thread in which synchronous calls run: results, errors and loops that come and go."""

import asyncio
import contextvars
import gc
import resource
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio

from perkamo import PerkamoClosedError, PerkamoError
from perkamo.sync.call import LoopCall
from perkamo.sync.loop_thread import LoopThread
from perkamo.sync.portal import Portal, finalize_soon, run
from tests.sync.portal import echo, fail

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


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


def test_a_loop_policy_of_the_application_is_not_asked(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """One may want its own thread, as those of GUI toolkits do; catches a loop that is not asyncio's own."""

    def refuse() -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)

    assert portal.run(echo, 1) == 1


def test_a_finalizer_may_call_while_the_loop_is_being_started(portal: Portal) -> None:
    """The collector may run one in the middle of anything; catches a lock that its own holder waits for."""
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
        LoopCall(thread, lambda: echo(1)).run()

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

    call = LoopCall(thread, stay)
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
