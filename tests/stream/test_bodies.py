"""The body of a customer stream: its type, charset, compression and chunks, and the updates in it."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoClosedError,
    PerkamoStreamError,
)
from perkamo.stream.sse import MAX_EVENT_SIZE
from perkamo.stream.stream import CustomerStream
from tests.faults.rawserver import Connection, RawServer, answer
from tests.stream.scripts import (
    CHUNKED,
    HEAD,
    collect,
    customer,
    event,
    gone,
    points,
    resumed_at,
    sending,
    stalling,
    subscribe,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "kind",
    [
        "text/event-stream",
        "text/event-stream;charset=utf-8",
        "text/event-stream ; charset=utf-8",
        "text/event-stream;",
        "Text/Event-Stream",
        "text/event-stream; charset=windows-1252",
        "text/event-stream; charset=utf-16",
        "text/event-stream; charset=nonsense",
    ],
)
async def test_an_event_stream_is_utf_8_whatever_its_label_says(kind: str) -> None:
    """The essence of the type counts, in any case, and no charset changes the text; C1, C4."""
    head = HEAD.replace(b"text/event-stream", kind.encode())
    body = '{"user_id":"u","traits":{"name":"Žofie 😀"}}'.encode()

    with RawServer(sending(b"data: " + body + b"\n\n", head=head), gone) as server:
        [update] = await collect(subscribe(server))

    assert update.customer.traits == {"name": "Žofie 😀"}


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/json",
        "text/html",
        "x bogus",
        "",
        None,
        "text/event-streamx",
        "xtext/event-stream",
        "application/text/event-stream",
        "text/event-stream, text/html",
    ],
)
async def test_any_other_type_is_final(kind: str | None) -> None:
    """Neither a prefix nor a part of the name will do, and no event comes of it; C2, C3."""
    line = b"" if kind is None else f"content-type: {kind}\r\n".encode()
    head = HEAD.replace(b"content-type: text/event-stream\r\n", line)

    with RawServer(sending(event(1), head=head)) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server))

    assert "content type" in str(caught.value)
    assert caught.value.status == 200
    assert len(server.requests) == 1


async def test_invalid_utf_8_is_replaced_and_the_stream_goes_on() -> None:
    """A broken letter costs that letter; C5, D14."""
    broken = b'data: {"user_id":"u","traits":{"name":"\xff"}}\n\n'

    with RawServer(sending(broken, b"unknown: field\n\n", event(2)), gone) as server:
        first, second = await collect(subscribe(server))

    assert first.customer.traits == {"name": "\ufffd"}
    assert points([second]) == [2]
    assert len(server.requests) == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_stream_comes_out_promptly(encoding: str) -> None:
    """A gateway may compress unasked: each event is out when its bytes are in; C6."""
    head = HEAD.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {encoding}\r\n\r\n".encode())
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    first, second = (compressor.compress(event(n)) + compressor.flush(zlib.Z_SYNC_FLUSH) for n in (1, 2))
    received = anyio.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + first)
        while not received.is_set() and not connection.server.stopping.wait(0.005):
            pass
        connection.send(second)

    with RawServer(script, gone) as server, anyio.fail_after(30):
        async with subscribe(server) as stream:
            one = await stream.receive()
            received.set()
            two = await stream.receive()

    assert one is not None
    assert two is not None
    assert points([one, two]) == [1, 2]


@pytest.mark.sample(2)
async def test_a_compressed_bomb_is_taken_in_small_pieces() -> None:
    """A hundred megabytes of comments in a hundred kilobytes are read without holding them; G2."""
    bomb = gzip.compress(b":" + b"x" * 100_000_000 + b"\n" + event(1))
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")

    with RawServer(sending(bomb, head=head), gone) as server:
        tracemalloc.start()
        try:
            updates = await collect(subscribe(server))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert points(updates) == [1]
    assert peak < 8_000_000


async def test_a_broken_compression_is_a_broken_connection() -> None:
    """It is made again, like every connection that breaks."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")

    with RawServer(sending(b"this is no gzip", head=head), sending(event(1)), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1]


async def test_an_encoding_that_was_not_asked_for_is_final() -> None:
    """What can't be read is said, and not asked for again."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: br\r\n\r\n")

    with RawServer(sending(b"?", head=head)) as server, pytest.raises(PerkamoStreamError, match="encoded"):
        await collect(subscribe(server))

    assert len(server.requests) == 1


async def test_each_connection_may_begin_with_a_mark() -> None:
    """A byte-order mark is stripped once per connection; C7."""
    with RawServer(sending(b"\xef\xbb\xbf", event(1)), sending(b"\xef\xbb\xbf", event(2)), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1, 2]


async def test_an_update_has_customer_name_id_and_meta() -> None:
    """Unknown event names and fields pass through; the request id of the connection is at hand."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\nx-perkamo-request-id: req_9\r\n\r\n")
    data = b'{"user_id":"customer_123","wallets":{"points":5},"streak":{"days":3}}'

    with RawServer(sending(b"id: 7\nevent: streak.kept\ndata: " + data + b"\n\n", head=head), gone) as server:
        [update] = await collect(subscribe(server))

    assert (update.event, update.id) == ("streak.kept", "7")
    assert update.customer.raw["streak"] == {"days": 3}
    assert update.customer.meta.request_id == "req_9"
    assert "customer_123" not in repr(update)


