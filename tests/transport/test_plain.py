"""plain: the short way writes and reads as h11 does, or leaves it to h11."""

import random
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import h11
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perkamo.transport import plain
from perkamo.transport.http1 import Exchange
from tests.tables.answers import ANSWERS, PIECES

Result: TypeAlias = tuple[object, ...]
FAILED: Final[Result] = ("failed",)
GOOD: Final = [data for data in ANSWERS if plain.read(data) is not None]


def h11_reads(parts: Sequence[bytes], *, ends: bool) -> Result:
    """Return what h11 makes of the answer to a GET: head, body, whether it is whole, whether the connection is good."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    head: Result = ()
    body, whole = b"", False
    try:
        for part in (*parts, *([b""] if ends else [])):
            reader.receive_data(part)
            while not whole:
                event = reader.next_event()
                if isinstance(event, h11.Response):
                    head = (event.status_code, bytes(event.reason), b"HTTP/" + event.http_version, named(event.headers))
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    whole = True
                elif event is h11.NEED_DATA:
                    break
                elif not isinstance(event, h11.InformationalResponse):
                    return FAILED
    except h11.RemoteProtocolError:
        return FAILED
    is_good = reader.our_state is reader.their_state is h11.DONE and not reader.trailing_data[0]
    return (head, body, whole, whole and is_good and not ends)


def named(headers: h11._headers.Headers) -> list[tuple[bytes, bytes]]:
    """Return names and values as bytes."""
    return [(bytes(name), bytes(value)) for name, value in headers.raw_items()]


def ours_reads(parts: Sequence[bytes], *, ends: bool) -> Result:
    """Return the same of an exchange of ours."""
    exchange = Exchange(httpx.Request("GET", "http://x/"), ())
    head: Result = ()
    body, whole = b"", False
    try:
        for part in (*parts, *([b""] if ends else [])):
            if not whole or part:
                exchange.feed(part)
            found = exchange.find_head()
            if found is None:
                continue
            head = (found.status, bytes(found.reason), bytes(found.http_version), as_bytes(found.headers))
            while not whole and (data := exchange.next_part()) != b"":
                whole = data is None
                body += data or b""
    except httpx.RemoteProtocolError:
        return FAILED
    return (head, body, whole, whole and exchange.leaves_connection() and not ends)


def as_bytes(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return names and values as bytes."""
    return [(bytes(name), bytes(value)) for name, value in headers]


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Make answers out of the known ones: each by up to four cuts, copies, insertions, changed bytes or crossings."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(ANSWERS if chance.random() < 0.3 else GOOD))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data) + 1)
            kind = chance.randrange(6)
            if kind == 0:
                data[at : at + chance.randrange(1, 8)] = b""
            elif kind == 1:
                data[at:at] = chance.choice(PIECES)
            elif kind == 2:
                data[at:at] = data[at : at + chance.randrange(1, 40)]
            elif kind == 3 and at < len(data):
                data[at] = chance.randrange(256)
            elif kind == 4 and at < len(data):
                data[at] ^= 0x20
            elif kind == 5:
                other = chance.choice(ANSWERS)
                data[at:] = other[chance.randrange(len(other)) :]
        yield bytes(data)


def check(seed: int, count: int) -> int:
    """Compare mutated answers with h11: all that go the short way, and some of the others; return how many went it."""
    chance = random.Random(seed)
    short = 0
    for data in mutated(seed, count):
        is_short = plain.read(data) is not None
        short += is_short
        if not is_short and chance.random() > 0.05:
            continue
        ends = chance.random() < 0.3
        parts = [data]
        if chance.random() < 0.3:
            cuts = sorted(chance.randrange(len(data) + 1) for _ in range(3))
            parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]
        assert ours_reads(parts, ends=ends) == h11_reads(parts, ends=ends), (parts, ends)
    return short


