"""Reads an answer's body within bounds, whatever the server sends.

Requests ask for no compression. gzip and deflate are accepted all the same, because some gateways compress unasked.
Some name an encoding that does not exist, or the encoding of an empty body.
"""

import zlib
from collections import deque
from typing import Final, Literal, TypeAlias, cast

import httpx

from perkamo.transport.response import Response, fields_of

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_STEP: Final = 256 * 1024
_PIECE: Final = 16 * 1024
_TOO_LARGE: Final = f"is larger than {MAX_BODY_BYTES // 1024 // 1024} MiB"


class UnusableBodyError(ValueError):
    """The body of an answer can't be used; the text says why."""


Coding: TypeAlias = Literal["gzip", "deflate", "unknown"]


def content_coding(header: str | None) -> Coding | None:
    """Return how a body is encoded; None if it is not.

    Args:
        header: The header ``content-encoding``, or None if it is absent.
    """
    if header is None:
        return None
    names = [name for part in header.lower().split(",") if (name := part.strip()) not in _NO_CODING]
    if not names:
        return None
    return _CODINGS.get(names[0], "unknown") if len(names) == 1 else "unknown"


_NO_CODING: Final = ("", "identity", "none")
_CODINGS: Final[dict[str, Coding]] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


async def read_bounded(response: httpx.Response, *, bare: bool = False) -> bytes:
    """Read the whole body, decoded, and never hold more than the bound.

    Args:
        response: The answer.
        bare: Whether the client is our own, so that nothing of the caller's wraps the body. A body that came with the
            head is then taken as it is.

    Raises:
        UnusableBodyError: The body is too large or encoded in a way that was not asked for; the text says which.
        httpx.TransportError: The connection broke.
    """
    if response.is_stream_consumed:  # the answer of a mock, or one that a hook has read
        return whole_content(response)
    fields = fields_of(response)
    coding = content_coding(fields.get("content-encoding"))
    if bare and coding is None and isinstance(response, Response) and (whole := response.whole_body) is not None:
        if len(whole) > MAX_BODY_BYTES:
            raise UnusableBodyError(_TOO_LARGE)
        return whole
    declared = fields.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 12 or int(declared) > MAX_BODY_BYTES):
        raise UnusableBodyError(_TOO_LARGE)
    body = _PlainBody() if coding is None else _EncodedBody(coding)
    try:
        # The stream itself: httpx's own iterators over it cost more than everything else here.
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            if body.problem is None:
                body.feed(chunk)
            if body.problem is not None:
                # Closing ends the iteration. Leaving the loop instead would leave unfinished generators behind.
                await response.aclose()
    except httpx.TransportError:
        if body.problem is None:
            raise
    return body.whole()


def whole_content(response: httpx.Response) -> bytes:
    """Return a body that was read already, by a hook or a mock.

    Raises:
        UnusableBodyError: The body is too large.
        httpx.ResponseNotRead: The body was not read yet.
    """
    content = response.content
    if len(content) > MAX_BODY_BYTES:
        raise UnusableBodyError(_TOO_LARGE)
    return content


class _PlainBody:
    """Collects a body up to the bound."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._chunks: list[bytes] = []
        self._left = MAX_BODY_BYTES

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(chunk)
        self._left -= len(chunk)
        if self._left < 0:
            self.problem = _TOO_LARGE

    def whole(self) -> bytes:
        """Return the body.

        Raises:
            UnusableBodyError: The body can't be used.
        """
        if self.problem is not None:
            raise UnusableBodyError(self.problem)
        return b"".join(self._chunks)


class _EncodedBody(_PlainBody):
    """Decompresses step by step, so that a decompression bomb ends at the bound and does not fill the memory.

    An empty body is not decoded, whatever its encoding.
    """

    def __init__(self, coding: Coding) -> None:
        super().__init__()
        self._inflater = None if coding == "unknown" else Inflater(coding)
        self._encoded_left = MAX_BODY_BYTES

    def feed(self, chunk: bytes) -> None:
        self._encoded_left -= len(chunk)
        if self._inflater is None:
            self.problem = "is encoded in a way that was not asked for" if chunk else None
        elif self._encoded_left < 0:
            self.problem = _TOO_LARGE
        else:
            self._inflate(self._inflater, chunk)

    def _inflate(self, inflater: "Inflater", chunk: bytes) -> None:
        inflater.give(chunk)
        try:
            while self.problem is None and (plain := inflater.take()):
                super().feed(plain)
        except zlib.error:
            self.problem = "is compressed, and broken"

    def whole(self) -> bytes:
        if self.problem is None and self._inflater is not None and not self._inflater.is_complete:
            self.problem = "is compressed, and incomplete"
        return super().whole()


class Inflater:
    """Decompresses gzip, in any number of members, and deflate, with and without its zlib header.

    Bytes after the last member are ignored, as in browsers.

    Args:
        coding: The encoding that the answer names.
    """

    def __init__(self, coding: Coding) -> None:
        self._may_be_bare = coding == "deflate"
        self._decoder = zlib.decompressobj()
        self._within_member = False
        self._pieces: deque[bytes] = deque()
        self._waiting = b""
        self._members = 0
        self._ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here: it is empty, or its last member is complete."""
        return self._ended or (not self._within_member and (self._members > 0 or not self._waiting))

    def give(self, data: bytes) -> None:
        """Take the next compressed bytes."""
        if not self._ended:
            # In pieces, because the decoder copies all bytes after a member, and there may be many members.
            self._pieces.extend(data[start : start + _PIECE] for start in range(0, len(data), _PIECE))

    def take(self) -> bytes:
        """Return the next plain bytes, 256 KiB at most; empty bytes when more input is needed.

        Raises:
            zlib.error: The bytes are not compressed, or broken.
        """
        while not self._ended:
            if self._pieces and len(self._waiting) < len(_GZIP):
                self._waiting += self._pieces.popleft()
            if not self._within_member:
                if len(self._waiting) < len(_GZIP):
                    break
                self._begin_member()
                continue
            plain = self._decoder.decompress(self._waiting, _STEP)
            self._waiting = self._decoder.unconsumed_tail
            if self._decoder.eof:
                self._waiting, self._within_member = self._decoder.unused_data, False
                self._members += 1
            if plain:
                return plain
            if self._within_member and not self._pieces:
                break
        return b""

    def _begin_member(self) -> None:
        head = self._waiting[: len(_GZIP)]
        if self._members and head != _GZIP:
            self._ended, self._waiting = True, b""
            self._pieces.clear()
            return
        bare = self._may_be_bare and head != _GZIP and (head[0] & 15 != 8 or int.from_bytes(head) % 31)
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)  # 32: gzip or zlib
        self._within_member = True


_GZIP: Final = b"\x1f\x8b"