BAD = [
    b"data: {",
    b"data: []",
    b"data: null",
    b"data",
    b'data: {"id":5}',
    b'data: {"type":"ping"}',
    b"data: NaN",
]


@pytest.mark.parametrize("data", [b'{"user_id":5}', b'{"user_id":"u","wallets":{"points":"5"}}', b'{"perks":null}'])
async def test_an_odd_customer_is_an_update_as_it_is_an_answer(data: bytes) -> None:
    """What is not published never ends a stream; catches a stream that ends at the first perk of another shape."""
    with RawServer(sending(b"data: " + data + b"\n\n"), gone) as server:
        [update] = await collect(subscribe(server))

    assert update.customer.wallets == {}
    assert update.customer.raw == json.loads(data)


@pytest.mark.parametrize("line", BAD)
async def test_data_that_is_no_customer_raises(line: bytes) -> None:
    """What came before is delivered, the error shows none of the data, and resuming would begin at the bad event."""
    with RawServer(sending(event(1, "1"), b"id: 2\n", line, b"\n\n", event(3, "3"))) as server:
        stream = subscribe(server)
        async with stream:
            first = await stream.receive()
            with pytest.raises(PerkamoStreamError) as caught:
                await stream.receive()

            assert await stream.receive() is None
    assert first is not None
    assert "not a customer" in str(caught.value)
    assert stream.last_event_id == "1"


@pytest.mark.parametrize("line", BAD)
async def test_data_that_is_no_customer_may_be_skipped(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """By the caller's choice: it is passed over with a warning, and not asked for again."""
    with RawServer(sending(event(1, "1"), b"id: 2\n", line, b"\n\n"), gone) as server:
        updates = await collect(subscribe(server, bad_data="skip"))

    assert points(updates) == [1]
    assert resumed_at(server) == [None, "2"]
    assert "skipped an event" in caplog.text


async def test_a_closed_client_has_no_streams() -> None:
    """Subscribing at a closed client fails when the first update is asked for; nothing is sent."""
    with RawServer(gone) as server:
        client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url)
        await client.aclose()
        with pytest.raises(PerkamoClosedError):
            await collect(client.subscribe_customer("customer_123", "token_1"))

    assert server.accepted == 0


async def test_a_hundred_streams_leave_the_client_its_connections() -> None:
    """Streams hold their connections for hours: each has its own, so that calls still get through."""

    def either(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        if "stream" in request.line:
            connection.send(HEAD + event(1))
            connection.stall()
        else:
            connection.send(answer(customer(5)))

    with RawServer(either) as server, anyio.fail_after(60):
        async with AsyncPerkamoClient("sk_test_x", base_url=server.base_url, timeout=10) as client:
            streams: list[CustomerStream] = [client.subscribe_customer("customer_123", "token_1") for _ in range(110)]
            for stream in streams:
                await stream.receive()
            found = await client.customer("customer_123")
            for stream in streams:
                await stream.aclose()

    assert found.wallets == {"points": 5}


async def test_a_callers_own_http_client_serves_the_stream_and_stays_open() -> None:
    """Its defaults are not sent, and the stream's end does not close it; I4."""
    with RawServer(sending(event(1)), stalling(event(2)), gone) as server:
        async with httpx.AsyncClient(headers={"accept": "x/y"}, follow_redirects=True) as own:
            client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url, http_client=own)
            async with client.subscribe_customer("customer_123", "token_1") as stream:
                await stream.receive()
                await stream.receive()
            assert not own.is_closed
            assert (await own.get(server.base_url)).status_code == 204

    assert server.requests[0].headers["accept"] == "text/event-stream"


async def test_each_attempt_has_a_connection_of_its_own() -> None:
    """A connection kept from before may be dead by now, which would cost an attempt; none is used again."""

    def patient(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(CHUNKED + b"0\r\n\r\n")

    with RawServer(patient, patient, gone) as server:
        await collect(subscribe(server))

    assert [request.connection for request in server.requests] == [0, 1, 2]


async def test_a_transport_may_hand_over_everything_in_one_piece() -> None:
    """Events before an oversized one come out first, also where a caller's own transport does not cut the body."""
    body = event(1) + event(2) + b"data: " + b"x" * (MAX_EVENT_SIZE + 1) + b"\n\n"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_OnePiece(body))
    )

    async with httpx.AsyncClient(transport=transport) as own:
        client = AsyncPerkamoClient("sk_test_x", base_url="http://localhost:1", http_client=own)
        async with client.subscribe_customer("customer_123", "token_1") as stream:
            first, second = await stream.receive(), await stream.receive()
            with pytest.raises(PerkamoStreamError, match="larger"):
                await stream.receive()

    assert first is not None
    assert second is not None
    assert points([first, second]) == [1, 2]


class _OnePiece(httpx.AsyncByteStream):
    """A body that comes as a whole, and then nothing."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
        await anyio.sleep_forever()


async def test_chunked_bodies_are_streams_as_well() -> None:
    """What most servers send: chunks, and an end in order."""
    one, end = event(1), b"0\r\n\r\n"
    chunked = b"%x\r\n%s\r\n" % (len(one), one)

    with RawServer(sending(chunked, end, head=CHUNKED), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1]
    await until(lambda: len(server.requests) == 2)
