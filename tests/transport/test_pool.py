"""The pool of connections: which one is used, when it is given up, and how it ends."""

import threading

import anyio
import anyio.lowlevel
import httpx
import pytest

from perkamo.transport.connect import Connector
from perkamo.transport.http1 import Origin
from perkamo.transport.pool import ConnectionsClosedError
from perkamo.transport.sockets import PlainSocket, Stream
from perkamo.transport.tls import shared_context
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, Script, answer, answering
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
from tests.transport.pooling import stall_after_request, stall_at_once, used
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_calls_one_after_another_share_a_connection() -> None:
    """Catches a connection that is made for every call."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            answers = [await ask(client, server.base_url, text) for text in "abc"]

    assert answers == ["a", "b", "c"]
    assert used(server) == [0, 0, 0]


async def test_the_connection_used_last_is_used_first() -> None:
    """So that connections that a quiet time does not need grow old; catches a round robin."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            async with client.stream("POST", server.base_url, content=HELD) as first:
                async with client.stream("POST", server.base_url, content=HELD) as second:
                    await second.aread()
                await first.aread()
            for text in "cde":
                await ask(client, server.base_url, text)

    assert used(server) == [0, 1, 0, 0, 0]


async def test_an_idle_connection_expires() -> None:
    """It is used up to its 30th second and closed after it, with all that are older; catches a place it keeps."""
    clock = SetClock()
    transport = GivenTransport(max_connections=2, clock=clock)
    with RawServer(echo) as server:
        async with client_over(transport) as client:
            await assert_sound(transport, client, server.base_url)
            assert idle_count(transport) == 2
            clock.moment += 29.9
            await ask(client, server.base_url, "in time")
            clock.moment += 0.2
            await ask(client, server.base_url, "one is old")
            assert idle_count(transport) == 1
            clock.moment += 30
            await ask(client, server.base_url, "too late")

            assert (idle_count(transport), lost_places(transport)) == (1, 0)

    assert server.accepted == 3


