"""body: what Content-Encoding may say, for calls and streams, and bodies that are too large."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from perkamo import AsyncPerkamoClient, PerkamoResponseError, PerkamoStreamError, RetryPolicy
from perkamo.request.body import MAX_BODY_BYTES
from tests.faults.rawserver import RESULT, Connection, RawServer, answer, answering
from tests.stream.scripts import HEAD, collect, customer, event, gone, points, sending, subscribe

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)


def bare_deflate(data: bytes) -> bytes:
    """Compress without a header, as some servers understand deflate."""
    maker = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return maker.compress(data) + maker.flush()


def as_it_is(data: bytes) -> bytes:
    """Compress nothing."""
    return data


def in_members(data: bytes) -> bytes:
    """Compress in three members, one of them empty."""
    return gzip.compress(data[:10]) + gzip.compress(b"") + gzip.compress(data[10:])


ENCODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", as_it_is),
    (" ", as_it_is),
    ("none", as_it_is),
    ("identity", as_it_is),
    ("Identity, none,", as_it_is),
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    (" gzip ", gzip.compress),
    ("x-gzip", gzip.compress),
    ("identity, gzip", gzip.compress),
    ("gzip,identity", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("deflate", gzip.compress),
    ("gzip", zlib.compress),
    ("gzip", in_members),
    ("gzip", lambda data: gzip.compress(data) + b"\0" * 512),
    ("gzip", lambda data: gzip.compress(data) + b"garbage"),
    ("gzip", lambda data: gzip.compress(data) + b"\x1f"),
    ("deflate", lambda data: zlib.compress(data) + b"\r\n"),
]
NAMES = [f"{number}: {header.strip()}" for number, (header, _) in enumerate(ENCODINGS)]


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize(("header", "encode"), ENCODINGS, ids=NAMES)
async def test_an_answer_is_read_however_it_is_encoded(
    header: str, encode: Callable[[bytes], bytes], cut: int | None
) -> None:
    """Whole or in small pieces; catches an applied event that reads as a broken answer."""
    whole = answer(encode(RESULT), headers=[f"content-encoding: {header}"])

    def script(connection: Connection) -> None:
        while connection.read_request() is not None:
            for start in range(0, len(whole), cut or len(whole)):
                connection.send(whole[start : start + (cut or len(whole))])

    with RawServer(script) as server:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url, retry=RetryPolicy.none()) as client:
            results = [await client.emit("u", "e") for _ in range(2)]

    assert [result.accepted for result in results] == [True, True]
    assert server.accepted == 1


@pytest.mark.parametrize("header", ["", "gzip", "deflate", "br", "gzip, gzip", "nonsense"])
@pytest.mark.parametrize("head", ["204 No Content", "200 OK"])
async def test_a_body_that_is_not_there_needs_no_decoding(head: str, header: str) -> None:
    """Whatever its encoding is called; catches an applied identify that reads as a broken answer."""
    with RawServer(answering(answer(b"", head, [f"content-encoding: {header}"]))) as server:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url, retry=RetryPolicy.none()) as client:
            identified = await client.identify("u", {"a": 1})

    assert identified.raw == {}


class Nothing(httpx.AsyncByteStream):
    """A body of one empty part, as some transports make it."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""


async def test_an_empty_part_needs_no_decoding_either() -> None:
    """Whoever sent it; catches a look at parts in place of bytes."""
    handle = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-encoding": "br"}, stream=Nothing()))
    async with (
        httpx.AsyncClient(transport=handle) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http) as client,
    ):
        assert (await client.identify("u", {})).raw == {}


