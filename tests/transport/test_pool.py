"""connections: reuse, idle connections, surplus bytes, streaming, timeouts, errors, closing."""

import threading
import traceback
from collections.abc import AsyncIterator

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
from tests.canary import PACKAGE
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
    until,
)

pytestmark = pytest.mark.anyio

SECRET = "sk_test_canary_7d1f0c52b9"


def used(server: RawServer) -> list[int]:
    """Return on which connection each request came."""
    return [request.connection for request in server.requests]


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
    """The loop watches sockets between calls too; catches one that wakes it for ever once the server has hung up."""
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
    """The longest idle goes; catches a call that waits for ever although nobody uses the connections."""
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


async def test_a_body_is_streamed_and_broken_off() -> None:
    """Parts come as they are sent; left early, the connection is closed; catches one that is used again."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        connection.stall()

    transport = Transport(max_connections=1)
    with RawServer(script, echo) as server:
        async with client_over(transport) as client:
            async with client.stream("GET", server.base_url) as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"first"
                assert state(transport).busy
                await response.aclose()
                assert [part async for part in parts] == []
            assert not state(transport).busy
            await assert_sound(transport, client, server.base_url)

    assert used(server) == [0, 1]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_bodies_of_every_size_arrive_whole(size: int) -> None:
    """Also where the socket takes less than is offered; catches bytes sent twice or left behind."""
    text = "".join(chr(33 + n % 90) for n in range(1000)) * (size // 1000 + 1)
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            assert await ask(client, server.base_url, text[:size]) == text[:size]


async def test_a_body_that_comes_in_parts_is_sent_in_parts() -> None:
    """Catches a part that is lost between two writes."""
    parts = [bytes([65 + n]) * 50_000 for n in range(10)]

    async def content() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            response = await client.post(
                server.base_url, content=content(), headers={"content-length": str(sum(map(len, parts)))}
            )

    assert response.content == b"".join(parts)


async def test_an_answer_during_the_upload_is_heard() -> None:
    """Row F13, with interim answers first; the rest of the body is not sent; catches a write that waits for ever."""

    def script(connection: Connection) -> None:
        connection.read_some(100)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.server.stopping.wait(0.02)
        connection.send(answer(b"too much", "413 Too Large"))
        connection.stall()

    transport = Transport(max_connections=1)
    with RawServer(script, echo) as server:
        async with client_over(transport) as client:
            response = await client.post(server.base_url, content=b"x" * 20_000_000)
            assert (response.status_code, response.text) == (413, "too much")
            await assert_sound(transport, client, server.base_url)


def stall_after_request(connection: Connection) -> None:
    """Read the request and say nothing."""
    connection.read_request()
    connection.stall()


def stall_at_once(connection: Connection) -> None:
    """Take nothing of the request."""
    connection.server.stopping.wait(30)


def stall_in_body(connection: Connection) -> None:
    """Begin to answer, and stop."""
    connection.read_request()
    connection.send(answer(b"half")[:-2])
    connection.stall()


def garbage(connection: Connection) -> None:
    """Speak no HTTP."""
    connection.read_request()
    connection.send(b"\x00\x01\r\n\r\n")


def hang_up(connection: Connection) -> None:
    """End without an answer."""
    connection.read_request()


def hang_up_in_body(connection: Connection) -> None:
    """End within the answer."""
    connection.read_request()
    connection.send(answer(b"half", length=99))


def reset(connection: Connection) -> None:
    """Reset after the request."""
    connection.read_request()
    connection.reset()


@pytest.mark.parametrize(
    ("script", "error", "size"),
    [
        (stall_after_request, httpx.ReadTimeout, 1),
        (stall_in_body, httpx.ReadTimeout, 1),
        (stall_at_once, httpx.WriteTimeout, 20_000_000),
        (garbage, httpx.RemoteProtocolError, 1),
        (hang_up, httpx.RemoteProtocolError, 1),
        (hang_up_in_body, httpx.RemoteProtocolError, 1),
        (reset, httpx.ReadError, 1),
    ],
)
async def test_every_failure_is_an_error_of_httpx_that_shows_no_header(
    script: Script, error: type[Exception], size: int
) -> None:
    """With httpx's timeouts kept, no place lost, and the key in no frame, text, cause or context (P10)."""
    transport = Transport(max_connections=1)
    with RawServer(script) as server:
        async with client_over(transport):
            request = httpx.Request(
                "POST",
                server.base_url,
                content=b"x" * size,
                headers={"x-perkamo-api-key": SECRET},
                extensions={"timeout": {"read": 0.1, "write": 0.1, "connect": 5, "pool": 5}},
            )
            with pytest.raises(error) as caught:
                await (await transport.handle_async_request(request)).aread()
            del request

            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            inside = [frame for frame in shown.stack if frame.filename.startswith(PACKAGE)]
            assert inside
            assert not any(SECRET in text for frame in inside for text in (frame.locals or {}).values())
            assert lost_places(transport) == 0


async def test_a_refused_connection_is_a_connect_error() -> None:
    """Row F01; catches an OSError, and a place that a failed connection keeps."""
    transport = Transport(max_connections=1)
    with RawServer(echo) as server:
        url = server.base_url
    async with client_over(transport) as client:
        for _ in range(3):
            with pytest.raises(httpx.ConnectError, match="refused") as caught:
                await client.get(url)
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
            assert lost_places(transport) == 0


async def test_a_header_that_is_none_is_refused_without_showing_it() -> None:
    """h11 puts the whole header into its error's text; catches a key in a message."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            with pytest.raises(httpx.LocalProtocolError) as caught:
                await client.get(server.base_url, headers={"x-perkamo-api-key": f"{SECRET}\r\nx: y"})

    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert not server.requests


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
