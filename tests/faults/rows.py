"""The rows of the fault matrix that a server can cause: what it does, and what every call must make of it."""

import gzip
import zlib
from collections.abc import Callable
from typing import Final

from attrs import frozen

from perkamo import (
    PerkamoApiError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoRedirectError,
    PerkamoResponseError,
    PerkamoServerError,
    PerkamoTimeoutError,
)
from tests.faults.rawserver import RESULT, Connection, Script, answer, answering

READS: Final = frozenset({"customer", "program"})
WRITES: Final = frozenset({"emit", "batch", "identify", "token"})
ALL: Final = READS | WRITES


@frozen
class Row:
    """One row.

    Attributes:
        name: Its number in the matrix and what happens.
        script: What the server does on every connection.
        error: What the call raises.
        attempts: How many requests it makes.
        operations: Which calls it concerns.
        outcomes: What may stand in ``outcome`` after a write.
        timeout: Seconds for the whole call.
        attempt_timeout: Seconds for one attempt.
    """

    name: str
    script: Script
    error: type[PerkamoError]
    attempts: int = 3
    operations: frozenset[str] = ALL
    outcomes: tuple[str, ...] = ("unknown",)
    timeout: float = 30.0
    attempt_timeout: float = 10.0


def reset_at_once(connection: Connection) -> None:
    """Reset before a byte is read."""
    connection.reset()


def reset_within(connection: Connection) -> None:
    """Reset after a part of the request."""
    connection.read_some(40)
    connection.reset()


def reset_after(connection: Connection) -> None:
    """Reset after the whole request."""
    connection.read_request()
    connection.reset()


def stall(connection: Connection) -> None:
    """Read the request and say nothing."""
    connection.read_request()
    connection.stall()


def close_after(connection: Connection) -> None:
    """Read the request and close in order."""
    connection.read_request()


def drip_head(connection: Connection) -> None:
    """Send the answer's head byte by byte."""
    connection.read_request()
    connection.drip(answer(headers=["x-pad: " + "x" * 200]), 0.05)


def drip_body(connection: Connection) -> None:
    """Send the answer's body byte by byte."""
    connection.read_request()
    head, _, body = answer().partition(b"\r\n\r\n")
    connection.send(head + b"\r\n\r\n")
    connection.drip(body, 0.05)


def then_close(data: bytes) -> Script:
    """Make a script that answers with these bytes and closes."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)

    return script


def endless(head: bytes, part: bytes) -> Script:
    """Make a script that never stops sending."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        for _ in range(100 * 1024 * 1024 // len(part)):
            connection.send(part)

    return script


def _bomb() -> bytes:
    maker = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    zeros = bytes(1024 * 1024)
    return b"".join([maker.compress(zeros) for _ in range(200)]) + maker.flush()


BOMB: Final = _bomb()
_CHUNKED: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_MANY: Final = [f"x-{n}: y" for n in range(5000)]
_Says = Callable[..., Script]


def says(body: bytes = RESULT, status: str = "200 OK", *headers: str, length: int | None = None) -> Script:
    """Make a script that answers every request alike."""
    return answering(answer(body, status, headers, length))


BROKEN: Final[list[Row]] = [
    Row("F10 reset before a byte is read", reset_at_once, PerkamoConnectionError, outcomes=("not_sent", "unknown")),
    Row("F11 reset within the request", reset_within, PerkamoConnectionError, outcomes=("not_sent", "unknown")),
    Row("F14 reset after the request", reset_after, PerkamoConnectionError),
    Row("F20 silence", stall, PerkamoTimeoutError, attempt_timeout=0.15),
    Row("F20 silence, until the deadline", stall, PerkamoTimeoutError, attempts=1, timeout=0.3),
    Row("F21 a head in drips", drip_head, PerkamoTimeoutError, attempts=1, timeout=0.4),
    Row("F22 a body in drips", drip_body, PerkamoTimeoutError, attempts=1, timeout=0.4),
    Row("F22 a body in drips, each attempt", drip_body, PerkamoTimeoutError, attempt_timeout=0.2),
    Row("F23 closed without an answer", close_after, PerkamoConnectionError),
    Row("F24 a length beyond the body", then_close(answer(length=5000)), PerkamoConnectionError),
    Row("F26 two lengths", says(RESULT, "200 OK", "content-length: 3"), PerkamoConnectionError),
    Row("F27 chunks cut off", then_close(_CHUNKED + b"5\r\n{}"), PerkamoConnectionError),
    Row("F27 chunks that are none", then_close(_CHUNKED + b"zz\r\n{}\r\n"), PerkamoConnectionError),
    Row("F28 garbage", then_close(b"\x00\xff garbage\r\n\r\n"), PerkamoConnectionError),
    Row("F28 HTTP/0.9", then_close(b"<html>hello</html>"), PerkamoConnectionError),
    Row("F28 1xx only", then_close(b"HTTP/1.1 100 Continue\r\n\r\n"), PerkamoConnectionError),
    Row("F41 a header of 200 kB", says(RESULT, "200 OK", "x-long: " + "x" * 200_000), PerkamoConnectionError),
    Row("F41 5,000 headers of 200 kB", says(RESULT, "200 OK", *(one * 5 for one in _MANY)), PerkamoConnectionError),
]

