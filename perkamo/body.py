"""Reading an answer's body within bounds, whatever the server sends."""

import zlib
from typing import Final

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
    inflate = None if encoding == "identity" else _Inflate()
    if response.is_stream_consumed:  # a mock's answer is read already
        return response.content
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        plain = chunk if inflate is None else inflate.feed(chunk, MAX_BODY_BYTES - size)
        size += len(plain)
        if size > MAX_BODY_BYTES:
            raise ValueError(_TOO_LARGE)
        chunks.append(plain)
    if inflate is not None:
        inflate.check_end()
    return b"".join(chunks)


class _Inflate:
    """Decompresses step by step, so that a bomb ends at the bound and not in memory."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib by their headers

    def feed(self, data: bytes, room: int) -> bytes:
        plain = bytearray()
        try:
            while data and len(plain) <= room:
                plain += self._decoder.decompress(data, _STEP)
                data = self._decoder.unconsumed_tail
        except zlib.error:
            raise ValueError("is compressed, and broken") from None
        return bytes(plain)

    def check_end(self) -> None:
        if not self._decoder.eof:
            raise ValueError("is compressed, and incomplete")
