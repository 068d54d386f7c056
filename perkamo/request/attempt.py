"""One request of a call: sign it, send it, read the answer within bounds, and classify the result.

Errors of httpx end here. They are turned into ours outside the ``except`` block, so that no traceback, cause or context
leads into frames that hold the key or the body.
"""

import ssl
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Final, cast

import anyio
import httpx

from perkamo import __version__
from perkamo.errors import PerkamoConfigurationError
from perkamo.redaction import guard_logs
from perkamo.request.body import UnusableBodyError, read_bounded
from perkamo.request.classify import Attempt, Failure, Reply, classify_failure, classify_response
from perkamo.request.credentials import Key, SignedHeaders
from perkamo.request.endpoints import Call
from perkamo.request.failures import Answered, Problem, result_of
from perkamo.request.outgoing import Addresses, RequestBody, SentPath
from perkamo.runtime.clock import Clock
from perkamo.transport.environment import environment_proxy
from perkamo.transport.replaced import tool_above, tool_in_place
from perkamo.transport.request import Request, add_headers
from perkamo.transport.transport import MAX_CONNECTIONS, Transport

USER_AGENT: Final = f"perkamo-python/{__version__}"


class _Auth(httpx.Auth):
    """Adds key and signature just before sending, from an object that shows neither."""

    __slots__ = ("_signed",)

    def __init__(self, signed: SignedHeaders) -> None:
        self._signed = signed

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        add_headers(request, self._signed.raw)
        yield request


class _NoCookies(httpx.Cookies):
    """Keeps no cookies. To find them, httpx would build urllib's requests and answers: a tenth of a call's cost."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Ignore the cookies of an answer."""


_STOCK: Final = httpx.AsyncClient
_SEND: Final = httpx.AsyncClient.send


class _Client(httpx.AsyncClient):
    """An ``httpx.AsyncClient`` without cookies."""

    @property
    def cookies(self) -> httpx.Cookies:
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        """Ignore cookies."""


_NO_COOKIES: Final = _NoCookies()
_UNBOUND: Final = cast("AbstractContextManager[None, bool]", nullcontext())


def own_client(
    base_url: str, *, proxy: str | None, ssl_context: ssl.SSLContext | None, max_connections: int | None
) -> httpx.AsyncClient:
    """Build the HTTP client that is used when the caller gives none.

    Args:
        base_url: The URL of the service.
        proxy: The URL of the proxy; None to ask the environment.
        ssl_context: As for ``Transport``.
        max_connections: As for ``Transport``; None for its default.

    Raises:
        PerkamoConfigurationError: The proxy can't be used, or ``max_connections`` is below 1.
    """
    try:
        transport = Transport(
            proxy=environment_proxy(httpx.URL(base_url)) if proxy is None else proxy,
            ssl_context=ssl_context,
            max_connections=MAX_CONNECTIONS if max_connections is None else max_connections,
        )
    except ValueError as error:
        problem = str(error)
    else:
        # No timeout here: the exchange limits every call.
        return _client_class()(transport=transport, trust_env=False, timeout=None)
    raise PerkamoConfigurationError(f"The client can't be built: {problem}.")


def _client_class() -> type[httpx.AsyncClient]:
    """Return our own class, or the class by which a tool has replaced httpx's, so that it sees our requests."""
    placed = httpx.AsyncClient
    is_tool = placed is not _STOCK and isinstance(cast("object", placed), type) and _STOCK in placed.__mro__
    return placed if is_tool else _Client


def heeds_target(client: httpx.AsyncClient) -> bool:
    """Return whether a client sends the path in ``target``: our own does, unless a tool replaces its class."""
    return type(client) is _Client and not tool_above()


def _wall_time() -> float:
    return time.time()  # looked up at each call: a signature follows the clock also when a test tool freezes it


