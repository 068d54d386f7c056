"""Ways to cancel a call, and to cancel it at every point."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from perkamo.transport.transport import Transport
from tests.faults.rawserver import RawServer
from tests.transport.pool import HELD, GivenTransport, ask, assert_sound, echo, state, stepping

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
Cancel = Callable[[], object]
Call = Callable[[Cancel], Coroutine[Any, Any, None]]
Way = Callable[[Call], Coroutine[Any, Any, None]]


async def by_scope(call: Call) -> None:
    """Cancel a scope of anyio's, or of trio's."""
    with anyio.CancelScope() as scope:
        await call(scope.cancel)


async def by_task(call: Call) -> None:
    """Cancel the task at the very point."""

    async def run() -> None:
        await call(task.cancel)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


async def by_task_soon(call: Call) -> None:
    """Cancel the task one round of the event loop later, when what it waits for may have come."""

    async def run() -> None:
        await call(lambda: asyncio.get_running_loop().call_soon(task.cancel))

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


async def by_timeout(call: Call) -> None:
    """Let ``asyncio.timeout`` run out."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as timeout:
            await call(lambda: timeout.reschedule(loop.time()))
    except TimeoutError:
        assert timeout.expired()


async def cancel_at(way: Way, situation: str, point: int, transport: Transport, url: str) -> bool:
    """Make a call and cancel it at its suspension point of that number; return whether it has so many."""
    reached = 0
    queued = anyio.Event()

    def suspended(number: int, cancel: Cancel) -> None:
        nonlocal reached
        reached = number
        if number == point:
            cancel()
        if number == 1:
            assert bool(state(transport).waiting) is (situation == "queued")
            queued.set()

    async def call(cancel: Cancel) -> None:
        got = await stepping(ask(client, url, "mine"), lambda number: suspended(number, cancel))
        assert got == "mine"

    async with httpx.AsyncClient(transport=Borrowed(transport), timeout=20) as client:
        if situation != "cold":
            assert await ask(client, url, "warm") == "warm"
        if situation != "queued":
            await way(call)
        else:
            async with (
                client.stream("POST", url, content=HELD) as holder,
                anyio.create_task_group() as group,
            ):
                group.start_soon(way, call)
                await queued.wait()
                await holder.aread()
        await assert_sound(transport, client, url)
    return reached >= point


class Borrowed(httpx.AsyncBaseTransport):
    """A transport that stays open when the client over it is closed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Hand a request on."""
        return await self._transport.handle_async_request(request)


async def cancel_everywhere(way: Way, situation: str, **options: Any) -> int:
    """Cancel calls at their 1st, 2nd, … suspension point until they have no more; return how many they have."""
    with RawServer(echo) as server:
        return await cancel_everywhere_at(way, situation, server.base_url, **options)


async def cancel_everywhere_at(way: Way, situation: str, url: str, **options: Any) -> int:
    """The same against a server that runs, over transports with these options."""
    point = 1
    while True:
        transport = GivenTransport(max_connections=1 if situation == "queued" else 3, **options)
        try:
            more = await cancel_at(way, situation, point, transport, url)
        finally:
            await transport.aclose()
        if not more:
            return point - 1
        point += 1


WAYS = [
    ("asyncio", by_scope),
    ("trio", by_scope),
    ("asyncio", by_task),
    ("asyncio", by_task_soon),
    ("asyncio", by_timeout),
]
