"""The transport under the client's ``httpx.AsyncClient``: a pool of connections that cancellation can't damage.

Stock httpx 0.28 on httpcore 1.0 loses a slot of its pool when a call is cancelled at the wrong moment, until every
later call fails, and its cost grows with the square of the concurrency (encode/httpcore#1093, #1035). Here a connection
is taken off a stack, used by one call alone, and put back only after an answer that was read to its end; all other ends
close it. Taking and putting back are plain statements between two awaits, so a cancelled call costs its own connection
and nothing else.
"""

import math
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from typing import Final, TypeAlias, cast
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.lowlevel
import httpcore
import httpx

MAX_CONNECTIONS: Final = 100
KEEPALIVE_EXPIRY: Final = 30.0

Origin: TypeAlias = tuple[bytes, bytes, int]

_ERRORS: Final[dict[type[Exception], type[httpx.TransportError]]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.ProtocolError: httpx.ProtocolError,
}


def transport_for(base_url: str, proxy: str | None = None) -> httpx.AsyncBaseTransport:
    """Return the transport for one service.

    A proxy, given or from the environment, is served by httpx's own pool, which can lose connections when calls are
    cancelled. This machine itself is never asked for through a proxy of the environment.

    Args:
        base_url: Where the service is.
        proxy: The URL of an HTTP proxy, or None to read ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``.

    Raises:
        ValueError: The proxy is no URL of an HTTP proxy; the text does not show it.
    """
    chosen = proxy or _environment_proxy(httpx.URL(base_url))
    if chosen is None:
        return Connections()
    try:
        return httpx.AsyncHTTPTransport(
            proxy=httpx.Proxy(chosen, ssl_context=ssl_context() if chosen.startswith("https") else None),
            verify=ssl_context(),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_EXPIRY),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        pass
    raise ValueError("the proxy is not the URL of an HTTP proxy, such as http://proxy.internal:3128")


@cache
def ssl_context() -> ssl.SSLContext:
    """Return the TLS context that all clients of this process share: making one takes longer than many calls."""
    return httpx.create_ssl_context()


def _environment_proxy(url: httpx.URL) -> str | None:
    try:
        local = ip_address(url.host).is_loopback
    except ValueError:
        local = url.host == "localhost"
    if local or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


class Connections(httpx.AsyncBaseTransport):
    """Connections of one client: bounded in number, each belonging to one event loop and one process.

    Args:
        max_connections: The most connections at a time; further calls wait in the order in which they came.
        keepalive_expiry: Seconds after which an idle connection is no longer used.
    """

    def __init__(self, *, max_connections: int = MAX_CONNECTIONS, keepalive_expiry: float = KEEPALIVE_EXPIRY) -> None:
        self._max_connections = max_connections
        self._keepalive_expiry = keepalive_expiry
        # A socket of another event loop can't be awaited, and one of another process would bring its answers here.
        self._pool_of_loop: anyio.lowlevel.RunVar[_Pool] = anyio.lowlevel.RunVar("perkamo_connections")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request over a connection of its own and return the answer, whose body is still to be read."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        origin = (url.raw_scheme, url.raw_host, port)
        pool = self._pool()
        timeouts = request.extensions.get("timeout", {})
        connection = await pool.take(origin, timeouts.get("pool"))
        try:
            response = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except Exception as error:  # noqa: BLE001 - each has its row in the table, or is handed on as it is
            problem = _as_httpx(error)
            await pool.drop(connection)
        except BaseException:
            await pool.drop(connection)
            raise
        else:
            return httpx.Response(
                response.status,
                headers=response.headers,
                stream=_Body(pool, origin, connection, response),
                extensions=cast("dict[str, object]", response.extensions),
            )
        raise problem

    async def aclose(self) -> None:
        """Close all connections of the current event loop, those in use included, whose calls end with an error."""
        await self._pool().close()

    def _pool(self) -> "_Pool":
        pool = self._pool_of_loop.get(None)
        if pool is None or pool.pid != os.getpid():
            pool = _Pool(self._max_connections, self._keepalive_expiry)
            self._pool_of_loop.set(pool)
        return pool


class _Waiter:
    """A call that waits for its turn; whoever frees a place puts a connection here."""

    __slots__ = ("connection", "gone", "origin", "turn")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.turn = anyio.Event()
        self.gone = False
        self.connection: httpcore.AsyncHTTPConnection | None = None


