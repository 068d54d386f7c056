"""pool: connections that are dead without a word, that the server is about to close, or that are old (F08, F09)."""

import select
import socket
import struct
from collections.abc import Callable

import anyio
import httpx
import pytest

from perkamo.runtime.clock import Clock
from perkamo.transport.connect import Connector
from perkamo.transport.deadlines import Deadlines
from perkamo.transport.http1 import Origin
from perkamo.transport.pool import Pool
from perkamo.transport.sockets import NothingSentError, PlainSocket, Stream
from perkamo.transport.tls import shared_context
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, answer
from tests.transport.pool import (
    HELD,
    GivenTransport,
    SetClock,
    ask,
    assert_sound,
    client_over,
    echo,
    idle_count,
    lost_places,
    state,
)
from tests.waiting import cancelled_once, until

pytestmark = pytest.mark.anyio


class Failover:
    """A service whose connections of before the failover swallow every request without a word.

    Attributes:
        over: Whether the failover has come.
    """

    def __init__(self) -> None:
        self.over = False

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        is_old = not self.over
        while (request := connection.read_request()) is not None:
            if (self.over and is_old) or request.body == b"lost":
                return connection.stall()
            # One after the other, so that as many connections are made as there are calls.
            connection.server.stopping.wait(0.05)
            connection.send(answer(request.body))
        return None


async def warm(transport: Transport, client: httpx.AsyncClient, url: str) -> None:
    """Leave as many idle connections as there may be."""
    await assert_sound(transport, client, url)
    assert idle_count(transport) == transport._limits.connections


async def lose(client: httpx.AsyncClient, url: str, read: float = 0.2) -> None:
    """Make a call that ends with a timeout."""
    with pytest.raises(httpx.ReadTimeout):
        await client.post(url, content=b"lost", timeout=httpx.Timeout(20, read=read))


async def test_when_a_used_connection_falls_silent_no_older_one_is_used_again() -> None:
    """A failover kills all idle connections at once; catches a call for each that finds it out by itself."""
    service = Failover()
    transport = Transport(max_connections=8)
    with RawServer(service) as server:
        async with client_over(transport) as client:
            await warm(transport, client, server.base_url)
            service.over = True

            await lose(client, server.base_url)

            assert (idle_count(transport), lost_places(transport)) == (0, 0)
            assert await ask(client, server.base_url, "again") == "again"

    assert server.accepted == 9


async def test_a_connection_that_has_answered_meanwhile_is_kept() -> None:
    """It has proven that it lives; catches a pool that is emptied by one slow call."""
    transport = Transport(max_connections=3)
    with RawServer(Failover()) as server:
        async with client_over(transport) as client, anyio.create_task_group() as group:
            await warm(transport, client, server.base_url)
            group.start_soon(lose, client, server.base_url, 2.0)
            await until(lambda: state(transport).busy == 1)
            assert await ask(client, server.base_url, "meanwhile") == "meanwhile"
            await until(lambda: state(transport).busy == 0)

            assert idle_count(transport) == 1
            assert await ask(client, server.base_url, "still there") == "still there"

    assert server.accepted == 3


@pytest.mark.parametrize(("deadline", "left"), [(None, 2), (60.0, 2), (-1.0, 0)])
async def test_what_is_cancelled_by_its_own_deadline_has_failed(deadline: float | None, left: int) -> None:
    """A caller who has no more need of it says nothing of older connections; catches a pool emptied by impatience."""
    transport = Transport(max_connections=3)
    with RawServer(Failover()) as server:
        async with client_over(transport) as client:
            await warm(transport, client, server.base_url)
            extensions = {} if deadline is None else {"deadline": anyio.current_time() + deadline}
            async with cancelled_once(lambda: server.requests[-1].body == b"lost"):
                await client.post(server.base_url, content=b"lost", extensions=extensions)

            assert (idle_count(transport), lost_places(transport)) == (left, 0)


