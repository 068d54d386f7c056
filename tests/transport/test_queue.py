"""connections: whoever waits longest is served first, and a crowd costs no more per call (F52)."""

import sys
from collections.abc import AsyncIterator
from types import FrameType

import anyio
import httpx
import pytest

from perkamo.transport.transport import Transport
from tests.canary import PACKAGE
from tests.faults.rawserver import RawServer
from tests.transport.pool import HELD, ask, assert_sound, client_over, echo, state
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def until_waiting(transport: Transport, count: int) -> None:
    """Wait until so many calls wait for a connection."""
    await until(lambda: state(transport).waiting == count)


async def test_fifty_callers_on_two_connections_are_served_first_come_first_served() -> None:
    """Each call starts when its turn comes, in the order in which they asked; catches a stack, and a queue-jumper."""
    transport = Transport(max_connections=2)
    asked: list[str] = []
    begun: list[str] = []

    async def body(text: str) -> AsyncIterator[bytes]:
        begun.append(text)  # a body is asked for once its call has a connection
        yield text.encode()

    async def call(text: str) -> None:
        headers = {"Content-Length": f"{len(text)}"}
        response = await client.post(server.base_url, content=body(text), headers=headers)
        assert response.text == text

    with RawServer(echo) as server:
        async with (
            client_over(transport) as client,
            anyio.create_task_group() as group,
            client.stream("POST", server.base_url, content=HELD) as first,
            client.stream("POST", server.base_url, content=HELD) as second,
        ):
            for number in range(48):
                group.start_soon(call, f"{number}")
                await until_waiting(transport, number + 1)
            asked = [request.body.decode() for request in server.requests]
            await first.aread()
            await second.aread()
            group.start_soon(call, "late")

    assert asked == [HELD.decode()] * 2
    assert server.accepted == 2
    assert sorted(begun) == sorted([*map(str, range(48)), "late"])
    order = [48 if text == "late" else int(text) for text in begun]
    # Where both connections come free in one step of the loop, trio runs their two calls in any order.
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))


async def test_a_call_that_comes_when_others_wait_waits_behind_them() -> None:
    """Also at the moment when a connection comes free; catches a newcomer that takes what was promised to another."""
    transport = Transport(max_connections=1)
    order: list[str] = []

    async def call(text: str) -> None:
        await ask(client, server.base_url, text)
        order.append(text)

    with RawServer(echo) as server:
        async with (
            client_over(transport) as client,
            anyio.create_task_group() as group,
            client.stream("POST", server.base_url, content=HELD) as first,
        ):
            for number in (1, 2):
                group.start_soon(call, f"{number}")
                await until_waiting(transport, number)
            await first.aread()
            group.start_soon(call, "newcomer")

    assert order == ["1", "2", "newcomer"]


async def calls_per_request(in_flight: int, requests: int) -> float:
    """Count the calls of perkamo's own functions that a request costs with so many in flight."""
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            count += 1

    async def work() -> None:
        for _ in range(requests // in_flight):
            await ask(client, server.base_url, "x")

    transport = Transport(max_connections=8)
    with RawServer(echo) as server:
        async with client_over(transport) as client:
            await assert_sound(transport, client, server.base_url)
            sys.setprofile(profile)
            try:
                async with anyio.create_task_group() as group:
                    for _ in range(in_flight):
                        group.start_soon(work)
            finally:
                sys.setprofile(None)
    return count / requests


@pytest.mark.slow_on_each_backend
async def test_a_request_costs_the_same_in_a_crowd() -> None:
    """Function calls and not time, so that a slow machine can't fail it; catches a walk over waiters or connections."""
    alone = await calls_per_request(1, 64)
    crowd = await calls_per_request(64, 256)
    throng = await calls_per_request(256, 512)

    assert crowd <= alone * 1.25
    assert throng <= crowd * 1.15


async def test_a_call_that_gives_up_leaves_the_queue_at_once() -> None:
    """Also while nothing comes free; catches gone waiters that pile up while all is stuck."""
    transport = Transport(max_connections=1)
    with RawServer(echo) as server:
        async with (
            client_over(transport, pool=0.001) as client,
            client.stream("POST", server.base_url, content=HELD) as first,
        ):
            for _ in range(200):
                with pytest.raises(httpx.PoolTimeout):
                    await ask(client, server.base_url, "b")
                assert not state(transport).waiting
            await first.aread()
