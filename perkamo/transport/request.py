"""Requests for an httpx client that are cheaper to make than httpx's own."""

from collections.abc import Sequence
from typing import TypeAlias

import httpx

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names and values, as they are sent."""


class Request(httpx.Request):
    """A request whose headers object is built when somebody asks for it. Any transport can send it.

    Args:
        method: Its method, in capitals.
        url: The URL that it shows.
        headers: Names and values, as they are sent; nothing is added to them.
        content: Its body, so that hooks and tools find it, as in every request of httpx's own.
        stream: The same body, as it is sent.
        extensions: As httpx has them.
    """

    def __init__(
        self,
        method: str,
        url: httpx.URL,
        headers: RawHeaders,
        content: bytes,
        *,
        stream: httpx.AsyncByteStream,
        extensions: dict[str, object],
    ) -> None:
        # Not by httpx's own __init__, which makes headers and copies of all the rest. A test compares what both set.
        self.method = method
        self.url = url
        self.stream = stream
        self.extensions = extensions
        self._content = content
        self._raw = headers
        self._headers: httpx.Headers | None = None

    @property
    def headers(self) -> httpx.Headers:
        """The headers object. Once it was asked for, its contents are sent, with all changes."""
        if self._headers is None:
            self._headers = httpx.Headers(list(self._raw))
        return self._headers

    @headers.setter
    def headers(self, headers: httpx.Headers) -> None:
        self._headers = headers

    @property
    def raw_headers(self) -> RawHeaders:
        """Names and values, as they are sent."""
        return self._raw if self._headers is None else self._headers.raw

    def add_headers(self, added: RawHeaders) -> None:
        """Set headers, as ``headers.update`` does. Their names are in lower case."""
        if self._headers is None:
            names = {name for name, _ in added}
            self._raw = [*[one for one in self._raw if one[0].lower() not in names], *added]
        else:
            self._headers.update(list(added))


def add_headers(request: httpx.Request, added: RawHeaders) -> None:
    """Set headers of a request. Their names are in lower case."""
    if isinstance(request, Request):
        request.add_headers(added)
    else:
        request.headers.update(list(added))


def raw_headers_of(request: httpx.Request) -> RawHeaders:
    """Return names and values of a request, as they are sent."""
    return request.raw_headers if isinstance(request, Request) else request.headers.raw