async def test_impatient_callers_do_not_meet_dead_connections_one_by_one() -> None:
    """With a deadline of the caller's own, shorter than an attempt's; catches eight calls that fail over eight of them.

    Each call that was given up costs one new connection, and empties nothing.
    """
    service = Failover()
    transport = Transport(max_connections=8)
    with RawServer(service) as server:
        async with client_over(transport) as client:
            await warm(transport, client, server.base_url)
            service.over = True

            async with cancelled_once(lambda: server.requests[-1].body == b"lost") as given_up:
                await client.post(server.base_url, content=b"lost")

            assert given_up.cancel_called
            assert idle_count(transport) == 7
            for number in range(8):
                assert await ask(client, server.base_url, f"again {number}") == f"again {number}"
            assert (idle_count(transport), lost_places(transport)) == (8, 0)

    assert server.accepted == 9


async def test_where_no_place_is_free_a_doubtful_connection_gives_way() -> None:
    """Catches a call that waits for a place although idle connections hold them."""
    service = Failover()
    transport = Transport(max_connections=3)
    with RawServer(service) as server, RawServer(echo) as other:
        async with client_over(transport) as client:
            await warm(transport, client, server.base_url)
            service.over = True
            async with cancelled_once(lambda: server.requests[-1].body == b"lost"):
                await client.post(server.base_url, content=b"lost")
            await ask(client, other.base_url, "takes the place")
            assert state(transport).free == 0

            assert await ask(client, server.base_url, "afresh") == "afresh"
            assert (idle_count(transport), lost_places(transport)) == (3, 0)

    assert (server.accepted, other.accepted) == (4, 1)


async def test_a_new_connection_that_fails_says_nothing_about_older_ones() -> None:
    """Nor does a failure at another service, or a call that its own caller cancels; catches needless connections."""

    def once_then_silent(connection: Connection) -> None:
        if connection.number == 0:
            echo(connection)
        else:
            connection.stall()

    transport = Transport(max_connections=3)
    with RawServer(once_then_silent) as server, RawServer(Failover()) as other:
        async with client_over(transport) as client:
            await ask(client, server.base_url, "first")
            async with client.stream("POST", server.base_url, content=HELD) as held:
                await lose(client, server.base_url)
                await lose(client, other.base_url)
                await held.aread()
            assert idle_count(transport) == 1
            with anyio.move_on_after(0):
                await ask(client, other.base_url, "cancelled")
            assert await ask(client, server.base_url, "kept") == "kept"

    assert server.requests[-1].connection == 0


@pytest.mark.parametrize("over_again", [1, 0])
async def test_a_request_that_never_left_is_sent_over_a_new_connection(over_again: int) -> None:
    """The connection is reset between the look at it and the first byte; catches an error that need not be."""

    class Dying(PlainSocket):
        """A socket whose peer resets it right after it was found idle."""

        def is_idle(self) -> bool:
            """Look, and let the reset come."""
            idle = super().is_idle()
            reset_now.append(1)
            poll = select.poll()
            poll.register(self._number, select.POLLERR)
            assert poll.poll(20_000)
            return idle

    class DyingConnector(Connector):
        async def connect(self, origin: Origin) -> Stream:
            stream = await super().connect(origin)
            assert isinstance(stream, PlainSocket)
            if not made:
                dying = Dying(stream._socket.dup(), self._deadlines, self._clock)
                stream.close()
                stream = dying
            made.append(stream)
            return stream

    class Service(Transport):
        def _new_pool(self) -> Pool:
            return Pool(DyingConnector(shared_context), self._limits)

    def reset_when_idle(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        connection.send(answer(request.body))
        while not reset_now:
            connection.server.stopping.wait(0.001)
        connection.reset()

    reset_now: list[int] = []
    made: list[Stream] = []
    transport = Service(max_connections=1, retries_on_stale=over_again)
    with RawServer(reset_when_idle, echo) as server:
        async with client_over(transport) as client:
            await ask(client, server.base_url, "first")
            if over_again:
                assert await ask(client, server.base_url, "second") == "second"
            else:
                with pytest.raises(httpx.WriteError):
                    await ask(client, server.base_url, "second")
            assert lost_places(transport) == 0

    assert [request.body for request in server.requests] == [b"first", b"second"][: 1 + over_again]


def keeping(header: str) -> Callable[[Connection], None]:
    """Make a script that says for how long it keeps an idle connection."""

    def script(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            connection.send(answer(request.body, headers=[f"Keep-Alive: {header}"]))

    return script


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("timeout=5", 4.5),
        ("max=100, timeout=5", 4.5),
        ("Timeout=1", 0.5),
        ('timeout = "1"', 0.5),
        ("timeout=600", 30.0),
        ("timeout=0", 0.0),
        ("timeout=99999999999999999999", 30.0),
        ("timeout=", 30.0),
        ("timeout=soon", 30.0),
        ("xtimeout=5", 30.0),
    ],
)
async def test_an_idle_connection_is_left_before_the_server_closes_it(header: str, seconds: float) -> None:
    """``Keep-Alive: timeout=`` is kept, a little early; catches a request that meets the server's farewell."""
    clock = SetClock()
    transport = GivenTransport(max_connections=1, clock=clock)
    with RawServer(keeping(header)) as server:
        async with client_over(transport) as client:
            await ask(client, server.base_url, "first")
            if seconds:
                clock.moment += seconds - 0.01
                await ask(client, server.base_url, "in time")
            clock.moment += seconds + 0.01
            await ask(client, server.base_url, "too late")

    assert [request.connection for request in server.requests] == ([0, 0, 1] if seconds else [0, 1])


