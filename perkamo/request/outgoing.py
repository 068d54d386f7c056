"""The parts of one attempt's request, as httpx takes them.

The URL of a request is the endpoint's template (``/v1/customer/{user_id}``), because httpx logs it and telemetry
records it. The path that is sent is in the extension ``target``, which our own transport reads.
"""

from collections.abc import AsyncIterator, Generator, Iterator
from typing import Final
from urllib.parse import quote

import httpx

from perkamo.request.endpoints import Call
from perkamo.transport.replaced import httpcore_heeds_target, tool_above, tool_in_place
from perkamo.transport.transport import Transport

_MAX_URLS: Final = 64
"""How many endpoints' URLs are kept: ``request`` can name any number of endpoints."""


class Addresses:
    """The URLs of one service.

    Args:
        base_url: Its URL, with its path prefix, if any.

    Attributes:
        host: The value of the header ``Host``.
        server: The service's host and port.
    """

    def __init__(self, base_url: str) -> None:
        self._base = url = httpx.URL(base_url)
        self._prefix = self._base.raw_path.rstrip(b"/")
        self._urls: dict[str, httpx.URL] = {}
        self.host: bytes = self._base.netloc
        self.server: tuple[str, int] = (url.host, url.port or (443 if url.scheme == "https" else 80))

    def of(self, call: Call) -> tuple[httpx.URL, bytes]:
        """Return the URL that a call shows, and the path that is sent."""
        url = self._urls.get(call.label)
        if url is None:
            shown = quote(call.template, safe="/:")
            url = self._base.copy_with(raw_path=self._prefix + shown.encode("ascii"))
            if len(self._urls) < _MAX_URLS:
                self._urls[call.label] = url
        return url, self._prefix + call.path.encode("ascii")


class RequestBody(httpx.ByteStream):
    """The bytes of a body. It remembers whether sending has begun: before that, nothing can have been applied.

    Attributes:
        begun: Whether a transport has begun to send it.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data
        self.begun: bool = False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        return iter((self._data,))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chunks(self, self._data)


class _Chunks:
    """An iterator, because an interrupted send would leave a generator unfinished."""

    __slots__ = ("_body", "_data")

    def __init__(self, body: RequestBody, data: bytes) -> None:
        self._body = body
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._body.begun = True
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


class SentPath(httpx.Auth):
    """Replaces the template in a request's URL by the path that is sent, just before hooks see the request.

    For a client of the caller's, whose transport may not know the extension ``target``. If it knows it, and telemetry
    records the URL, the template stays, also for hooks.

    Args:
        auth: Adds the credentials.
        shown: The template's path.
        sent: The path that is sent.
        client: The client that sends the request.
    """

    __slots__ = ("_auth", "_client", "_sent", "_shown")

    def __init__(self, auth: httpx.Auth, shown: bytes, sent: bytes, client: httpx.AsyncClient) -> None:
        self._auth = auth
        self._shown = shown
        self._sent = sent
        self._client = client

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Change the path, and add the credentials."""
        path = request.url.raw_path.replace(self._shown, self._sent)
        if _keeps_template(self._client, request.url):
            request.extensions = {**request.extensions, "target": path}
        else:
            request.url = request.url.copy_with(raw_path=path)
        yield from self._auth.auth_flow(request)


def _keeps_template(client: httpx.AsyncClient, url: httpx.URL) -> bool:
    """Return whether OpenTelemetry records a client's requests, and its transport reads the extension ``target``.

    Args:
        client: The client.
        url: The URL of the request, by which the client chooses a transport.
    """
    if tool_above():
        return False
    transport: object = client._transport_for_url(url)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - no public way in httpx
    is_recorded = tool_in_place() == "telemetry" or _METHOD in vars(transport)
    while type(transport).__module__.startswith(_TELEMETRY):
        is_recorded = True
        transport = getattr(transport, "_transport", None)
    return is_recorded and httpcore_heeds_target() and type(transport) in (httpx.AsyncHTTPTransport, Transport)


_METHOD: Final = "handle_async_request"
_TELEMETRY: Final = "opentelemetry."