@pytest.mark.parametrize("data", ANSWERS)
def test_a_known_answer_is_read_as_h11_reads_it(data: bytes) -> None:
    """Whole, byte by byte, cut anywhere, and with the connection's end; catches a difference in any part."""
    for ends in (False, True):
        assert ours_reads([data], ends=ends) == h11_reads([data], ends=ends)
        assert ours_reads([bytes((one,)) for one in data], ends=ends) == h11_reads([data], ends=ends)
        for cut in range(1, len(data)):
            parts = [data[:cut], data[cut:]]
            assert ours_reads(parts, ends=ends) == h11_reads(parts, ends=ends)


def test_mutated_answers_are_read_as_h11_reads_them() -> None:
    """Of 10,000, more than a fifth goes the short way; catches one that is accepted otherwise than h11 would."""
    assert check(1, 10_000) > 2_000


@pytest.mark.release
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_million_mutated_answers_are_read_as_h11_reads_them(seed: int) -> None:
    """The same with other seeds, 100,000 for each."""
    assert check(seed, 100_000) > 20_000


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nDate: today\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    ],
)
def test_a_plain_answer_goes_the_short_way(data: bytes) -> None:
    """Catches a short way that nothing takes."""
    assert plain.read(data) is not None


TOKENS = st.text("abXY-_.!1: \r\n\t\x00é", min_size=0, max_size=6).map(lambda text: text.encode("latin-1"))
VALUES = st.text("ab 1:\r\n\t\x00\x7fé", min_size=0, max_size=8).map(lambda text: text.encode("latin-1"))
SPECIAL = st.sampled_from(
    [
        *((b"Host", b"h"), (b"host", b"other"), (b"Content-Length", b"3"), (b"content-length", b"03")),
        *((b"Content-Length", b"4"), (b"Transfer-Encoding", b"chunked"), (b"Connection", b"close")),
        *((b"Connection", b"keep-alive"), (b"Expect", b"100-continue"), (b"Upgrade", b"h2c"), (b"X", b"y")),
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "G ET", "PO\r\nST", "", "é"]),
    target=st.sampled_from([b"/", b"/a?b=c", b"http://h/a", b"/a b", b"/\r\n", b"", b"/\xe9"]),
    headers=st.lists(SPECIAL | st.tuples(TOKENS, VALUES), max_size=6),
    body=st.sampled_from([b"", b"abc"]),
)
@example(method="POST", target=b"/", headers=[(b"Host", b"h"), (b"Content-Length", b"3")], body=b"abc")
@example(method="GET", target=b"/", headers=[(b"Host", b"h"), (b"A", b"b\r\nC: d")], body=b"")
@example(method="GET", target=b"/", headers=[(b"Host", b"h"), (b"A: b\r\nC", b"d")], body=b"")
@example(method="GET", target=b"/", headers=[(b"Host", b"h"), (b"A: b", b"d")], body=b"")
def test_what_is_written_h11_would_write_alike(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Byte for byte, but that h11 moves the host to the front; catches a header that is let in, or two for one."""
    written = plain.write(method, target, [(b"Host", b"first"), *headers], body)
    again = plain.write(method, target, headers, body)

    for data, all_headers in ((written, [(b"Host", b"first"), *headers]), (again, headers)):
        if data is None:
            continue
        writer = h11.Connection(h11.CLIENT)
        ordered = sorted(all_headers, key=lambda header: header[0].lower() != b"host")
        event = h11.Request(method=method, target=target, headers=ordered)
        expected = (writer.send(event) or b"") + (writer.send(h11.Data(body)) or b"")
        writer.send(h11.EndOfMessage())
        assert sorted(data.split(b"\r\n")) == sorted(expected.split(b"\r\n"))
        assert data.partition(b"\r\n")[0] == expected.partition(b"\r\n")[0]
        assert data.endswith(b"\r\n\r\n" + body)


def test_a_long_run_of_spaces_costs_no_more_than_its_length() -> None:
    """A hostile header must not keep the loop busy; catches a pattern that tries every split of it."""
    for filler in (b" " * 60_000, b"a " * 30_000, b"\t" * 60_000):
        assert plain.read(b"HTTP/1.1 200 OK\r\nx: a" + filler + b"\x00\r\ncontent-length: 0\r\n\r\n") is None
