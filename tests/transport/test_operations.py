"""client: emit, batch and customer, cancelled at every suspension point, leave a sound client (P5, F50, F51)."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from perkamo import AsyncPerkamoClient, Event, RetryPolicy
from tests.faults.rawserver import RESULT, Connection, RawServer, answer
from tests.transport.cancelling import Cancel, Way, by_scope, by_task, by_task_soon, by_timeout, on_asyncio
from tests.transport.pool import HELD, inside, lost_places, state, stepping

pytestmark = pytest.mark.anyio

OPERATIONS: dict[str, Callable[[AsyncPerkamoClient], Awaitable[object]]] = {
    "emit": lambda client: client.emit("u", "e"),
    "batch": lambda client: client.batch([Event("u", "e", "t")]),
    "customer": lambda client: client.customer("u"),
}
operations = pytest.mark.parametrize("operation", OPERATIONS)
LEAST = {"cold": 2, "warm": 1, "queued": 2, "retried": 3}
"""How many suspension points a call has even when each answer comes in one piece."""

situations = pytest.mark.parametrize("situation", LEAST)


class Service:
    """Answers every call, in two pieces, and refuses as many as the test says.

    Attributes:
        refusals: How many requests are still refused with 503.
    """

    def __init__(self) -> None:
        self.refusals = 0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while (request := connection.read_request()) is not None:
            path = request.line.split()[1]
            body = RESULT
            if path.startswith("/v1/customer/"):
                body = b'{"user_id":"%s"}' % path.rsplit("/", 1)[1].encode()
            elif path == "/v1/held":
                body = HELD
            elif path.endswith(":batch"):
                body = b'{"results":[%s]}' % RESULT
            data = answer(body)
            if self.refusals:
                self.refusals -= 1
                data = answer(b"{}", "503 Busy")
            connection.send(data[:-5])
            connection.server.stopping.wait(0.001)
            connection.send(data[-5:])


async def cancel_at(way: Way, operation: str, situation: str, point: int) -> bool:
    """Make a call and cancel it at that suspension point; return whether it has so many."""
    reached = 0
    queued = anyio.Event()
    service = Service()
    places = 1 if situation == "queued" else 3

    def suspended(number: int, cancel: Cancel) -> None:
        nonlocal reached
        reached = number
        if number == point:
            cancel()
        queued.set()

    async def call(cancel: Cancel) -> None:
        async def made() -> object:
            return await OPERATIONS[operation](client)

        await stepping(made(), lambda number: suspended(number, cancel))

    retry = RetryPolicy(base_delay=0.001, max_delay=0.002)
    with RawServer(service) as server:
        async with AsyncPerkamoClient(
            "sk_test", base_url=server.base_url, retry=retry, max_connections=places
        ) as client:
            inner, transport = inside(client)
            if situation != "cold":
                await client.program()
            if situation == "retried":
                service.refusals = 1
            if situation == "queued":
                async with (
                    inner.stream("GET", f"{server.base_url}/v1/held") as holder,
                    anyio.create_task_group() as group,
                ):
                    group.start_soon(way, call)
                    await queued.wait()
                    await holder.aread()
            else:
                await way(call)
            service.refusals = 0
            pool = state(transport)
            assert (lost_places(transport), pool.busy, pool.waiting) == (0, 0, 0)
            assert (await client.customer(f"after-{point}")).user_id == f"after-{point}"
    return reached >= point


async def cancel_everywhere(way: Way, operation: str, situation: str) -> int:
    """Cancel calls at their 1st, 2nd, … suspension point until they have no more; return how many they have."""
    point = 1
    while await cancel_at(way, operation, situation, point):
        point += 1
    return point - 1


@operations
@situations
async def test_an_operation_cancelled_by_a_scope_leaves_a_sound_client(operation: str, situation: str) -> None:
    """No place is lost and the next call gets its own answer, in the retry's wait too."""
    points = await cancel_everywhere(by_scope, operation, situation)

    assert points >= LEAST[situation]


@on_asyncio
@operations
@situations
@pytest.mark.parametrize("way", [by_task, by_task_soon, by_timeout], ids=["task", "task soon", "timeout"])
async def test_an_operation_cancelled_natively_leaves_a_sound_client(way: Way, operation: str, situation: str) -> None:
    """As with a scope, but through every shield."""
    points = await cancel_everywhere(way, operation, situation)

    assert points >= LEAST[situation]