BROKEN: list[tuple[str, bytes, str]] = [
    ("br", RESULT, "is encoded in a way that was not asked for"),
    ("zstd", RESULT, "is encoded in a way that was not asked for"),
    ("gzip, br", gzip.compress(RESULT), "is encoded in a way that was not asked for"),
    ("gzip, gzip", gzip.compress(gzip.compress(RESULT)), "is encoded in a way that was not asked for"),
    ("gzip", RESULT, "is compressed, and broken"),
    ("gzip", gzip.compress(RESULT)[:-1], "is compressed, and incomplete"),
    ("gzip", gzip.compress(RESULT) + b"\x1f\x8b", "is compressed, and incomplete"),
    ("gzip", gzip.compress(RESULT) + b"\x1f\x8bgarbage", "is compressed, and broken"),
    ("gzip", b"\x1f", "is compressed, and incomplete"),
    ("gzip", gzip.compress(RESULT)[:-8] + b"\0" * 8, "is compressed, and broken"),
]


@pytest.mark.parametrize(("header", "body", "reason"), BROKEN)
async def test_an_answer_that_cannot_be_read_does_not_say_that_a_call_failed(
    header: str, body: bytes, reason: str
) -> None:
    """One request, and the event may have been applied; catches a retry, and a text that denies it."""
    with RawServer(answering(answer(body, headers=[f"content-encoding: {header}"]))) as server:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url, retry=QUICK) as client:
            with pytest.raises(
                PerkamoResponseError, match=f"answered 200, but the body {reason}. It may have"
            ) as caught:
                await client.emit("u", "e")
        assert len(server.requests) == 1

    assert (caught.value.outcome, caught.value.attempts, caught.value.retryable) == ("unknown", 1, True)


class BreaksAfter(httpx.AsyncByteStream):
    """A body that breaks off once it is larger than anybody reads."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65_536 + 1):
            yield b" " * 65_536
        raise httpx.ReadError("the connection was closed")


async def test_a_body_that_is_too_large_is_no_broken_connection() -> None:
    """The connection breaks while the body is given up, and the reason stays; catches three requests for it."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, stream=BreaksAfter())

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoResponseError, match="is larger than 8 MiB") as caught:
            await client.emit("u", "e")

    assert (len(sent), caught.value.outcome) == (1, "unknown")


async def test_any_number_of_members_stays_within_the_bound() -> None:
    """Empty members have no content to count; catches a body that is decompressed without end."""
    member = gzip.compress(b"")
    body = member * (MAX_BODY_BYTES // len(member) + 1)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + body)

    patient = RetryPolicy(attempts=1, attempt_timeout=60)  # 400,000 members are work for a slow machine
    with RawServer(script) as server:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url, retry=patient) as client:
            with pytest.raises(PerkamoResponseError, match="is larger than 8 MiB"):
                await client.emit("u", "e")


@pytest.mark.parametrize(("header", "encode"), ENCODINGS, ids=NAMES)
async def test_a_stream_is_read_however_it_is_encoded(header: str, encode: Callable[[bytes], bytes]) -> None:
    """As an answer is; catches a stream that is refused for the name of an encoding that is none."""
    head = HEAD.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {header}\r\n\r\n".encode())
    with RawServer(sending(encode(event(1) + event(2)), head=head), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1, 2]


@pytest.mark.parametrize("header", ["gzip", "br"])
async def test_a_stream_that_ends_with_an_encoded_204_ends(header: str) -> None:
    """Nothing to subscribe to is nothing to decode; catches an error in place of the end."""
    over = b"HTTP/1.1 204 No Content\r\ncontent-encoding: " + header.encode() + b"\r\n\r\n"
    with RawServer(sending(event(1)), sending(head=over)) as server:
        assert points(await collect(subscribe(server))) == [1]


async def test_an_error_answer_to_a_stream_is_decoded() -> None:
    """The message of a compressed 404 is shown; catches bytes of gzip in place of a reason."""
    body = gzip.compress(b'{"message":"No such Space"}')
    head = b"HTTP/1.1 404 No\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    with RawServer(sending(body, head=head)) as server, pytest.raises(PerkamoStreamError, match="404 No such Space"):
        await collect(subscribe(server))


def test_the_samples_are_what_they_say() -> None:
    """The compressed samples decompress to the result; catches a table that tests nothing."""
    assert customer(1).startswith(b"{")
    assert all(encode(RESULT) != RESULT for header, encode in ENCODINGS if "gzip" in header.lower())
