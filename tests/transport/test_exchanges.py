"""One request and its answer over a connection: bodies, and every way to fail."""

import threading
import traceback
from collections.abc import AsyncIterator

import httpx
import pytest

from perkamo.transport.transport import Transport
from tests.canary import PACKAGE
from tests.faults.rawserver import Connection, RawServer, Script, answer
from tests.transport.pool import ask, assert_sound, client_over, echo, lost_places, state
from tests.transport.pooling import stall_after_request, stall_at_once, used
from tests.waiting import until

pytestmark = pytest.mark.anyio

SECRET = "sk_test_canary_7d1f0c52b9"


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


async def test_a_body_that_takes_its_time_holds_no_connection() -> None:
    """While it is made, the only connection goes stale; catches one that was taken before, and fails the request."""

    async def body() -> AsyncIterator[bytes]:
        assert await ask(client, server.base_url, "meanwhile") == "meanwhile"
        closing.set()
        await until(lambda: not is_open())
        yield b"late"

    def serve_two(connection: Connection) -> None:
        for _ in range(2):
            request = connection.read_request()
            assert request is not None
            connection.send(answer(request.body))
        closing.wait(20)

    def is_open() -> bool:
        [idle] = transport._pool()._idle.values()
        return idle[0].is_idle()

    closing = threading.Event()
    transport = Transport(max_connections=1)
    with RawServer(serve_two, echo) as server:
        async with client_over(transport, pool=1) as client:
            await ask(client, server.base_url, "first")
            response = await client.post(server.base_url, content=body(), headers={"content-length": "4"})

    assert response.content == b"late"
    assert used(server) == [0, 0, 1]


async def test_an_answer_during_the_upload_is_heard() -> None:
    """Row F13, with interim answers first; the rest of the body is not sent; catches a write that waits forever."""

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


async def test_an_upload_waits_for_room_and_is_sent_whole() -> None:
    """More than the kernel takes at once arrives; catches a wait for room that is taken for an answer of the peer."""

    def script(connection: Connection) -> None:
        connection.server.stopping.wait(0.02)
        request = connection.read_request()
        connection.send(answer(b"none" if request is None else b"%d" % len(request.body)))

    with RawServer(script) as server:
        async with client_over(Transport()) as client:
            response = await client.post(server.base_url, content=b"x" * 8_000_000)

    assert response.text == "8000000"


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
