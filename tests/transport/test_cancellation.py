"""A call that is cancelled, at any point and in any way, costs at most its connection."""

import asyncio
import random
import threading

import anyio
import anyio.lowlevel
import httpx
import pytest

from perkamo.runtime.clock import Clock
from perkamo.transport.connect import Connector
from perkamo.transport.http1 import HTTP1Connection, Origin
from perkamo.transport.pool import Pool
from perkamo.transport.sockets import Stream
from perkamo.transport.tls import shared_context
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection as RawConnection
from tests.faults.rawserver import RawServer, answer
from tests.transport.cancelling import (
    WAYS,
    Cancel,
    Way,
    by_scope,
    by_task,
    by_task_soon,
    by_timeout,
    cancel_everywhere,
    on_asyncio,
)
from tests.transport.pool import HELD, GivenTransport, ask, assert_sound, client_over, echo, state, stepping
from tests.waiting import until

pytestmark = pytest.mark.anyio
LEAST = {"cold": 2, "warm": 1, "queued": 2}
"""How many suspension points a call has even when the answer comes in one piece."""

situations = pytest.mark.parametrize("situation", LEAST)


@situations
async def test_a_scope_cancelled_at_any_point_costs_no_place(situation: str) -> None:
    """Afterwards every place serves a call; catches a place that is lost, or an answer that the next call gets."""
    points = await cancel_everywhere(by_scope, situation)

    assert points >= LEAST[situation]


@on_asyncio
@situations
@pytest.mark.parametrize("way", [by_task, by_task_soon, by_timeout], ids=["task", "task soon", "timeout"])
async def test_a_task_cancelled_at_any_point_costs_no_place(way: Way, situation: str) -> None:
    """As with a scope, but through every shield; catches a closing that has to await something."""
    points = await cancel_everywhere(way, situation)

    assert points >= LEAST[situation]


@pytest.mark.parametrize(("anyio_backend", "way"), WAYS)
async def test_a_call_cancelled_within_the_body_costs_its_connection(way: Way) -> None:
    """The server holds back the rest of the answer; catches a rest that the next call gets."""

    def half(connection: RawConnection) -> None:
        connection.read_request()
        connection.send(answer(b"first and rest")[:-4])
        connection.stall()

    async def call(cancel: Cancel) -> None:
        async with client.stream("GET", server.base_url) as response:
            parts: list[bytes] = []

            async def read() -> None:
                async for part in response.aiter_raw():
                    parts.append(part)  # noqa: PERF401 - what came before the cancel must be there

            await stepping(read(), lambda _: cancel() if parts else None)

    transport = Transport(max_connections=2)
    with RawServer(half, echo) as server:
        async with client_over(transport) as client:
            await way(call)
            await assert_sound(transport, client, server.base_url)

    assert {request.connection for request in server.requests[1:]} == {1, 2}


class PutsBack(Pool):
    """A pool with a bug: what is to be dropped is put back."""

    def drop(self, connection: HTTP1Connection | None, *, failed: bool = False) -> None:
        """Put it back."""
        if connection is None:
            super().drop(None)
        else:
            self.put_back(connection, 30.0)

    def doubt(self, connection: HTTP1Connection | None) -> None:
        """Let the next call use it, which would connect afresh."""


class Blind:
    """A stream that never sees that something came in between two calls, as where it comes a moment later."""

    def __init__(self, below: Stream) -> None:
        self.put = below.put
        self.send = below.send
        self.receive = below.receive
        self.receive_now = below.receive_now
        self.close = below.close

    def is_idle(self) -> bool:
        """See nothing."""
        return True


class BlindConnector(Connector):
    """Makes connections that see nothing between two calls."""

    async def connect(self, origin: Origin) -> Stream:
        """Connect."""
        return Blind(await super().connect(origin))


class KeepsPlaces(Pool):
    """A pool with a bug: a place that was given up is lost."""

    def drop(self, connection: HTTP1Connection | None, *, failed: bool = False) -> None:
        """Close the connection and keep its place."""
        if connection is not None:
            connection.close()


@situations
async def test_the_check_sees_a_connection_that_is_put_back_after_a_cancel(situation: str) -> None:
    """The control: with this bug planted, and an answer that comes after the cancel, the check above must fail."""
    asked, cancelled = threading.Event(), threading.Event()

    def hold_mine(connection: RawConnection) -> None:
        while (request := connection.read_request()) is not None:
            if request.body == b"mine":
                asked.set()
                cancelled.wait(20)
            connection.send(answer(request.body))

    def connector(clock: Clock) -> Connector:
        return BlindConnector(shared_context, clock=clock)

    async def call() -> None:
        with scope:
            await ask(client, server.base_url, "mine")

    scope = anyio.CancelScope()
    transport = GivenTransport(max_connections=1 if situation == "queued" else 3, pool=PutsBack, connector=connector)
    with RawServer(hold_mine) as server:
        async with client_over(transport) as client:
            if situation != "cold":
                await ask(client, server.base_url, "warm")
            async with anyio.create_task_group() as group:
                if situation == "queued":
                    async with client.stream("POST", server.base_url, content=HELD) as holder:
                        group.start_soon(call)
                        await until(lambda: state(transport).waiting)
                        await holder.aread()
                else:
                    group.start_soon(call)
                await until(asked.is_set)
                scope.cancel()
            cancelled.set()
            with pytest.raises((AssertionError, httpx.TransportError, ExceptionGroup)):
                await assert_sound(transport, client, server.base_url)


