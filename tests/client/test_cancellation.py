"""client: a call that is cancelled, wherever that is, leaves a sound client (P5, F50, F51).

What the transport does at each of its own suspension points is tested in tests/connections; here the whole call is cut,
with its key supplier, its waits between attempts and its bodies.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from perkamo import AsyncPerkamoClient, Event, RetryPolicy
from perkamo.connections import Connections
from tests.connections.pool import lost_places, state, stepping
from tests.connections.test_cancellation import Way, by_scope, by_task, by_task_soon, by_timeout
from tests.faults.rawserver import RESULT, Connection, RawServer, answer

pytestmark = pytest.mark.anyio

Operation = Callable[[AsyncPerkamoClient], Coroutine[Any, Any, object]]
OPERATIONS: dict[str, Operation] = {
    "emit": lambda client: client.emit("u", "e", {"a": 1}, transaction_id="t"),
    "batch": lambda client: client.batch([Event("u", "e", "t")]),
    "customer": lambda client: client.customer("u"),
}
PLACES = 2
MARKED = "sk_test_marked"


def service(connection: Connection) -> None:
    """Answer every request in two parts, but one with the marked key with 503."""
    while (request := connection.read_request()) is not None:
        if request.headers["x-perkamo-api-key"] == MARKED:
            connection.send(answer(b"", "503 Busy"))
            continue
        body = b'{"results":[%s]}' % RESULT if "batch" in request.line else RESULT
        if "customer" in request.line:
            body = b'{"user_id":"u"}'
        head, _, rest = answer(body).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        connection.server.stopping.wait(0.001)
        connection.send(rest)


def make_client(url: str) -> tuple[AsyncPerkamoClient, Connections, list[str]]:
    """Make a client with few connections, whose key comes from an async supplier: first those of a list."""
    keys: list[str] = []

    async def supplier() -> str:
        await anyio.lowlevel.checkpoint()
        return keys.pop() if keys else "sk_test"

    retry = RetryPolicy(base_delay=0.004, max_delay=0.004)
    client = AsyncPerkamoClient(supplier, base_url=url, timeout=20, retry=retry)
    transport = client._exchange.wire.client._transport
    assert isinstance(transport, Connections)
    transport._max_connections = PLACES
    return client, transport, keys


async def assert_sound(client: AsyncPerkamoClient, transport: Connections) -> None:
    """No place is lost, nobody waits, and more calls than there are places succeed at once."""
    pool = state(transport)
    assert (lost_places(transport), len(pool._busy), len(pool._waiting)) == (0, 0, 0)
    async with anyio.create_task_group() as group:
        for _ in range(PLACES * 2):
            group.start_soon(OPERATIONS["customer"], client)


async def cut(way: Way, operation: str, situation: str, point: int, url: str) -> bool:
    """Make a call and cancel it at its suspension point of that number; return whether it has so many."""
    reached = 0
    client, transport, keys = make_client(url)

    async def call(cancel: Callable[[], object]) -> None:
        def suspended(number: int) -> None:
            nonlocal reached
            reached = number
            if number == point:
                cancel()

        await stepping(OPERATIONS[operation](client), suspended)

    async with client:
        if situation in {"warm", "retry"}:
            await client.customer("u")
        if situation == "retry":
            keys.append(MARKED)
        if situation == "queued":
            async with anyio.create_task_group() as group:
                for _ in range(PLACES * 2):
                    group.start_soon(OPERATIONS["customer"], client)
                await anyio.lowlevel.checkpoint()
                await way(call)
        else:
            await way(call)
        keys.clear()
        await assert_sound(client, transport)
    return reached >= point


async def cut_everywhere(way: Way, operation: str, situation: str) -> int:
    """Cut calls at their 1st, 2nd, … point until they have no more; return how many they have."""
    point = 1
    with RawServer(service) as server:
        while await cut(way, operation, situation, point, server.base_url):
            point += 1
    return point - 1


situations = pytest.mark.parametrize("situation", ["cold", "warm", "queued", "retry"])
operations = pytest.mark.parametrize("operation", OPERATIONS)


@situations
@operations
async def test_a_scope_cancelled_at_any_point_leaves_a_sound_client(operation: str, situation: str) -> None:
    """0 places lost and the next calls succeed; catches state of a call that outlives it."""
    points = await cut_everywhere(by_scope, operation, situation)

    assert points >= 3


@situations
@operations
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("way", [by_task, by_task_soon, by_timeout], ids=["task", "task soon", "timeout"])
async def test_a_task_cancelled_at_any_point_leaves_a_sound_client(way: Way, operation: str, situation: str) -> None:
    """The same by native cancellation, which no scope of anyio's sees; catches a shield that is no shield."""
    points = await cut_everywhere(way, operation, situation)

    assert points >= 3


async def test_a_cancel_is_never_taken_for_a_failure_of_the_service() -> None:
    """The caller's own deadline ends the call at once, without another attempt; catches a retry of a cancel."""

    def silent(connection: Connection) -> None:
        connection.read_request()
        connection.stall()

    with RawServer(silent) as server:
        async with AsyncPerkamoClient("sk_test", base_url=server.base_url) as client:
            calls: list[object] = []
            with anyio.move_on_after(0.2) as scope:
                calls.append(await client.emit("u", "e"))

    assert scope.cancelled_caught
    assert calls == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("seed", [1])
async def test_workers_with_short_deadlines_leave_a_client_that_serves(seed: int) -> None:
    """20 workers on few connections, deadlines of 0 to 30 ms; afterwards 50 of 50 calls succeed (finding 0.1)."""
    with RawServer(service) as server:
        client, transport, _ = make_client(server.base_url)
        async with client:
            end = anyio.current_time() + 1.0

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


async def test_groups_cancelled_by_a_failing_sibling_leave_a_client_that_serves() -> None:
    """40 task groups of 60 calls, each cancelled by a sibling that fails; catches places lost in a crowd."""
    with RawServer(service) as server:
        client, transport, _ = make_client(server.base_url)
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
