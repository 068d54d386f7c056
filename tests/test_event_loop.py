"""loops: from a thread into whichever event loop is running."""

import asyncio
import threading

import anyio
import pytest
import trio

from perkamo.event_loop import caller_into_loop


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