async def test_an_old_connection_is_not_used_any_more() -> None:
    """After five minutes, however busy it was; catches traffic that a changed DNS name does not move."""
    clock = SetClock()
    transport = GivenTransport(max_connections=1, clock=clock)
    with RawServer(echo) as server:
        async with client_over(transport) as client:
            for _ in range(11):
                await ask(client, server.base_url, "young")
                clock.moment += 29.9
            await ask(client, server.base_url, "old")
            assert lost_places(transport) == 0

    assert [request.connection for request in server.requests] == [0] * 11 + [1]


async def test_without_limits_a_connection_stays() -> None:
    """``None`` is no limit, for both; catches one that counts as zero."""
    transport = Transport(keepalive_expiry=None, max_connection_age=None)
    with RawServer(echo) as server:
        async with client_over(transport) as client:
            for _ in range(3):
                await ask(client, server.base_url, "a")

    assert server.accepted == 1


@pytest.mark.parametrize(("idle", "age"), [(0.0, None), (None, 0.0)])
async def test_nothing_is_kept_where_connections_expire_at_once(idle: float | None, age: float | None) -> None:
    """Catches an idle connection that nobody can use and that holds a place."""
    transport = Transport(max_connections=1, keepalive_expiry=idle, max_connection_age=age)
    with RawServer(echo) as server:
        async with client_over(transport) as client:
            for _ in range(3):
                await ask(client, server.base_url, "a")
                assert (idle_count(transport), lost_places(transport)) == (0, 0)

    assert server.accepted == 3


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("max_connections", 0),
        ("max_connections", True),
        ("keepalive_expiry", -1),
        ("keepalive_expiry", float("nan")),
        ("keepalive_expiry", "30"),
        ("max_connection_age", -0.1),
        ("max_connection_age", "300"),
        ("retries_on_stale", -1),
        ("retries_on_stale", 1.5),
        ("local_address", "localhost"),
        ("local_address", 5),
    ],
)
def test_an_option_out_of_its_range_is_refused(option: str, given: object) -> None:
    """Catches a transport whose every call would wait or fail, one that retries forever, and a look-up in the loop."""
    with pytest.raises(ValueError, match=f"^{option} must be "):
        Transport(**{option: given})  # type: ignore[arg-type] # what the test is about


async def test_a_connection_that_breaks_within_a_request_has_sent_something() -> None:
    """The peer answers 100 within the body and resets; catches a request that is repeated as if nothing had left."""
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = PlainSocket(socket.socket(), Deadlines(clock), clock)
        await one.connect(listener.getsockname())
        peer, _ = listener.accept()
        one.put(b"x" * 20_000_000)
        peer.send(b"!")
        assert not await one.send(clock.now() + 20)
        assert await one.receive(1, clock.now() + 20) == b"!"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        poll = select.poll()
        poll.register(one._number, select.POLLERR)
        assert poll.poll(20_000)
        with pytest.raises(OSError, match=r".") as caught:
            await one.send(clock.now() + 20)
        one.close()

    assert not isinstance(caught.value, NothingSentError)
