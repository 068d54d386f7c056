"""Bodies of event streams and what a decoder makes of them.

The cases follow the standard's examples (HTML 9.2) and the facts that the web-platform tests' ``eventsource/format-*``
check; the texts are our own.
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

Events = Sequence[tuple[str, str, str]]
"""Event, data and id of each event."""


@frozen
class Vector:
    """One body and its meaning.

    Attributes:
        name: What it shows.
        body: The bytes of a connection.
        events: What it holds.
        last_event_id: The id in force at the end.
        retry_ms: The reconnection time at the end.
        first_id: The id in force at the beginning.
    """

    name: str
    body: bytes
    events: Events
    last_event_id: str = ""
    retry_ms: int | None = None
    first_id: str = ""


def message(data: str, event_id: str = "") -> tuple[str, str, str]:
    """An event without a name."""
    return ("message", data, event_id)


VECTORS: Final[Sequence[Vector]] = (
    Vector("nothing", b"", ()),
    Vector("blank lines only", b"\n\n\r\n\r\r\n\n", ()),
    # The standard's examples.
    Vector(
        "three unnamed events",
        b"data: one\n\ndata: two\n\ndata: three\n\n",
        tuple(map(message, ("one", "two", "three"))),
    ),
    Vector("data of three lines", b"data: SHOP\ndata: +2\ndata: 10\n\n", (message("SHOP\n+2\n10"),)),
    Vector(
        "named events",
        b"event: add\ndata: 700\n\nevent: remove\ndata: 21\n\nevent: add\ndata: 123\n\n",
        (("add", "700", ""), ("remove", "21", ""), ("add", "123", "")),
    ),
    Vector(
        "comment, id, id reset, two spaces",
        b": a stream for a test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
        (message("first", "1"), message("second"), message(" third")),
    ),
    Vector("data without colon or value", b"data\n\ndata\ndata\n\ndata:", (message(""), message("\n"))),
    Vector("one space after the colon is dropped", b"data:same\n\ndata: same\n\n", (message("same"), message("same"))),
    # Byte-order marks.
    Vector("a mark at the start is stripped", b"\xef\xbb\xbfdata: a\n\n", (message("a"),)),
    Vector(
        "a mark before an ordinary block only",
        b"\xef\xbb\xbfid: 1\ndata: a\n\ndata: b\n\n",
        (message("a", "1"), message("b", "1")),
        "1",
    ),
    Vector("a second mark at the start stays", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", (message("b"),)),
    Vector(
        "a mark later is part of the name",
        b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n",
        (message("a"), message("c")),
    ),
    Vector("a mark within data stays", b"data: \xef\xbb\xbfa\n\n", (message("\ufeffa"),)),
    Vector("the beginning of a mark is no mark", b"\xef\xbbdata: a\n\ndata: b\n\n", (message("b"),)),
    Vector("a mark before a blank line", b"\xef\xbb\xbf\n\ndata: a\n\n", (message("a"),)),
    # Line ends.
    Vector("CR alone", b"data: a\rdata: b\r\rdata: c\r\r", (message("a\nb"), message("c"))),
    Vector("CRLF", b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", (message("a\nb"), message("c"))),
    Vector("all three mixed", b"data: a\r\ndata\ndata: b\r\n\r", (message("a\n\nb"),)),
    Vector("LF then CR are two ends", b"data: a\n\rdata: b\n\r", (message("a"), message("b"))),
    Vector("CRLF then CR", b"data: a\r\n\rdata: b\r\r\n", (message("a"), message("b"))),
    Vector("CR CR LF is two ends", b"data: a\r\r\ndata: b\r\r\n", (message("a"), message("b"))),
    Vector(
        "no other character ends a line",
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\n\n".encode(),
        (message("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"),),
    ),
    Vector("a line end first", b"\ndata: a\n\n", (message("a"),)),
    Vector("many blank lines between", b"data: a\n\n\n\n\ndata: b\n\n\n", (message("a"), message("b"))),
    # Names of fields.
    Vector(
        "names are exact",
        b"data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\n"
        b"data:3\rdata:\r\n data:32\ndata:4\n\n",
        (message("\0\n 2\n1\n3\n\n4"),),
    ),
    Vector(
        "unknown fields are passed over",
        b"data:a\n data\ndata\nfoo:xxx\njust a sentence\n:a comment\ndata:b\n\n",
        (message("a\n\nb"),),
    ),
    Vector("longer names are unknown", b"datax: 1\nevents: 2\nids: 3\nretrys: 4\nidx\ndata: a\n\n", (message("a"),)),
    Vector("shorter names are unknown", b"dat: 1\neven: 2\ni: 3\nretr: 4\nd\ndata: a\n\n", (message("a"),)),
    Vector("names are case-sensitive", b"DATA: 1\nId: 2\nEvent: 3\nRETRY: 4\ndata: a\n\n", (message("a"),)),
    Vector("a name with a space is unknown", b"data : 1\n data: 2\nid : 3\ndata: a\n\n", (message("a"),)),
    Vector("only the first colon parts name and value", b"data: a: b:c\ndata::\n\n", (message("a: b:c\n:"),)),
    # Values.
    Vector("only one leading space goes", b"data:\ta\rdata: \ndata:   b \n\n", (message("\ta\n\n  b "),)),
    Vector("a NUL in data stays", b"data:\x00\n\n\n\n", (message("\0"),)),
    Vector(
        "an empty event name is none",
        b"event: \ndata: a\n\nevent:\ndata: b\n\nevent\ndata: c\n\n",
        tuple(map(message, "abc")),
    ),
    Vector("an event name holds for one event", b"event: x\ndata: a\n\ndata: b\n\n", (("x", "a", ""), message("b"))),
    Vector("an event name without data is forgotten", b"event: x\n\ndata: b\n\n", (message("b"),)),
    Vector("the last event name wins", b"event: x\nevent: y\ndata: a\n\n", (("y", "a", ""),)),
    Vector("an event name keeps its inner spaces", b"event:  x y \ndata: a\n\n", ((" x y ", "a", ""),)),
    Vector("the event name may come last", b"data: a\nevent: x\n\n", (("x", "a", ""),)),
    Vector("the event name may stand between data", b"data: a\nevent: x\ndata: b\n\n", (("x", "a\nb", ""),)),
    # Comments.
    Vector(
        "comments within a block",
        b"data:1\r:\x00\n:\r\ndata:2\n:long\rdata:3\n:data:no\r:long\ndata:4\n\n",
        (message("1\n2\n3\n4"),),
    ),
    Vector(
        "a comment and a blank line make no event",
        b"id: 1\ndata: a\n\n:\n\n: beat\n\n:\n\ndata: b\n\n",
        (message("a", "1"), message("b", "1")),
        "1",
    ),
    Vector("heartbeats after an id make no event", b"id: 1\n\n:\n\n:\n\n", (), "1"),
    Vector("heartbeats after an event name make no event", b"event: x\n:\n\n:\n\n", ()),
    # Ids.
    Vector("an id stays in force", b"id: 1\ndata: a\n\ndata: b\n\n", (message("a", "1"), message("b", "1")), "1"),
    Vector("an id of the connection before stays in force", b"data: a\n\n", (message("a", "7"),), "7", first_id="7"),
    Vector(
        "an empty id resets",
        b"id: 1\ndata: a\n\nid:\ndata: b\n\ndata: c\n\n",
        (message("a", "1"), message("b"), message("c")),
    ),
    Vector(
        "an empty id with a space resets", b"id: 1\ndata: a\n\nid: \ndata: b\n\n", (message("a", "1"), message("b"))
    ),
    Vector("an id without a colon resets", b"id: 1\ndata: a\n\nid\ndata: b\n\n", (message("a", "1"), message("b"))),
    Vector("an empty id resets that of the connection before", b"id\n\n", (), "", first_id="7"),
    Vector("the last id of a block wins", b"id: 1\nid: 2\ndata: a\nid: 3\n\n", (message("a", "3"),), "3"),
    Vector(
        "an id with NUL is passed over",
        b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\nid: \x00\ndata: c\n\n",
        (message("a", "1"), message("b", "1"), message("c", "1")),
        "1",
    ),
    Vector("the id of a block without data counts", b"id: 5\n\n", (), "5"),
    Vector("that id is on the next event", b"id: 5\n\ndata: a\n\n", (message("a", "5"),), "5"),
    Vector("an id waits for its blank line", b"id: 1\ndata: a\n\nid: 2\ndata: b", (message("a", "1"),), "1"),
    Vector("an id before an ordinary block", b"id: 5\n:\ndata: a\n\n", (message("a", "5"),), "5"),
    Vector("an id on its own, then a whole block", b"id: 4\nid: 5\nevent: x\ndata: a\n\n", (("x", "a", "5"),), "5"),
    Vector("an id keeps its spaces", b"id:  1 \ndata: a\n\n", (message("a", " 1 "),), " 1 "),
    Vector("an id of other letters", "id: \u2026é\ndata: a\n\n".encode(), (message("a", "\u2026é"),), "\u2026é"),
    Vector("an id after the data", b"data: a\nid: 1\n\n", (message("a", "1"),), "1"),
    # Reconnection times.
    Vector("a time with data", b"retry: 1500\ndata: a\n\n", (message("a"),), retry_ms=1500),
    Vector("a time is decimal", b"retry:03000\ndata:a\n\n", (message("a"),), retry_ms=3000),
    Vector("a bogus time changes nothing", b"retry:3000\nretry:1000x\ndata:a\n\n", (message("a"),), retry_ms=3000),
    Vector(
        "an empty time changes nothing", b"retry: 20\nretry:\nretry: \nretry\ndata: a\n\n", (message("a"),), retry_ms=20
    ),
    Vector(
        "no sign, point, space or underscore",
        b"retry: 20\nretry: +5\nretry: -5\nretry: 1_0\nretry: 1.5\nretry:  7\nretry: 8 \n\n",
        (),
        retry_ms=20,
    ),
    Vector(
        "no digits of other scripts",
        "retry: 20\nretry: \u0665\nretry: \uff15\nretry: \u00b2\n\n".encode(),
        (),
        retry_ms=20,
    ),
    Vector("zero is a time", b"retry: 0\n\nretry: 000\n\n", (), retry_ms=0),
    Vector("a time needs no blank line", b"retry: 2\n", (), retry_ms=2),
    Vector("a time needs its line end", b"retry: 2", ()),
    Vector("a time alone makes no event", b"retry: 10\n\n", (), retry_ms=10),
    Vector("times beyond a day count as a day", b"retry: 99999999999999\n\n", (), retry_ms=86_400_000),
    Vector("a millisecond beyond a day counts as a day", b"retry: 86400001\n\n", (), retry_ms=86_400_000),
    Vector("a time of 5000 digits", b"retry: " + b"9" * 5000 + b"\n\n", (), retry_ms=86_400_000),
    Vector("a time of 5000 zeros and a digit", b"retry: " + b"0" * 5000 + b"7\n\n", (), retry_ms=7),
    # UTF-8.
    Vector("letters of two, three and four bytes", "data: é€😀\n\n".encode(), (message("é€😀"),)),
    Vector("invalid bytes are replaced", b"data: \xff\xfea\xc0\x80\n\n", (message("\ufffd\ufffda\ufffd\ufffd"),)),
    Vector("a letter cut by the line end", b"data: \xe2\x82\ndata: b\n\n", (message("\ufffd\nb"),)),
    Vector("surrogates are invalid", b"data: \xed\xa0\x80\n\n", (message("\ufffd\ufffd\ufffd"),)),
    Vector(
        "invalid bytes in names of events and in ids",
        b"event: \xff\nid: \xfe\ndata: a\n\n",
        (("\ufffd", "a", "\ufffd"),),
        "\ufffd",
    ),
    Vector("invalid bytes in a field's name", b"dat\xff: 1\ndata: a\n\n", (message("a"),)),
    # The end of a connection.
    Vector(
        "an event without its blank line is dropped",
        b"retry:1000\ndata:a\n\nid:x\ndata:b\n",
        (message("a"),),
        retry_ms=1000,
    ),
    Vector("an event name is not carried over", b"data: a\n\nevent: x", (message("a"),)),
)


@frozen
class Arrival:
    """What is out after each chunk.

    Attributes:
        name: What it shows.
        chunks: The chunks, each with the data of the events that it completes.
    """

    name: str
    chunks: Sequence[tuple[bytes, Sequence[str]]]


ARRIVALS: Final[Sequence[Arrival]] = (
    Arrival("LF", ((b"data: a\n", ()), (b"\n", ("a",)))),
    Arrival("CR only", ((b"data: a\r", ()), (b"\r", ("a",)), (b"data: b\r\r", ("b",)))),
    Arrival("CRLF", ((b"data: a\r\n", ()), (b"\r\n", ("a",)))),
    Arrival("CRLF cut in its last pair", ((b"data: a\r\n\r", ("a",)), (b"\n", ()), (b"data: b\r\n\r", ("b",)))),
    Arrival("CRLF cut in its first pair", ((b"data: a\r", ()), (b"\n", ()), (b"\r", ("a",)), (b"\n", ()))),
    Arrival("CR, then LF with the next block", ((b"data: a\r\r", ("a",)), (b"\ndata: b\n\n", ("b",)))),
    Arrival("nothing between CR and LF", ((b"data: a\r", ()), (b"", ()), (b"\ndata: b\n\n", ("a\nb",)))),
    Arrival("a mark in three pieces", ((b"\xef", ()), (b"", ()), (b"\xbb", ()), (b"\xbfdata: a\n\n", ("a",)))),
    Arrival(
        "two events in a chunk, a third begun", ((b"data: a\n\ndata: b\n\ndat", ("a", "b")), (b"a: c\n\n", ("c",)))
    ),
    Arrival("a blank line alone", ((b"data: a", ()), (b"\n", ()), (b"\n", ("a",)), (b"\n", ()))),
    Arrival("an invalid letter at the end of a line", ((b"data: \xf0\x9f", ()), (b"\n\n", ("\ufffd",)))),
)
