"""The decoder of event streams: the standard's rules, every way to cut a stream, its bounds and its cost."""

import time
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perkamo.errors import PerkamoStreamError
from perkamo.stream.sse import MAX_EVENT_SIZE, EventStreamDecoder, ServerSentEvent
from tests.tables.event_streams import ARRIVALS, VECTORS, Arrival, Vector

vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


def decode(chunks: Sequence[bytes], first_id: str = "") -> tuple[list[tuple[str, str, str]], str, int | None]:
    """Return the events of one connection, the id in force at its end and the reconnection time."""
    decoder = EventStreamDecoder(first_id)
    events = [(one.event, one.data, one.id) for chunk in chunks for one in decoder.feed(chunk)]
    return events, decoder.last_event_id, decoder.retry_ms


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    """Cut a body into chunks of a size."""
    return (body[start : start + size] for start in range(0, len(body), size))


@vectors
def test_a_body_means_what_the_standard_says(vector: Vector) -> None:
    """Each body of the table, in one chunk, gives its events, its last id and its reconnection time."""
    result = decode([vector.body], vector.first_id)

    assert result == (list(vector.events), vector.last_event_id, vector.retry_ms)


@vectors
def test_a_cut_anywhere_changes_nothing(vector: Vector) -> None:
    """The same body in two chunks, cut at every byte, and byte by byte, means the same."""
    whole = decode([vector.body], vector.first_id)

    cuts = [decode([vector.body[:at], vector.body[at:]], vector.first_id) for at in range(len(vector.body) + 1)]
    single = decode(list(pieces(vector.body, 1)), vector.first_id)

    assert all(cut == whole for cut in cuts)
    assert single == whole


@pytest.mark.parametrize("arrival", ARRIVALS, ids=lambda arrival: arrival.name)
def test_an_event_is_out_with_its_blank_line(arrival: Arrival) -> None:
    """No event waits for the next chunk, whatever ends its lines."""
    decoder = EventStreamDecoder()

    out = [[event.data for event in decoder.feed(chunk)] for chunk, _ in arrival.chunks]

    assert out == [list(expected) for _, expected in arrival.chunks]


def test_each_connection_begins_clean() -> None:
    """What a connection left unfinished never reaches the next one: name, half a letter, CR; only the id goes over."""
    first = EventStreamDecoder()
    first.feed(b"id: 7\ndata: a\n\nevent: foo\ndata: \xe2\x82\r")

    events = EventStreamDecoder(first.last_event_id).feed(b"\n\xef\xbb\xbfdata: no\n\ndata: b\n\n")

    assert events == [ServerSentEvent("message", "b", "7")]


_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
_NAMES = st.sampled_from(
    [b"data", b"event", b"id", b"retry", b"", b"dat", b"datas", b"Data", b"\xef\xbb\xbfdata", b"comment"]
)
_COLONS = st.sampled_from([b":", b": ", b":  ", b""])
_VALUES = st.one_of(
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
    st.sampled_from([b"", b"12", b"0", b"{}", "é😀\u2028".encode(), b"\x00", b"a:b"]),
)
_LINES = st.builds(lambda *parts: b"".join(parts), _NAMES, _COLONS, _VALUES, _ENDS)
_BLOCKS = st.builds(lambda lines, end: b"".join(lines) + end, st.lists(_LINES, max_size=5), _ENDS)
_BODIES = st.builds(
    lambda mark, blocks, rest: mark + b"".join(blocks) + rest,
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef"]),
    st.lists(_BLOCKS, max_size=6),
    _VALUES,
)


def spelt_out(body: bytes) -> list[tuple[str, str, str]]:
    """The standard's algorithm, word for word and all at once."""
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[tuple[str, str, str]] = []
    data = kind = last_id = ""
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append((kind or "message", data[:-1], last_id))
            data = kind = ""
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


