"""Requests for an httpx client that are cheaper to make than httpx's own."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import httpx

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names and values, as they are sent."""


class Request(httpx.Request):
    """A request whose headers object is built when somebody asks for it. Any transport can send it.

    Args:
        method: Its method.
        url: The URL that it shows.
        headers: Names and values, as they are sent; nothing is added to them.
        stream: Its body.
        extensions: As httpx has them.
    """

    def __init__(
        self,
        method: str,
        url: httpx.URL,
        headers: RawHeaders,
        stream: httpx.AsyncByteStream,
        extensions: Mapping[str, object],
    ) -> None:
        super().__init__(method, url, stream=stream, extensions=dict(extensions))
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
        """Set headers, as ``headers.update`` does."""
        if self._headers is None:
            names = {name.lower() for name, _ in added}
            self._raw = [*(one for one in self._raw if one[0].lower() not in names), *added]
        else:
            self._headers.update(list(added))


def add_headers(request: httpx.Request, added: RawHeaders) -> None:
    """Set headers of a request."""
    if isinstance(request, Request):
        request.add_headers(added)
    else:
        request.headers.update(list(added))


def raw_headers_of(request: httpx.Request) -> RawHeaders:
    """Return names and values of a request, as they are sent."""
    return request.raw_headers if isinstance(request, Request) else request.headers.raw