class _Pool:
    """The connections of one event loop in one process. No await stands within a change of its state."""

    def __init__(self, max_connections: int, keepalive_expiry: float) -> None:
        self.pid = os.getpid()
        self._max = max_connections
        self._expiry = keepalive_expiry
        self._closed = False
        self._in_use: set[httpcore.AsyncHTTPConnection] = set()
        self._idle: dict[Origin, deque[tuple[httpcore.AsyncHTTPConnection, float]]] = {}
        self._idle_count = 0
        self._waiting: deque[_Waiter] = deque()

    async def take(self, origin: Origin, seconds: float | None) -> httpcore.AsyncHTTPConnection:
        """Return a connection for one call; wait for one when all are in use.

        Raises:
            httpx.PoolTimeout: None came free in so many seconds.
            httpx.ConnectError: The client was closed.
        """
        self._check_open()
        stale: list[httpcore.AsyncHTTPConnection] = []
        connection = None if self._waiting else self._pick(origin, stale)
        if connection is None:
            connection = await self._wait(origin, seconds)
        if stale:
            try:
                for one in stale:
                    await _close(one)
            except BaseException:
                await self.drop(connection)
                raise
        return connection

    def _pick(self, origin: Origin, stale: list[httpcore.AsyncHTTPConnection]) -> httpcore.AsyncHTTPConnection | None:
        now = time.monotonic()
        idle = self._idle.get(origin)
        while idle:
            connection, since = idle.pop()
            self._idle_count -= 1
            if now - since < self._expiry and not connection.has_expired():
                self._in_use.add(connection)
                return connection
            stale.append(connection)
        if len(self._in_use) + self._idle_count < self._max:
            return self._new(origin)
        if self._idle_count:
            # Another service's connection, the longest idle of all, would keep this call waiting for nothing.
            longest = min((others[0][1], other) for other, others in self._idle.items() if others)[1]
            stale.append(self._idle[longest].popleft()[0])
            self._idle_count -= 1
            return self._new(origin)
        return None

    def _new(self, origin: Origin) -> httpcore.AsyncHTTPConnection:
        connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(*origin), ssl_context=ssl_context() if origin[0] == b"https" else None
        )
        self._in_use.add(connection)
        return connection

    async def _wait(self, origin: Origin, seconds: float | None) -> httpcore.AsyncHTTPConnection:
        waiter = _Waiter(origin)
        self._waiting.append(waiter)
        try:
            with anyio.move_on_after(math.inf if seconds is None else seconds):
                await waiter.turn.wait()
        except BaseException:
            waiter.gone = True
            if waiter.connection is not None:
                await self.put_back(waiter.connection, origin)
            raise
        waiter.gone = True
        self._check_open()
        if waiter.connection is None:
            raise httpx.PoolTimeout("no connection came free in time")
        return waiter.connection

    async def put_back(self, connection: httpcore.AsyncHTTPConnection, origin: Origin) -> None:
        """Let others use a connection whose answer was read to its end; close it where it is not fit for that."""
        self._in_use.discard(connection)
        reusable = connection.is_idle() and not self._closed and not _has_surplus(connection)
        waiter = self._next_waiter()
        if waiter is not None:
            same = reusable and waiter.origin == origin
            self._hand_over(waiter, connection if same else None)
            reusable = same
        elif reusable:
            self._idle.setdefault(origin, deque()).append((connection, time.monotonic()))
            self._idle_count += 1
        if not reusable:
            await _close(connection)

    async def drop(self, connection: httpcore.AsyncHTTPConnection) -> None:
        """Close a connection whose exchange did not come to its end; its place is free at once."""
        self._in_use.discard(connection)
        waiter = self._next_waiter()
        if waiter is not None:
            self._hand_over(waiter, None)
        await _close(connection)

    def _next_waiter(self) -> _Waiter | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.gone:
                return waiter
        return None

    def _hand_over(self, waiter: _Waiter, connection: httpcore.AsyncHTTPConnection | None) -> None:
        if connection is None:
            connection = self._new(waiter.origin)
        self._in_use.add(connection)
        waiter.connection = connection
        waiter.turn.set()

    async def close(self) -> None:
        """Close everything; calls under way and calls that wait end with an error."""
        self._closed = True
        idle = [connection for others in self._idle.values() for connection, _ in others]
        self._idle.clear()
        self._idle_count = 0
        for waiter in self._waiting:
            waiter.turn.set()
        self._waiting.clear()
        for connection in (*idle, *self._in_use):
            await _close(connection)

    def _check_open(self) -> None:
        if self._closed:
            raise httpx.ConnectError("the client was closed")


class _Body(httpx.AsyncByteStream):
    """The body of an answer, at whose end the connection goes back, or is closed when it was not read to its end."""

    def __init__(
        self, pool: _Pool, origin: Origin, connection: httpcore.AsyncHTTPConnection, response: httpcore.Response
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._connection = connection
        self._response = response
        self._parts: AsyncIterator[bytes] | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts = cast("AsyncIterable[bytes]", self._response.stream).__aiter__()
        return self

    async def __anext__(self) -> bytes:
        if self._ended or self._parts is None:
            raise StopAsyncIteration
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._parts = None
            raise
        except Exception as error:  # noqa: BLE001 - each has its row in the table, or is handed on as it is
            self._parts = None
            problem = _as_httpx(error)
        raise problem

    async def aclose(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._parts is not None:
            await self._break_off(self._parts)
            return
        try:
            await self._response.aclose()
        except BaseException:
            await self._pool.drop(self._connection)
            raise
        await self._pool.put_back(self._connection, self._origin)

    async def _break_off(self, parts: AsyncIterator[bytes]) -> None:
        """Close the socket first: httpcore's generators then end by themselves, as trio wants them to."""
        await self._pool.drop(self._connection)
        with suppress(Exception):
            while True:
                await anext(parts)


def _as_httpx(error: Exception) -> Exception:
    """Return a fresh error of httpx's own: the original's traceback leads into frames that hold the key."""
    for kind, ours in _ERRORS.items():
        if isinstance(error, kind):
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ssl.SSLError):
                cause = cause.__cause__ or cause.__context__
            made: Exception = ours(str(error))
            made.__cause__ = None if cause is None else cause.with_traceback(None)
            return made
    return error


def _has_surplus(connection: httpcore.AsyncHTTPConnection) -> bool:
    """Tell whether bytes came after the end of the answer, which the next call would read as its own answer.

    httpcore keeps them in h11's buffer and offers no public look at it. Where that look fails, one connection too many
    is closed, which costs time and no answer.
    """
    state: object = getattr(getattr(connection, "_connection", None), "_h11_state", None)
    trailing: object = getattr(state, "trailing_data", None)
    return trailing != (b"", False)


async def _close(connection: httpcore.AsyncHTTPConnection) -> None:
    """Close a socket, also within a cancelled scope; what goes wrong in closing is of no interest to anyone."""
    with anyio.CancelScope(shield=True):
        with suppress(Exception):
            await connection.aclose()