@situations
async def test_the_check_sees_a_place_that_is_lost(situation: str) -> None:
    """The control: a place that a cancelled call keeps permanently must be seen, whatever the situation."""
    with pytest.raises((AssertionError, ExceptionGroup)):
        await cancel_everywhere(by_scope, situation, pool=KeepsPlaces)


async def test_a_connection_handed_to_a_scope_that_is_cancelled_goes_to_the_next() -> None:
    """It is granted and given up in the same moment; catches a connection that is lost on the way."""
    transport = Transport(max_connections=1)
    got: list[str] = []
    with RawServer(echo) as server:
        async with client_over(transport) as client, anyio.create_task_group() as group:

            async def call(text: str, scope: anyio.CancelScope) -> None:
                with scope:
                    got.append(await ask(client, server.base_url, text))

            scopes = [anyio.CancelScope() for _ in range(3)]
            async with client.stream("POST", server.base_url, content=HELD) as response:
                for number, scope in enumerate(scopes):
                    group.start_soon(call, f"{number}", scope)
                    await until(lambda number=number: state(transport).waiting > number)  # type: ignore[misc]  # mypy can't infer it
                await response.aread()
                assert state(transport).waiting == 2
                scopes[0].cancel()

    assert got == ["1", "2"]


@on_asyncio
@pytest.mark.parametrize("same", [True, False], ids=["a connection", "a place"])
async def test_what_is_granted_to_a_task_that_is_cancelled_goes_to_the_next(*, same: bool) -> None:
    """A task of asyncio is cancelled after it was woken; catches a grant that nobody passes on."""
    transport = Transport(max_connections=1)
    with RawServer(echo) as server, RawServer(echo) as other:
        url = server.base_url if same else other.base_url
        async with client_over(transport, pool=5) as client:
            async with client.stream("POST", server.base_url, content=HELD) as response:
                tasks = [asyncio.create_task(ask(client, url, f"{number}")) for number in range(3)]
                await until(lambda: state(transport).waiting == 3)
                await response.aread()
                assert state(transport).waiting == 2
                tasks[0].cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(got[0], asyncio.CancelledError)
    assert got[1:] == ["1", "2"]


@pytest.mark.slow_on_each_backend
@pytest.mark.parametrize("seed", [1, 2])
async def test_calls_with_the_shortest_deadlines_leave_a_sound_client(seed: int) -> None:
    """20 workers on 10 connections with deadlines of 0 to 30 ms; stock httpx is dead after a few seconds of it."""
    chance = random.Random(seed)
    transport = Transport(max_connections=10)
    wrong: list[str] = []
    ended = 0

    async def work(number: int) -> None:
        nonlocal ended
        count = 0
        while (is_early := anyio.current_time() < end) or not ended:
            count += 1
            text = f"{number} {count}"
            # On a busy machine none may have ended by then: connecting anew takes all of so short a time.
            with anyio.move_on_after(chance.uniform(0, 0.03) if is_early else 10):
                got = await ask(client, server.base_url, text)
                ended += 1
                if got != text:
                    wrong.append(got)

    with RawServer(echo) as server:
        async with client_over(transport) as client:
            end = anyio.current_time() + 1.5
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(work, number)
            for _ in range(5):
                await assert_sound(transport, client, server.base_url)

    assert not wrong
    assert ended


@on_asyncio
async def test_tasks_cancelled_at_random_leave_a_sound_client() -> None:
    """As above, by native ``task.cancel()`` after 0 to 20 rounds of the loop; catches what only shields hide."""
    chance = random.Random(3)
    transport = Transport(max_connections=10)

    async def call_and_cancel(url: str, text: str) -> None:
        task = asyncio.create_task(ask(client, url, text))
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == text

    with RawServer(echo) as server:
        async with client_over(transport) as client:
            for round_ in range(40):
                calls = [call_and_cancel(server.base_url, f"{round_} {number}") for number in range(20)]
                await asyncio.gather(*calls)
            await assert_sound(transport, client, server.base_url)


@pytest.mark.slow_on_each_backend
async def test_groups_cancelled_by_a_failing_sibling_leave_a_sound_client() -> None:
    """40 groups of 60 calls, each cancelled at a random moment; catches places lost in a crowd."""
    chance = random.Random(4)
    transport = Transport(max_connections=10)

    async def fail() -> None:
        await anyio.sleep(chance.uniform(0, 0.02))
        raise ZeroDivisionError

    async def crowd(client: httpx.AsyncClient, url: str) -> None:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(ask, client, url, f"{number}")
            group.start_soon(fail)

    with RawServer(echo) as server:
        async with client_over(transport) as client:
            for _ in range(40):
                with pytest.raises(ExceptionGroup):
                    await crowd(client, server.base_url)
                assert state(transport).waiting == 0
            await assert_sound(transport, client, server.base_url)