@settings(max_examples=400, deadline=None)
@given(body=_BODIES, data=st.data())
def test_any_chunks_give_what_the_standard_spells_out(body: bytes, data: st.DataObject) -> None:
    """However a stream is made and cut, the events are those of the standard's algorithm."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    events, _, _ = decode(chunks)

    assert events == spelt_out(body)


@settings(max_examples=200, deadline=None)
@given(body=_BODIES, size=st.integers(1, 40))
def test_the_size_limit_does_not_depend_on_chunks(body: bytes, size: int) -> None:
    """The limit strikes at the same place, after the same events, in one chunk or byte by byte."""

    def outcome(chunks: Sequence[bytes]) -> tuple[list[ServerSentEvent], bool]:
        decoder = EventStreamDecoder(max_event_size=size)
        events: list[ServerSentEvent] = []
        try:
            for chunk in (*chunks, b"\n", b""):
                events.extend(decoder.feed(chunk))
        except PerkamoStreamError:
            return events, True
        return events, False

    assert outcome([body]) == outcome(list(pieces(body, 1)))


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_the_size_limit_is_exact(chunk: int) -> None:
    """A block of exactly the limit passes, one byte more fails; ids, names and times count, comments do not."""
    fields = b"event: x\nid: 1\nretry: 5\ndata: "
    room = 100 - len(fields.replace(b"\n", b""))
    fits = b": a comment\nunknown: field\n" + fields + b"y" * room + b"\n\n"
    too_large = fits.replace(b"yy", b"yyy", 1)

    passed, _, _ = _limited(fits, chunk)
    failed, error, _ = _limited(too_large, chunk)

    assert [event.data for event in passed] == ["y" * room]
    assert failed == []
    assert error is not None
    assert "100 bytes" in str(error)
    assert not error.retryable


def _limited(body: bytes, chunk: int, limit: int = 100) -> tuple[list[ServerSentEvent], PerkamoStreamError | None, int]:
    """Feed until the end or an error; return the events, the error and how many bytes were taken."""
    decoder = EventStreamDecoder(max_event_size=limit)
    events: list[ServerSentEvent] = []
    taken = 0
    try:
        for piece in pieces(body, chunk):
            taken += len(piece)
            events.extend(decoder.feed(piece))
            decoder.feed(b"")
    except PerkamoStreamError as error:
        return events, error, taken
    return events, None, taken


def test_the_limit_counts_bytes_and_not_letters() -> None:
    """Letters of three bytes count three."""
    _, fits, _ = _limited(b"data:" + "€".encode() * 31 + b"\n\n", 1)  # 5 + 93 bytes
    _, too_large, _ = _limited(b"data:" + "€".encode() * 32 + b"\n\n", 1000)

    assert fits is None
    assert too_large is not None


def test_a_blank_line_resets_the_size() -> None:
    """A thousand events of nine tenths of the limit pass."""
    events, error, _ = _limited((b"data: " + b"x" * 84 + b"\n\n") * 1000, 4096)

    assert error is None
    assert len(events) == 1000


def test_without_a_limit_an_event_may_be_of_any_size() -> None:
    """None lifts the limit, in one line as in many."""
    decoder = EventStreamDecoder(max_event_size=None)

    [line] = decoder.feed(b"data: " + b"x" * (2 * MAX_EVENT_SIZE) + b"\n\n")
    [lines] = decoder.feed(b"data: x\n" * MAX_EVENT_SIZE + b"\n")

    assert len(line.data) == 2 * MAX_EVENT_SIZE
    assert len(lines.data) == 2 * MAX_EVENT_SIZE - 1


@pytest.mark.parametrize("line", [b"data: x\n", b"data\n", b"id: 1\n", b"event: x\n", b"retry: 1\n"])
def test_endless_fields_without_a_blank_line_fail(line: bytes) -> None:
    """A block that never ends fails after the limit and at most one chunk more, whatever it repeats."""
    _, error, taken = _limited(line * 3000, 512, limit=4096)

    assert error is not None
    assert taken <= 4096 + 4096 // (len(line) - 1) + 512


def test_an_endless_line_fails() -> None:
    """A line that never ends fails after the limit and at most one chunk more."""
    _, error, taken = _limited(b"data: " + b"x" * 20_000, 512, limit=4096)

    assert error is not None
    assert taken <= 4096 + 512


def test_events_before_an_oversized_one_are_not_lost() -> None:
    """What was complete in the same chunk is returned; the error comes with the next call, and with each after it."""
    decoder = EventStreamDecoder(max_event_size=20)

    events = decoder.feed(b"id: 1\ndata: a\n\ndata: " + b"x" * 50 + b"\n\ndata: b\n\n")

    assert [event.data for event in events] == ["a"]
    assert decoder.last_event_id == "1"
    for chunk in (b"", b"\n\ndata: c\n\n"):
        with pytest.raises(PerkamoStreamError):
            decoder.feed(chunk)


@pytest.mark.parametrize(
    "line", [b":" + b"x" * 999, b"unknown: " + b"x" * 991, b"x" * 1000, b":\n" * 500, b"xy\n" * 333]
)
def test_comments_and_unknown_fields_take_no_memory(line: bytes) -> None:
    """Six hundred kilobytes of them, in one line or in many, leave the decoder small and working."""
    decoder = EventStreamDecoder(max_event_size=1000)
    tracemalloc.start()
    try:
        for _ in range(600):
            decoder.feed(line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 200_000
    assert [event.data for event in decoder.feed(b"\ndata: a\n\n")] == ["a"]


def _seconds(body: bytes, chunk: int) -> float:
    """The least processor time that decoding took in three runs."""
    chunks = list(pieces(body, chunk))
    best = float("inf")
    for _ in range(3):
        decoder = EventStreamDecoder(max_event_size=None)
        start = time.process_time()
        events = sum(len(decoder.feed(piece)) for piece in chunks)
        best = min(best, time.process_time() - start)
        assert events == 1
    return best


@pytest.mark.parametrize(
    ("line", "chunk"),
    [
        pytest.param(b"x", 100, id="one line in small chunks"),
        pytest.param(b"x\ndata: ", 100, id="many lines in small chunks"),
        pytest.param(b"x\ndata: ", 65_536, id="many lines in large chunks"),
        pytest.param(b"x\n:\ndata: ", 4096, id="lines and comments"),
    ],
)
def test_the_cost_of_an_event_grows_with_its_size_only(line: bytes, chunk: int) -> None:
    """Sixteen times the bytes cost about sixteen times as much; a quadratic decoder would take 256 times."""
    small, large = (b"data: " + line * (count // len(line)) + b"\n\n" for count in (100_000, 1_600_000))

    ratio = _seconds(large, chunk) / max(_seconds(small, chunk), 0.0005)

    assert ratio < 80
