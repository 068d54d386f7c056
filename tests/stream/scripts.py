"""What the tests of streams share: scripts for the raw server, a clock that the test owns, ways to subscribe."""

import json
from collections.abc import Callable, Sequence
from random import Random

import anyio
from attrs import evolve

from perkamo import AsyncPerkamoClient, CustomerStream, CustomerUpdate, ReconnectPolicy, StreamToken
from perkamo.runtime.clock import Clock
from perkamo.stream.stream import BadData, StreamState
from tests.faults.rawserver import Connection, RawServer, Script

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
"""Without a length: the body lasts until the connection ends."""

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"
PLAIN = ReconnectPolicy(base_delay=1.0, max_delay=30.0, jitter=0.0)


class OwnedTime(Clock):
    """A clock that stands still until the test, or a sleep, moves it.

    Attributes:
        slept: Every wait so far.
        limits: How many limits were set so far.
    """

    def __init__(self, seed: int = 0) -> None:
        self.slept: list[float] = []
        self.limits = 0
        self._now = 1000.0
        self._randomness = Random(seed)
        self._scopes: list[tuple[float, anyio.CancelScope]] = []

    def now(self) -> float:
        """Return the test's time."""
        return self._now

    def limit(self, seconds: float | None) -> anyio.CancelScope:
        """Return a scope that ``advance`` cancels."""
        self.limits += 1
        scope = anyio.CancelScope()
        if seconds is not None:
            self._scopes.append((self._now + seconds, scope))
        return scope

    async def sleep(self, seconds: float) -> None:
        """Move the clock at once, without waiting."""
        self.slept.append(seconds)
        self._now += seconds
        await anyio.lowlevel.checkpoint()

    def randomness(self) -> float:
        """Throw seeded randomness."""
        return self._randomness.random()

    def advance(self, seconds: float) -> None:
        """Move the clock, and cancel what has run out by then."""
        self._now += seconds
        for deadline, scope in self._scopes:
            if deadline <= self._now:
                scope.cancel()
        self._scopes = [one for one in self._scopes if one[0] > self._now]


def customer(points: int = 0) -> bytes:
    """The JSON of a customer."""
    return json.dumps({"user_id": "customer_123", "wallets": {"points": points}}).encode()


def event(points: int, event_id: str | None = None, name: str | None = None) -> bytes:
    """An event with a customer."""
    lines = [] if event_id is None else [b"id: " + event_id.encode()]
    lines += [] if name is None else [b"event: " + name.encode()]
    return b"\n".join([*lines, b"data: " + customer(points), b"", b""])


def sending(*parts: bytes, head: bytes = HEAD) -> Script:
    """Send a stream and end it in order."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + b"".join(parts))

    return script


def resetting(*parts: bytes, head: bytes = HEAD) -> Script:
    """Send a stream and reset the connection once the client has read it."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + b"".join(parts))
        connection.server.stopping.wait(0.05)  # a reset overtakes bytes that were not read yet
        connection.reset()

    return script


def stalling(*parts: bytes, head: bytes = HEAD) -> Script:
    """Send a stream and keep the connection open and silent."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + b"".join(parts))
        connection.stall()

    return script


def refusing(status: str, *headers: str, body: bytes = b"") -> Script:
    """Answer with a status and no stream."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers, "", ""]
    return sending(body, head="\r\n".join(lines).encode("latin-1"))


gone = sending(head=GONE)
"""Ends every stream in order."""


def subscribe(
    server: RawServer | str,
    token: StreamToken = "token_1",
    *,
    time: Clock | None = None,
    policy: ReconnectPolicy = PLAIN,
    last_event_id: str | None = None,
    idle_timeout: float | None = 60.0,
    bad_data: BadData = "raise",
    on_state: Callable[[StreamState], None] | None = None,
) -> CustomerStream:
    """Subscribe at a raw server, or at a URL, by a clock of the test's own where none is given."""
    base_url = server if isinstance(server, str) else server.base_url
    client = AsyncPerkamoClient("sk_test_stream", base_url=base_url)
    stream = client.subscribe_customer(
        "customer_123",
        token,
        last_event_id=last_event_id,
        idle_timeout=idle_timeout,
        reconnect=policy,
        bad_data=bad_data,
        on_state=on_state,
    )
    stream._subscription = evolve(stream._subscription, clock=OwnedTime() if time is None else time)
    return stream


async def collect(stream: CustomerStream) -> list[CustomerUpdate]:
    """Iterate a stream to its end."""
    with anyio.fail_after(30):
        async with stream:
            return [update async for update in stream]


def points(updates: Sequence[CustomerUpdate]) -> list[float]:
    """The balances of updates."""
    return [update.customer.wallets["points"] for update in updates]


def resumed_at(server: RawServer) -> list[str | None]:
    """The Last-Event-ID of each request."""
    return [request.headers.get("last-event-id") for request in server.requests]