UNTRUSTED: Final[list[Row]] = [
    Row(name, script, PerkamoResponseError, attempts=1)
    for name, script in [
        ("F27 HTTP/1.0 cut at its end", then_close(b"HTTP/1.0 200 OK\r\n\r\n" + RESULT[:-5])),
        ("F29 HTML", says(b"<html></html>")),
        ("F40 a gzip bomb of 200 MB", says(BOMB, "200 OK", "content-encoding: gzip")),
        ("F40 500 encodings", says(RESULT, "200 OK", "content-encoding: " + "gzip, " * 499 + "gzip")),
        ("F40 broken gzip", says(b"\x1f\x8bbroken", "200 OK", "content-encoding: gzip")),
        ("F40 half of a gzip", says(gzip.compress(RESULT)[:-9], "200 OK", "content-encoding: gzip")),
        ("F40 brotli, unasked", says(RESULT, "200 OK", "content-encoding: br")),
        ("F41 100 MB in chunks", endless(_CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n")),
        ("F41 100 MB without a length", endless(b"HTTP/1.0 200 OK\r\n\r\n", b" " * 65536)),
        ("F41 a length of 10^15", says(RESULT, length=10**15)),
        ("F42 invalid UTF-8", says(b'{"a":"\xff"}')),
        ("F42 UTF-16", says(RESULT.decode().encode("utf-16"))),
        ("F42 a byte-order mark", says(b"\xef\xbb\xbf" + RESULT)),
        ("F43 100,000 levels", says(b"[" * 100_000 + b"]" * 100_000)),
        ("F43 an integer of 5,000 digits", says(b'{"a":' + b"9" * 5000 + b"}")),
        ("F43 1e999", says(b'{"a":1e999}')),
        ("F43 NaN", says(b'{"a":NaN}')),
        ("F43 a key twice", says(RESULT[:-1] + b',"applied":false}')),
        ("F43 a lone surrogate", says(rb'{"a":"\ud800"}')),
        ("F43 NUL", says(b'{"a":"\x00"}')),
        ("F28 status 999", says(RESULT, "999 What")),
    ]
]

NEEDS_A_BODY: Final = ALL - {"identify"}  # whose answer is unpublished, so that an empty one is as good
NEEDS_AN_OBJECT: Final = frozenset({"emit", "batch", "token"})  # of the other answers no shape is published

OTHER_JSON: Final[list[Row]] = [
    Row(f"F29 {name}", says(body), PerkamoResponseError, attempts=1, operations=NEEDS_AN_OBJECT)
    for name, body in [("null", b"null"), ("a list", b"[]"), ("a text", b'"x"'), ("a number", b"1")]
]

EMPTY: Final[list[Row]] = [
    Row(name, script, PerkamoResponseError, attempts=1, operations=NEEDS_A_BODY)
    for name, script in [
        ("F29 an empty body", says(b"")),
        ("F44 204", answering(b"HTTP/1.1 204 No Content\r\n\r\n")),
    ]
]

REFUSED: Final[list[Row]] = [
    Row("F30 502 with HTML", says(b"<html>", "502 Bad Gateway"), PerkamoServerError),
    Row("F30 500 with text", says(b"oops", "500 Oops"), PerkamoServerError),
    Row("F30 501", says(b"", "501 No"), PerkamoServerError, attempts=1),
    Row("F30 505", says(b"", "505 No"), PerkamoServerError, attempts=1),
    Row("F30 520", says(b"", "520 What"), PerkamoServerError),
    Row(
        "F34 404 with a bomb",
        says(BOMB, "404 No", "content-encoding: gzip"),
        PerkamoApiError,
        1,
        outcomes=("rejected",),
    ),
    Row("F38 302", says(b"", "302 F", "location: //evil.test/"), PerkamoRedirectError, 1, outcomes=("rejected",)),
    Row("F44 304", answering(b"HTTP/1.1 304 N\r\n\r\n"), PerkamoRedirectError, 1, outcomes=("rejected",)),
]

ROWS: Final = BROKEN + UNTRUSTED + OTHER_JSON + EMPTY + REFUSED
