"""The fast path for plain requests and answers, which nearly all are. h11 handles all others from their first byte.

What this module writes or accepts, h11 would write or accept in the same way: a fuzz test compares the two. If it sees
anything but plain HTTP/1.1, it returns None, and h11 decides.
"""

import re
from typing import Final

from perkamo.transport.head import Head
from perkamo.transport.request import RawHeaders

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
_VALUE: Final = rb"[!-~\x80-\xff]++(?:[ \t]++[!-~\x80-\xff]++)*+"
_CHANGING: Final = rb"transfer-encoding:|expect:|upgrade:|connection: (?!keep-alive\r)"
"""Headers of a request that change how the connection continues."""
_HEADER: Final = rb"(?!%b)%b: (?:%b)?\r\n" % (_CHANGING, _TOKEN, _VALUE)
_REQUEST = re.compile(rb"%b [!-~]++ http/1\.1\r\n(?:%b)++\r\n" % (_TOKEN, _HEADER))
"""A request's head in small letters."""
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([ -~]*+)\r\n((?:%b: %b\r\n)++)\r\n" % (_TOKEN, _VALUE))
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8}+)\r\n")
_MAX_DIGITS: Final = 15

_BODILESS: Final = frozenset({204, 304})
_OWN_RULES: Final = frozenset({"HEAD", "CONNECT"})
"""Methods whose answers have special rules."""


def write(method: str, target: bytes, headers: RawHeaders, body: bytes) -> bytes | None:
    """Return the bytes of a request, or None if h11 must write or refuse it.

    Args:
        method: Its method.
        target: Its target, in origin or absolute form.
        headers: Its headers.
        body: Its whole body.
    """
    parts = [method.encode("ascii", "replace"), b" ", target, b" HTTP/1.1\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if b"".join(parts[4::4]).find(b":") >= 0:  # in a name
        return None
    parts += (b"\r\n", body)
    whole = b"".join(parts)
    head = whole[: len(whole) - len(body)].lower()
    lengths = head.count(b"\r\ncontent-length: ")
    if lengths != head.count(b"\r\ncontent-length: %d\r\n" % len(body)) or lengths != (1 if body else lengths & 1):
        return None
    # A line end within a name or a value would add a header, or end the head.
    is_whole = _REQUEST.fullmatch(head) and head.count(b"\r\n") == len(headers) + 2
    return whole if is_whole and head.count(b"\r\nhost: ") == 1 and method not in _OWN_RULES else None


def read(data: bytes) -> tuple[Head, bytes, int] | None:
    """Read an answer's head, and the part of its body that has arrived.

    Args:
        data: Everything that has arrived so far.

    Returns:
        The head, the bytes of the body, and how many are still to come; None if h11 must read the answer, also if the
        head is incomplete or bytes follow the body.
    """
    found = _ANSWER.match(data)
    if found is None:
        return None
    fields: dict[str, str] = {}
    lines = found[3][:-2].decode("latin-1").split("\r\n")
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    status = int(found[1])
    is_repeated = len(fields) != len(lines)
    if is_repeated or status in _BODILESS or fields.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    body = _chunked(data, found.end(), fields) if "transfer-encoding" in fields else _counted(data, found.end(), fields)
    return None if body is None else (Head(status, found[2], found[3], fields), *body)


def _counted(data: bytes, start: int, fields: dict[str, str]) -> tuple[bytes, int] | None:
    """Return the part of a body with a length that has arrived, and how many bytes are still to come."""
    length = fields.get("content-length", "")
    if not length.isdecimal() or len(length) > _MAX_DIGITS:
        return None
    body = data[start:]
    missing = int(length) - len(body)
    return None if missing < 0 else (body, missing)


def _chunked(data: bytes, start: int, fields: dict[str, str]) -> tuple[bytes, int] | None:
    """Return a body in chunks, if it is complete and has neither extensions nor trailers."""
    if fields["transfer-encoding"] != "chunked" or "content-length" in fields:
        return None
    parts: list[bytes] = []
    while (size := _CHUNK.match(data, start)) is not None:
        begin = size.end()
        start = begin + int(size[1], 16)
        if data[start : start + 2] != b"\r\n":
            break
        if start == begin:
            return (b"".join(parts), 0) if start + 2 == len(data) else None
        parts.append(data[begin:start])
        start += 2
    return None
