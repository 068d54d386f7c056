"""One request of a call: sign, send, read within bounds, and say what came of it.

Errors of httpx end here. They are turned into ours outside the ``except`` block, so that no traceback, cause or context
leads into frames that hold the key or the body.
"""

import ssl
import time
from collections.abc import AsyncIterator, Generator
from hashlib import sha256
from typing import Final

import anyio
import httpx

from perkamo import __version__
from perkamo.errors import PerkamoConfigurationError
from perkamo.request.body import read_bounded
from perkamo.request.classify import Failure, Reply, classify_failure, classify_response
from perkamo.request.credentials import Key, SignedHeaders
from perkamo.request.endpoints import Call
from perkamo.signing import SIGNATURE_HEADER
from perkamo.transport.transport import MAX_CONNECTIONS, transport_for

USER_AGENT: Final = f"perkamo-python/{__version__}"


class _RequestBody(httpx.AsyncByteStream):
    """The body's bytes; remembers whether they began to leave, because before that nothing can have been applied.

    An iterator of its own and no generator, which an interrupted send would leave behind unfinished.
    """

    __slots__ = ("_data", "begun")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.begun or not self._data:
            self.begun = True
            raise StopAsyncIteration
        self.begun = True
        return self._data


class _Auth(httpx.Auth):
    """Adds key and signature at the last moment, out of an object that shows neither."""

    __slots__ = ("_signed",)

    def __init__(self, signed: SignedHeaders) -> None:
        self._signed = signed

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(self._signed.items)
        yield request


class _NoCookies(httpx.Cookies):
    """Keeps none. httpx would build urllib's requests and answers to look for them, a tenth of a call's whole cost."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Look for none."""


class _Client(httpx.AsyncClient):
    """An ``httpx.AsyncClient`` without a cookie jar."""

    @property
    def cookies(self) -> httpx.Cookies:
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        """Keep none."""


_NO_COOKIES: Final = _NoCookies()


def own_client(
    base_url: str, *, proxy: str | None, ssl_context: ssl.SSLContext | None, max_connections: int | None
) -> httpx.AsyncClient:
    """Build the HTTP client that is used when the caller gives none.

    Raises:
        PerkamoConfigurationError: The proxy is none, or ``max_connections`` is below 1.
    """
    most = MAX_CONNECTIONS if max_connections is None else max_connections
    try:
        transport = transport_for(base_url, proxy, ssl_context=ssl_context, max_connections=most)
    except ValueError as error:
        problem = str(error)
    else:
        # No timeout: the exchange bounds every call.
        return _Client(transport=transport, trust_env=False, timeout=None)
    raise PerkamoConfigurationError(f"The client can't be built: {problem}.")


class Sender:
    """Where requests go: one HTTP client, one key, one base URL; shared by all views of a client."""

    def __init__(self, *, key: Key, base_url: str, client: httpx.AsyncClient, owned: bool) -> None:
        self.client = client
        self.owned = owned
        self.base_url = base_url
        self.clock_offset: float = 0.0
        self._used = False
        self._key = key
        self._origin = httpx.URL(base_url)
        self._urls: dict[str, httpx.URL] = {}
        host = self._origin.netloc.decode("ascii")
        self._headers = [("Host", host), ("Accept", "application/json"), ("Accept-Encoding", "identity")]
        self._headers.append(("User-Agent", USER_AGENT))

    def left_open(self) -> bool:
        """Tell, once, whether connections of our own may still be open when nobody needs them any more."""
        used, self._used = self._used, False
        return used and self.owned and not self.client.is_closed

    async def fingerprint(self) -> str:
        """Return a keyed hash of the service and the key; no path of the API is signed with it, so it opens nothing.

        Raises:
            PerkamoConfigurationError: The key supplier failed.
        """
        signed = await self._key.sign(0, "POST", "fingerprint", self.base_url.encode())
        return sha256(dict(signed.items)[SIGNATURE_HEADER].encode()).hexdigest()

    async def attempt(self, call: Call, seconds: float, number: int) -> Reply | Failure:
        """Make one request.

        Args:
            call: What to send.
            seconds: How long it may take, the key supplier and the answer's body included.
            number: Which attempt of the call this is, from 1.

        Raises:
            PerkamoConfigurationError: The key supplier failed.
        """
        self._used = True
        body = _RequestBody(call.body or b"")
        problem: Exception = httpx.ReadTimeout("")
        timestamp = time.time() + self.clock_offset
        with anyio.move_on_after(seconds):
            try:
                signed = await self._key.sign(int(timestamp), call.method, call.path, call.body)
                response = await self.client.send(
                    self._request(call, body, seconds), auth=_Auth(signed), stream=True, follow_redirects=False
                )
                try:
                    data: bytes | ValueError = await _read(response)
                finally:
                    await response.aclose()
            except (httpx.HTTPError, httpx.StreamError) as error:
                problem = strip_traceback(error)
            else:
                return classify_response(call, response, data, number, timestamp)
        return classify_failure(call, problem, number, begun=body.begun)

    def _request(self, call: Call, body: _RequestBody, seconds: float) -> httpx.Request:
        url = self._urls.get(call.path)
        if url is None:
            prefix = self._origin.raw_path.rstrip(b"/")
            url = self._origin.copy_with(raw_path=prefix + call.path.encode("ascii"))
            if call.is_write:  # few and fixed; a read's path holds an id
                self._urls[call.path] = url
        headers = self._headers
        if call.body is not None:
            headers = [*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(call.body)))]
        # Stock httpx loses a pool's slot when it is cancelled, so a caller's client is let time out by itself first.
        extensions = {} if self.owned else {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)}
        return httpx.Request(call.method, url, headers=headers, stream=body, extensions=extensions)


async def _read(response: httpx.Response) -> bytes | ValueError:
    try:
        return await read_bounded(response)
    except ValueError as error:
        return ValueError(str(error))


def strip_traceback(error: Exception) -> Exception:
    """Return the same kind of error without traceback, cause and request, all of which may hold secrets."""
    if isinstance(error, httpx.ConnectError) and _is_refused_certificate(error):
        return ssl.SSLCertVerificationError(str(error))
    return type(error)(str(error)) if isinstance(error, httpx.TransportError) else httpx.ReadError(str(error))


def _is_refused_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return True
        error = error.__cause__ or error.__context__
    return False
