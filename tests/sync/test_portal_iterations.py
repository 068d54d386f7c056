"""portal.iterate: a sync iterator over an async one."""

import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import anyio
import pytest

from perkamo import PerkamoError
from perkamo.sync.portal import Portal, iterate, run


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


class Endless:
    """An async iterator that closes at once or never."""

    def __init__(self, *, closes: bool) -> None:
        self.closes = closes
        self.closed = threading.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        return 1

    async def aclose(self) -> None:
        """Close."""
        if not self.closes:
            await anyio.sleep_forever()
        self.closed.set()


@pytest.fixture
def portal(request: pytest.FixtureRequest) -> Iterator[Portal]:
    """A portal whose iterators wait for so many seconds until they are closed."""
    portal = Portal(closing_seconds=request.param)
    yield portal
    portal.stop()


@pytest.mark.parametrize("portal", [20], indirect=True)
def test_an_iterator_that_the_loop_s_own_thread_drops_is_closed_without_waiting(portal: Portal) -> None:
    """The collector may run anywhere; catches a loop that waits for itself."""
    endless = Endless(closes=True)
    steps = [portal.iterate(endless)]
    next(steps[0])

    async def drop() -> None:
        steps.clear()

    threading.Thread(target=portal.run, args=(drop,), daemon=True).start()

    assert endless.closed.wait(10)


@pytest.mark.parametrize("portal", [0.05], indirect=True)
def test_an_iterator_that_does_not_close_holds_nobody_up(portal: Portal) -> None:
    """Breaking off waits a moment only; catches a garbage collection that hangs."""
    over = threading.Event()

    def break_off() -> None:
        steps = portal.iterate(Endless(closes=False))
        next(steps)
        del steps
        over.set()

    threading.Thread(target=break_off, daemon=True).start()

    assert over.wait(10)


def test_a_step_in_the_loop_s_own_thread_is_refused_at_once() -> None:
    """Each step is checked, not the first alone; catches the deadlock."""
    steps = iterate(Endless(closes=True))
    next(steps)

    async def step() -> int:
        return next(steps)

    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(run, step).exception(10)

    assert isinstance(error, PerkamoError)
    assert "inside the event loop that serves it" in str(error)
