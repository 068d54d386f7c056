"""event_loop: from a thread into whichever event loop is running."""

import asyncio
import threading

import anyio
import pytest
import trio

from perkamo.runtime.event_loop import DetachedTaskGroup, caller_into_loop


async def wakes_from_a_thread() -> str:
    """Wait for an event that another thread sets."""
    event = anyio.Event()
    thread = threading.Thread(target=caller_into_loop(), args=(event.set,))
    thread.start()
    with anyio.fail_after(20):
        await event.wait()
    thread.join()
    return "woken"


@pytest.mark.anyio
async def test_a_task_is_woken_from_a_thread() -> None:
    """On asyncio and trio; catches a loop that sleeps on because nobody told it."""
    assert await wakes_from_a_thread() == "woken"


@pytest.mark.anyio
async def test_a_detached_task_group_is_entered_and_left_by_different_tasks() -> None:
    """Its tasks are waited for at the end; catches "cancel scope in a different task", as async fixtures make it."""
    group = DetachedTaskGroup()
    done: list[str] = []

    async def enter() -> None:
        tasks = await group.__aenter__()
        tasks.start_soon(work)

    async def work() -> None:
        await anyio.sleep(0.01)
        done.append("work")

    async def leave() -> None:
        await group.__aexit__(None, None, None)
        done.append("left")

    for step in (enter, leave):
        async with anyio.create_task_group() as steps:
            steps.start_soon(step)

    assert done == ["work", "left"]


@pytest.mark.anyio
async def test_a_task_that_fails_in_a_detached_group_fails_its_end() -> None:
    """Not the block, and with all others cancelled; catches a failure that nobody sees, and a wait without an end."""
    reached: list[bool] = []

    async def fail() -> None:
        raise ZeroDivisionError

    async def block() -> None:
        async with DetachedTaskGroup() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            reached.append(True)

    with anyio.fail_after(20), pytest.raises(ExceptionGroup) as caught:
        await block()

    assert (reached, [type(one) for one in caught.value.exceptions]) == ([True], [ZeroDivisionError])


@pytest.mark.anyio
async def test_leaving_a_detached_group_may_be_cancelled() -> None:
    """Its tasks are cancelled with it and have ended before it goes on; catches a task that outlives its block."""
    ended: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.move_on_after(0.01) as scope:
        async with DetachedTaskGroup() as tasks:
            tasks.start_soon(work)

    assert (scope.cancelled_caught, ended) == (True, [True])


@pytest.mark.anyio
async def test_entering_a_detached_group_may_be_cancelled() -> None:
    """No task is left behind; catches one that holds the group for as long as the loop runs."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with DetachedTaskGroup():
            pytest.fail("entered")
    await anyio.wait_all_tasks_blocked()

    assert [task.name for task in anyio.get_running_tasks() if "_hold" in str(task.name)] == []


async def host() -> str:
    """Run trio as a guest in this loop of asyncio."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()
    trio.lowlevel.start_guest_run(
        wakes_from_a_thread,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=lambda outcome: ended.set_result(outcome.unwrap()),
    )
    return await asyncio.wait_for(ended, 30)


def test_trio_as_a_guest_is_called_and_not_its_host() -> None:
    """Asyncio's loop is running there, too; catches trio's objects being touched from outside of trio."""
    assert asyncio.run(host()) == "woken"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_has_ended_is_left_in_peace(backend: str) -> None:
    """A thread may be late; catches a RuntimeError in a thread that nobody watches."""
    called: list[str] = []

    async def make() -> object:
        return caller_into_loop()

    call = anyio.run(make, backend=backend)
    assert callable(call)
    call(lambda: called.append("late"))

    assert called == []


@pytest.mark.anyio
async def test_it_is_called_in_the_loop_of_its_maker() -> None:
    """Not in the thread that calls; catches a function that touches a loop's objects from outside."""
    here = threading.get_ident()
    places: list[int] = []
    done = anyio.Event()
    call = caller_into_loop()

    def note() -> None:
        places.append(threading.get_ident())
        done.set()

    await anyio.to_thread.run_sync(call, note)
    with anyio.fail_after(20):
        await done.wait()

    assert places == [here]
