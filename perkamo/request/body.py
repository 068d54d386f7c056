"""Reading an answer's body within bounds, whatever the server sends."""

import zlib
from typing import Final, cast

import httpx

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_STEP: Final = 256 * 1024
_TOO_LARGE: Final = f"is larger than {MAX_BODY_BYTES // 1024 // 1024} MiB"


async def read_bounded(response: httpx.Response) -> bytes:
    """Read the whole body, decoded, and never hold more than the bound.

    Identity is asked for; gzip and deflate are understood all the same, because some gateways compress unasked.

    Raises:
        ValueError: The body is too large or encoded in a way that was not asked for; the text says which.
        httpx.TransportError: The connection broke.
    """
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 12 or int(declared) > MAX_BODY_BYTES):
        raise ValueError(_TOO_LARGE)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise ValueError("is encoded in a way that was not asked for")
    if response.is_stream_consumed:  # a mock's answer is read already
        return response.content
    body = _PlainBody() if encoding == "identity" else _CompressedBody()
    try:
        # The stream itself: httpx's own iterators over it cost more than all that is done with the bytes here.
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            if body.problem is None:
                body.feed(chunk)
            if body.problem is not None:
                # Closed first, the iteration comes to its end by itself; broken off, it would leave generators behind.
                await response.aclose()
    except httpx.TransportError:
        if body.problem is None:
            raise
    return body.whole()


class _PlainBody:
    """Collects a body up to the bound."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._chunks: list[bytes] = []
        self._room = MAX_BODY_BYTES

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(chunk)
        self._room -= len(chunk)
        if self._room < 0:
            self.problem = _TOO_LARGE

    def whole(self) -> bytes:
        """Return the body.

        Raises:
            ValueError: There is a problem with it.
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        return b"".join(self._chunks)


class _CompressedBody(_PlainBody):
    """Decompresses step by step, so that a bomb ends at the bound and not in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib by their headers

    def feed(self, chunk: bytes) -> None:
        try:
            while chunk and self.problem is None:
                super().feed(self._decoder.decompress(chunk, _STEP))
                chunk = self._decoder.unconsumed_tail
        except zlib.error:
            self.problem = "is compressed, and broken"

    def whole(self) -> bytes:
        if self.problem is None and not self._decoder.eof:
            self.problem = "is compressed, and incomplete"
        return super().whole()
