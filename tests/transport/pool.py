"""What the tests of the transport share: a server that echoes, a client over the transport, and a look at its state."""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from types import coroutine
from typing import Any, TypeVar

import anyio
import httpx

from perkamo import AsyncPerkamoClient
from perkamo.runtime.clock import Clock
from perkamo.transport.connect import Connector
from perkamo.transport.pool import Pool, Usage
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, answer

T = TypeVar("T")


def echo(connection: Connection) -> None:
    """Answer each request with its own body, the head and the body apart."""
    while (request := connection.read_request()) is not None:
        head, _, body = answer(request.body).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        connection.server.stopping.wait(0.001)
        connection.send(body)


HELD = b"h" * 200_000
"""Echoed, more than comes in one piece: whoever reads the head alone holds the connection."""


async def ask(client: httpx.AsyncClient, url: str, text: str) -> str:
    """Send a text and return what comes back."""
    return (await client.post(url, content=text.encode())).text


@asynccontextmanager
async def client_over(
    transport: httpx.AsyncBaseTransport, pool: float | None = 20.0
) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client that gives up after 20 seconds, or after so many where it waits for a connection."""
    async with httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(20.0, pool=pool)) as client:
        yield client


class GivenTransport(Transport):
    """A transport whose pools are made of what a test gives.

    Args:
        clock: What its connections expire by, and its deadlines.
        pool: The class of its pools.
        connector: Makes what opens connections, under that clock.
        options: As for ``Transport``.
    """

    def __init__(
        self,
        *,
        clock: Clock = Clock(),
        pool: type[Pool] = Pool,
        connector: Callable[[Clock], Connector] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._clock = clock
        self._pool_class = pool
        self._connector = connector or self._usual_connector

    def _new_pool(self) -> Pool:
        return self._pool_class(self._connector(self._clock), self._limits, self._clock)

    def _usual_connector(self, clock: Clock) -> Connector:
        return Connector(self._ssl_context, proxy=self._proxy, clock=clock)


class SetClock(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def now(self) -> float:
        """Return the moment that was set."""
        return self.moment


def inside(client: AsyncPerkamoClient) -> tuple[httpx.AsyncClient, Transport]:
    """Return the HTTP client of a client of ours, and its transport."""
    http_client = client._exchange.sender.client
    assert isinstance(http_client._transport, Transport)
    return http_client, http_client._transport


def state(transport: Transport) -> Usage:
    """Return what the places of the current event loop's pool are used for."""
    return transport._pool().usage


def idle_count(transport: Transport) -> int:
    """Count the idle connections."""
    return state(transport).idle


def lost_places(transport: Transport) -> int:
    """Count the places that nobody holds and nobody can get, when no call is under way."""
    return transport._limits.connections - state(transport).free - idle_count(transport)


async def assert_sound(transport: Transport, client: httpx.AsyncClient, url: str) -> None:
    """No place is lost, nobody is left over, and every place serves a call that gets its own answer."""
    pool = state(transport)
    assert (lost_places(transport), pool.busy, pool.waiting) == (0, 0, 0)
    answers: list[tuple[str, str]] = []

    async def call(text: str) -> None:
        answers.append((text, await ask(client, url, text)))

    async with anyio.create_task_group() as group:
        for number in range(transport._limits.connections):
            group.start_soon(call, f"sound {number}")
    assert len(answers) == transport._limits.connections
    assert all(sent == got for sent, got in answers)


@coroutine
def stepping(task: Coroutine[Any, Any, T], suspended: Callable[[int], object]) -> Generator[Any, Any, T]:
    """Run a coroutine, and call a function at each of its suspensions, with its number from 1."""
    number = 0
    value: object = None
    error: BaseException | None = None
    while True:
        try:
            trap = task.send(value) if error is None else task.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        number += 1
        suspended(number)
        value = error = None
        try:
            value = yield trap
        except BaseException as thrown:  # noqa: BLE001 - whatever the event loop throws goes to the coroutine
            error = thrown