class Sender:
    """Where requests go: one HTTP client, one key, one base URL; shared by all views of a client."""

    def __init__(self, *, key: Key, base_url: str, client: httpx.AsyncClient, owned: bool) -> None:
        guard_logs()  # httpx logs URLs
        self.client = client
        self.owned = owned
        self.base_url = base_url
        self.clock_offset: float = 0.0
        self.wall_time: Callable[[], float] = _wall_time
        self._used = False
        self._key = key
        self._addresses = Addresses(base_url)
        self.server: tuple[str, int] = self._addresses.server
        self._headers = [
            (b"Host", self._addresses.host),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", USER_AGENT.encode()),
        ]

    def left_open(self) -> bool:
        """Return, once, whether connections of our own may still be open when the client is dropped."""
        used, self._used = self._used, False
        return used and self.owned and not self.client.is_closed

    async def fingerprint(self) -> str:
        """Return a keyed hash of the service and the key. It signs no path of the API, so it gives no access.

        Raises:
            PerkamoConfigurationError: The key supplier failed.
        """
        signed = await self._key.sign(0, "POST", "fingerprint", self.base_url.encode())
        return sha256(str(signed.signature).encode()).hexdigest()

    async def attempt(
        self,
        call: Call,
        seconds: float,
        number: int,
        *,
        uncertain: bool,
        headers: Mapping[str, str],
        clock: Clock,
        began: float,
    ) -> Reply | Failure:
        """Make one request.

        Args:
            call: What to send.
            seconds: How long it may take, the key supplier and the answer's body included.
            number: The number of this attempt, from 1.
            uncertain: Whether an earlier attempt may have been applied.
            headers: Headers that hooks add.
            clock: The clock that measures the call.
            began: When the call began, by that clock.

        Raises:
            PerkamoConfigurationError: The key supplier failed.
        """
        self._used = True
        body = RequestBody(call.body or b"")
        timestamp = self.wall_time() + self.clock_offset
        signed: SignedHeaders | None = None
        result: Answered | Problem | None = None
        with self._bound(seconds) as scope:
            signed = await self._key.sign(int(timestamp), call.method, call.path, call.body)
            request, auth = self._request(call, body, signed, seconds, headers)
            if scope is None:
                request.extensions["total"] = seconds
            else:
                request.extensions["deadline"] = scope.deadline
            result = await self._send(request, auth, body)
        attempt = Attempt(
            call, number, uncertain, "" if signed is None else signed.key, "call", timestamp, clock.now() - began
        )
        if isinstance(result, tuple):
            return classify_response(attempt, *result)
        return classify_failure(attempt, result or Problem("timeout", sent=body.begun))

    def _bound(self, seconds: float) -> AbstractContextManager[anyio.CancelScope | None, bool]:
        """Return the cancel scope of an attempt, or a scope that does nothing if only our own transport can wait.

        Our transport keeps the time limit by itself, and a cancel scope costs a tenth of a whole call. A key supplier,
        a hook, a tool or a client of the caller's has to be cancelled.
        """
        is_ours = type(self.client) is _Client and _STOCK.send is _SEND and tool_in_place() is None
        if is_ours and not self._key.is_supplied:
            return _UNBOUND
        return anyio.move_on_after(seconds)

    async def _send(self, request: httpx.Request, auth: httpx.Auth, body: RequestBody) -> Answered | Problem:
        try:
            response = await self.client.send(request, auth=auth, stream=True, follow_redirects=False)
            try:
                return response, await read_answer(response, bare=self.owned)
            finally:
                await response.aclose()
        except Exception as error:
            result = result_of(error, request, begun=body.begun, external=not self.owned)
            if result is None:
                raise
        return result

    def _request(
        self, call: Call, body: RequestBody, signed: SignedHeaders, seconds: float, extra: Mapping[str, str]
    ) -> tuple[httpx.Request, httpx.Auth]:
        url, path = self._addresses.of(call)
        auth: httpx.Auth = _Auth(signed)
        headers = self._headers
        if call.body is not None:
            length = str(len(call.body)).encode("ascii")
            headers = [*headers, (b"Content-Type", b"application/json"), (b"Content-Length", length)]
        if extra:
            headers = [*headers, *((name.encode(), value.encode()) for name, value in extra.items())]
        extensions: dict[str, object] = {"timeout": {}}  # without it httpx fills in that there are none, step by step
        if not self.owned:
            # Stock httpx loses a pool's slot when it is cancelled, so a caller's client can time out by itself first.
            extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        if path != url.raw_path:
            if heeds_target(self.client):
                extensions["target"] = path
            else:
                auth = SentPath(auth, url.raw_path, path, self.client)
        return Request(call.method, url, headers, call.body or b"", stream=body, extensions=extensions), auth


async def read_answer(response: httpx.Response, *, bare: bool = False) -> bytes | ValueError:
    """Return the whole body of an answer, or why it can't be used; the arguments are those of ``read_bounded``."""
    try:
        return await read_bounded(response, bare=bare)
    except UnusableBodyError as error:
        return ValueError(str(error))