async def test_an_idle_connection_that_the_server_closed_is_passed_over() -> None:
    """Row F08, and every place stays usable; catches a dead connection handed out, or one that keeps its place."""
    closed: list[int] = []

    def once(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        connection.send(answer(request.body))
        connection.socket.close()
        closed.append(connection.number)

    transport = Transport(max_connections=2)
    with RawServer(once) as server:
        async with client_over(transport) as client:
            for number in range(6):
                assert await ask(client, server.base_url, f"{number}") == f"{number}"
                await until(lambda number=number: number in closed)  # type: ignore[misc]  # mypy can't infer it
                assert lost_places(transport) == 0

    assert used(server) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_dead_idle_connection_does_not_keep_the_loop_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop watches sockets between calls too; catches one that wakes it forever once the server has hung up."""
    woken: list[int] = []
    wake = PlainSocket._wake

    def count(self: PlainSocket) -> None:
        woken.append(1)
        wake(self)

    monkeypatch.setattr(PlainSocket, "_wake", count)

    def once(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer(b"a"))

    with RawServer(once) as server:
        async with client_over(Transport()) as client:
            await ask(client, server.base_url, "a")
            before = len(woken)
            await until(lambda: len(woken) > before)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()

    assert len(woken) == before + 1


SURPLUS = {
    "a second answer": (answer(b"good") + answer(b"evil"), b""),
    "a second answer, later": (answer(b"good"), answer(b"evil")),
    "a length within the body": (answer(b"goodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", length=4), b""),
    "garbage, later": (answer(b"good"), b"garbage"),
    "after chunks": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n" + answer(b"evil"),
        b"",
    ),
}


def surplus(at_once: bytes, later: bytes, go_on: threading.Event, sent: threading.Event) -> Script:
    """Make a script that sends more than it was asked for, the first answer in two pieces."""

    def script(connection: Connection) -> None:
        connection.read_request()
        piece = at_once.index(b"good") + 2
        connection.send(at_once[:piece])
        go_on.wait(20)
        connection.send(at_once[piece:])
        if later:
            connection.server.stopping.wait(0.01)
            connection.send(later)
        sent.set()
        connection.stall()

    return script


@pytest.mark.parametrize("case", SURPLUS)
@pytest.mark.parametrize("queued", [False, True], ids=["idle", "handed over"])
async def test_bytes_after_an_answer_never_reach_the_next_call(case: str, *, queued: bool) -> None:
    """Rows F25, F45: the connection is dropped, also where a call waits for it; catches a poisoned answer."""
    go_on, sent = threading.Event(), threading.Event()
    transport = Transport(max_connections=1)
    got: list[str] = []
    with RawServer(surplus(*SURPLUS[case], go_on, sent), answering(answer(b"fresh"))) as server:
        async with client_over(transport) as client, anyio.create_task_group() as group:

            async def call() -> None:
                got.append(await ask(client, server.base_url, "next"))

            async with client.stream("POST", server.base_url, content=b"first") as response:
                if queued:
                    group.start_soon(call)
                    await until(lambda: state(transport).waiting)
                go_on.set()
                await until(sent.is_set)
                assert await response.aread() == b"good"
            if not queued:
                await call()

    assert got == ["fresh"]


@pytest.mark.parametrize("case", SURPLUS)
async def test_bytes_after_an_answer_in_one_piece_never_reach_the_next_call(case: str) -> None:
    """As above where nothing holds the answer back; catches the short way that ends too early."""
    go_on, sent = threading.Event(), threading.Event()
    go_on.set()
    at_once, later = SURPLUS[case]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(at_once)
        connection.send(later)
        sent.set()
        connection.stall()

    with RawServer(script, answering(answer(b"fresh"))) as server:
        async with client_over(Transport(max_connections=1)) as client:
            assert await ask(client, server.base_url, "first") == "good"
            await until(sent.is_set)
            assert await ask(client, server.base_url, "next") == "fresh"


async def test_a_full_pool_gives_up_an_idle_connection_to_another_service() -> None:
    """The longest idle goes; catches a call that waits forever although nobody uses the connections."""
    transport = Transport(max_connections=2)
    with RawServer(echo) as first, RawServer(echo) as second:
        async with client_over(transport, pool=5) as client:
            await assert_sound(transport, client, first.base_url)

            answers = [await ask(client, second.base_url, "a"), await ask(client, first.base_url, "b")]

            assert (idle_count(transport), lost_places(transport)) == (2, 0)

    assert answers == ["a", "b"]
    assert used(first)[2] in {0, 1}


async def test_a_connection_of_another_service_that_comes_free_makes_room() -> None:
    """A waiting call gets its place, not its socket; catches a request to the wrong service, and a place too many."""
    transport = Transport(max_connections=1)
    got: list[str] = []
    with RawServer(echo) as first, RawServer(echo) as second:
        async with client_over(transport) as client:
            async with (
                anyio.create_task_group() as group,
                client.stream("POST", first.base_url, content=HELD) as response,
            ):

                async def call() -> None:
                    got.append(await ask(client, second.base_url, "to the second"))

                group.start_soon(call)
                await until(lambda: state(transport).waiting)
                await response.aread()
            assert (idle_count(transport), lost_places(transport)) == (1, 0)

    assert got == ["to the second"]
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_a_call_that_waits_too_long_for_a_connection_times_out() -> None:
    """Row F52; catches a wait without a bound, and a waiter that stays in the queue."""
    transport = Transport(max_connections=1)
    with RawServer(echo) as server:
        async with client_over(transport, pool=0.05) as client:
            async with client.stream("POST", server.base_url, content=HELD) as response:
                with pytest.raises(httpx.PoolTimeout):
                    await ask(client, server.base_url, "y")
                await response.aread()
            await assert_sound(transport, client, server.base_url)


async def test_closing_ends_everything() -> None:
    """Idle connections, calls under way and waiting calls; later calls fail, twice is fine; F56."""
    transport = Transport(max_connections=2)
    errors: list[type[Exception]] = []

    async def call() -> None:
        try:
            await transport.handle_async_request(httpx.Request("GET", server.base_url))
        except httpx.TransportError as error:
            errors.append(type(error))

    with RawServer(stall_after_request) as server:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(call)
            await until(lambda: len(server.requests) == 2 and state(transport).waiting == 2)
            await transport.aclose()
        await transport.aclose()
        await call()

    assert sorted(error.__name__ for error in errors) == ["ConnectionsClosedError"] * 3 + ["ReadError"] * 2


async def test_closing_while_a_call_connects_ends_it() -> None:
    """It would wait for its answer for as long as its timeout allows; catches a connection that came too late."""

    class Closing(Connector):
        async def connect(self, origin: Origin) -> Stream:
            stream = await super().connect(origin)
            await transport.aclose()
            return stream

    transport = GivenTransport(connector=lambda _: Closing(shared_context))

    with (
        RawServer(stall_after_request) as server,
        anyio.fail_after(10),
        pytest.raises(httpx.ReadError, match="closed"),
    ):
        await transport.handle_async_request(httpx.Request("GET", server.base_url))

    assert not server.requests


async def test_closing_during_a_blocked_upload_ends_the_call() -> None:
    """Catches a writer that nobody wakes when its socket is closed."""
    transport = Transport()
    with RawServer(stall_at_once) as server:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                with pytest.raises(httpx.TransportError):
                    await transport.handle_async_request(
                        httpx.Request("POST", server.base_url, content=b"x" * 20_000_000)
                    )

            group.start_soon(call)
            await until(lambda: server.accepted == 1 and state(transport).busy)
            await anyio.sleep(0.05)
            await transport.aclose()


def test_closed_is_an_error_of_httpx() -> None:
    """So that whoever catches httpx's transport errors catches this one; catches an error nobody maps."""
    assert issubclass(ConnectionsClosedError, httpx.TransportError)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "ws://127.0.0.1/"])
async def test_other_protocols_are_refused(url: str) -> None:
    """Catches a request in plain text to a scheme nobody speaks."""
    with pytest.raises(httpx.UnsupportedProtocol):
        await Transport().handle_async_request(httpx.Request("GET", url))
