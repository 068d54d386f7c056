"""Deadlines: what takes too long ends, whatever the server does meanwhile, and no timer is left behind."""

import asyncio
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest

from perkamo.transport.deadlines import Deadlines
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, answer, answering
from tests.transport.pool import SetClock, client_over, state
from tests.waiting import until

pytestmark = pytest.mark.anyio

Script = Callable[[Connection], None]


def says_nothing(connection: Connection) -> None:
    """Read a request and leave it at that."""
    connection.read_request()
    connection.stall()


def drips_the_head(connection: Connection) -> None:
    """Send a head that has no end."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\n")
    connection.drip(b"x: y\r\n" * 10_000, 0.002)


def drips_the_body(connection: Connection) -> None:
    """Send a head at once, and a body of many small parts."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n")
    connection.drip(b"x" * 60_000, 0.002)


def reads_nothing(connection: Connection) -> None:
    """Let the request fill all buffers."""
    connection.server.stopping.wait(20)


@pytest.mark.parametrize(
    ("script", "content", "kind"),
    [
        (says_nothing, b"", httpx.ReadTimeout),
        (drips_the_head, b"", httpx.ReadTimeout),
        (drips_the_body, b"", httpx.ReadTimeout),
        (reads_nothing, b"x" * 30_000_000, httpx.WriteTimeout),
    ],
)
async def test_the_total_ends_a_request_at_every_step(
    script: Script, content: bytes, kind: type[httpx.TimeoutException]
) -> None:
    """Also one that goes on and on; catches a bound that starts anew with every byte."""
    transport = Transport()
    with RawServer(script) as server:
        async with client_over(transport) as client:
            request = client.build_request("POST", server.base_url, content=content, extensions={"total": 0.3})
            with anyio.fail_after(15), pytest.raises(kind):
                await client.send(request)

            assert (state(transport).busy, state(transport).idle) == (0, 0)


async def test_waiting_for_a_connection_counts_too() -> None:
    """The total begins with the call; catches one that begins with the connection."""
    with RawServer(says_nothing) as server:
        async with client_over(Transport(max_connections=1)) as client, anyio.create_task_group() as group:
            group.start_soon(client.get, server.base_url)
            await until(lambda: bool(server.requests))
            request = client.build_request("GET", server.base_url, extensions={"total": 0.2})
            with anyio.fail_after(15), pytest.raises(httpx.PoolTimeout):
                await client.send(request)
            group.cancel_scope.cancel()


async def test_each_of_many_requests_ends_at_its_own_time() -> None:
    """Long ones begun first and short ones later; catches a timer that was set for the first alone."""
    ended: list[float] = []
    with RawServer(says_nothing) as server:
        async with client_over(Transport()) as client, anyio.create_task_group() as group:

            async def call(seconds: float) -> None:
                request = client.build_request("GET", server.base_url, extensions={"total": seconds})
                with pytest.raises(httpx.ReadTimeout):
                    await client.send(request)
                ended.append(seconds)

            with anyio.fail_after(20):
                for number, seconds in enumerate((1.6, 0.4, 1.0)):
                    group.start_soon(call, seconds)
                    await until(lambda number=number: len(server.requests) > number)  # type: ignore[misc]

    assert ended == [0.4, 1.0, 1.6]


async def test_an_answer_in_time_is_not_ended_later() -> None:
    """The connection serves on; catches a deadline that outlives its request."""
    with RawServer(answering(answer())) as server:
        async with client_over(Transport()) as client:
            for seconds in (1.0, 20, 20):
                request = client.build_request("GET", server.base_url, extensions={"total": seconds})
                assert (await client.send(request)).status_code == 200
                await anyio.sleep(0.55)

    assert server.accepted == 1


class Waiter:
    """Something that waits."""

    expired = False

    def expire(self) -> None:
        """Note it."""
        self.expired = True


async def test_only_what_is_due_expires() -> None:
    """By the clock that it was given, not by the loop's; catches a timer that fires early and ends everything."""
    clock = SetClock()

    async def main() -> tuple[bool, bool, bool]:
        deadlines = Deadlines(clock)
        due, later, gone = Waiter(), Waiter(), Waiter()
        for waiter, seconds in ((later, 500), (due, 0.01), (gone, 0.01)):
            deadlines.begin(waiter, clock.moment + seconds)
        deadlines.end(gone)
        clock.moment += 1
        await until(lambda: due.expired)
        result = due.expired, later.expired, gone.expired
        deadlines.close()
        return result

    assert await anyio.to_thread.run_sync(lambda: asyncio.run(main())) == (True, False, False)


def test_a_closed_transport_leaves_no_timer() -> None:
    """An event loop that goes on would keep it for as long as an attempt may take; catches one that is forgotten."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        with RawServer(says_nothing) as server:
            async with httpx.AsyncClient(transport=Transport()) as client:
                request = client.build_request("GET", server.base_url, extensions={"total": 300})
                call = asyncio.ensure_future(client.send(request))
                await until(lambda: bool(server.requests))
                call.cancel()
                await asyncio.wait([call])
        return sum(not timer.cancelled() and timer.when() > loop.time() + 100 for timer in loop._scheduled)  # type: ignore[attr-defined]

    assert asyncio.run(main()) == 0
