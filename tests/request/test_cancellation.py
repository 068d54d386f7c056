"""client: calls that are cancelled in a crowd leave a sound client (P5).

Each suspension point of single calls is cut in tests/transport/test_operations.py.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from perkamo import AsyncPerkamoClient
from perkamo.transport.transport import Transport
from tests.faults.rawserver import RESULT, Connection, RawServer, answer
from tests.transport.pool import inside, lost_places, state
from tests.waiting import cancelled_once

pytestmark = pytest.mark.anyio

Operation = Callable[[AsyncPerkamoClient], Coroutine[Any, Any, object]]
OPERATIONS: dict[str, Operation] = {
    "emit": lambda client: client.emit("u", "e", {"a": 1}, transaction_id="t"),
    "customer": lambda client: client.customer("u"),
}
PLACES = 2


def service(connection: Connection) -> None:
    """Answer every request in two parts."""
    while (request := connection.read_request()) is not None:
        body = b'{"user_id":"u"}' if "customer" in request.line else RESULT
        head, _, rest = answer(body).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        connection.server.stopping.wait(0.001)
        connection.send(rest)


def make_client(url: str, connections: int = PLACES) -> tuple[AsyncPerkamoClient, Transport]:
    """Make a client with few connections, whose key comes from an async supplier."""

    async def supplier() -> str:
        await anyio.lowlevel.checkpoint()
        return "sk_test"

    client = AsyncPerkamoClient(supplier, base_url=url, timeout=20, max_connections=connections)
    return client, inside(client)[1]


async def assert_sound(client: AsyncPerkamoClient, transport: Transport) -> None:
    """No place is lost, nobody waits, and more calls than there are places succeed at once."""
    pool = state(transport)
    assert (lost_places(transport), pool.busy, pool.waiting) == (0, 0, 0)
    async with anyio.create_task_group() as group:
        for _ in range(PLACES * 2):
            group.start_soon(OPERATIONS["customer"], client)


async def test_a_cancel_is_never_taken_for_a_failure_of_the_service() -> None:
    """The caller's own cancel ends the call at once, without another attempt; catches a retry of a cancel."""

    def silent(connection: Connection) -> None:
        connection.read_request()
        connection.stall()

    with RawServer(silent) as server:
        async with AsyncPerkamoClient("sk_test", base_url=server.base_url) as client:
            calls: list[object] = []
            async with cancelled_once(lambda: server.requests) as scope:
                calls.append(await client.emit("u", "e"))

    assert scope.cancel_called
    assert calls == []
    assert len(server.requests) == 1


@pytest.mark.stress
@pytest.mark.slow_on_each_backend
@pytest.mark.parametrize("seed", [1])
async def test_workers_with_short_deadlines_leave_a_client_that_serves(seed: int) -> None:
    """20 workers, 10 connections, deadlines of 0 to 30 ms for 5 s; then 50 of 50 calls succeed (finding 0.1)."""
    with RawServer(service) as server:
        client, transport = make_client(server.base_url, 10)
        async with client:
            end = anyio.current_time() + 5.0

            async def work(number: int) -> None:
                n = 0
                while anyio.current_time() < end:
                    n += 1
                    with anyio.move_on_after((number * 7 + n * 3) % 31 / 1000):
                        await client.emit("u", "e")

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(work, number)
            succeeded = 0
            for _ in range(50):
                succeeded += (await client.customer("u")).user_id == "u"
            await assert_sound(client, transport)

    assert succeeded == 50


@pytest.mark.slow_on_each_backend
async def test_groups_cancelled_by_a_failing_sibling_leave_a_client_that_serves() -> None:
    """40 task groups of 60 calls, each cancelled by a sibling that fails; catches places lost in a crowd."""
    with RawServer(service) as server:
        client, transport = make_client(server.base_url)
        async with client:
            for n in range(40):

                async def fail(n: int = n) -> None:
                    await anyio.sleep(n % 5 / 500)
                    raise ZeroDivisionError

                async def sixty(fail: Callable[[], Coroutine[Any, Any, None]] = fail) -> None:
                    async with anyio.create_task_group() as group:
                        for _ in range(60):
                            group.start_soon(OPERATIONS["emit"], client)
                        group.start_soon(fail)

                with pytest.raises(ExceptionGroup):
                    await sixty()
            await assert_sound(client, transport)
