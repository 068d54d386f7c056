"""Waiting for what comes about in other threads, tasks and processes, without a guess at how long that takes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, half a minute at most."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - it comes about in places that know no events of ours
            await anyio.sleep(0.002)


@asynccontextmanager
async def cancelled_once(condition: Callable[[], object]) -> AsyncIterator[anyio.CancelScope]:
    """Cancel the block as soon as something is so, and not after a time in which a busy machine may not get there."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            await until(condition)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        yield tasks.cancel_scope
