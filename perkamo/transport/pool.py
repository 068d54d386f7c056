"""The transport under the client's ``httpx.AsyncClient``: a pool of connections that cancellation can't damage.

Stock httpx 0.28 on httpcore 1.0 loses a slot of its pool when a call is cancelled at the wrong moment, until every
later call fails, and its cost grows with the square of the concurrency (encode/httpcore#1093, #1035). Here a connection
is taken off a stack, used by one call alone, and put back only after an answer that was read to its end; all other ends
close it. Taking, putting back and closing are plain statements between two awaits, so a cancelled call costs its own
connection and nothing else.
"""

import asyncio
import os
import ssl
from collections import OrderedDict, deque
from functools import cache
from time import monotonic
from typing import Final, Self
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import httpx

from perkamo.transport.http1 import HTTP1Connection, Origin
from perkamo.transport.replaced import Place, StandIn, reveal, tool_in_place
from perkamo.transport.resolver import Resolver, connect, is_loopback
from perkamo.transport.sockets import reason

MAX_CONNECTIONS: Final = 100
KEEPALIVE_EXPIRY: Final = 30.0


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
        address = httpx.Proxy(chosen, ssl_context=ssl_context() if chosen.startswith("https") else None)
        if address.url.host:
            return _ThroughProxy(
                proxy=address,
                verify=ssl_context(),
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_EXPIRY),
            )
    except (ValueError, ImportError, httpx.InvalidURL):
        pass
    raise ValueError("the proxy is not the URL of an HTTP proxy, such as http://proxy.internal:3128")


@cache
def ssl_context() -> ssl.SSLContext:
    """Return the TLS context that all clients of this process share: making one takes longer than many calls."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _environment_proxy(url: httpx.URL) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_loopback(url.host) or proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _ThroughProxy(httpx.AsyncHTTPTransport):
    """httpx's own transport, which sends the path that the extension ``target`` holds."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reveal(request, tool_in_place())
        return await super().handle_async_request(request)


class ConnectionsClosedError(httpx.TransportError):
    """The transport was closed before or during the call."""


class Connections(httpx.AsyncBaseTransport):
    """Connections of one client: bounded in number, each belonging to one event loop and one process.

    Args:
        max_connections: The most connections at a time; further calls wait in the order in which they came.
        keepalive_expiry: Seconds after which an idle connection is no longer used.
    """

    def __init__(self, *, max_connections: int = MAX_CONNECTIONS, keepalive_expiry: float = KEEPALIVE_EXPIRY) -> None:
        self._max_connections = max_connections
        self._keepalive_expiry = keepalive_expiry
        self._closed = False
        self._watched: dict[type, httpx.AsyncBaseTransport] = {}
        # A socket of another event loop can't be awaited, and one of another process would bring its answers here.
        self._pid = os.getpid()
        self._pools: WeakKeyDictionary[object, _Pool] = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request over a connection of its own and return the answer, whose body is still to be read.

        Raises:
            ConnectionsClosedError: ``aclose`` was called.
            httpx.TransportError: The exchange failed; it has no cause but a bare ``ssl.SSLError``, when TLS is why.
        """
        place = tool_in_place()
        if place is not None:
            reveal(request, place)
            return await self._watched_by(place).handle_async_request(request)
        return await self._send(request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol("only http and https are supported")
        tls = url.scheme == "https"
        origin = (tls, url.raw_host.decode("ascii"), url.port or (443 if tls else 80))
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        pool = self._pool()
        connection = await pool.take(origin, limits.get("pool"))
        try:
            if connection is None:
                connection = await pool.open(origin, limits.get("connect"))
            await connection.send(request, limits.get("write"))
            head = await connection.receive_head(limits.get("read"))
        except BaseException:
            pool.drop(connection)
            raise
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=_ResponseStream(pool, connection, limits.get("read")),
            extensions={"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason},
        )

    async def aclose(self) -> None:
        """Close all connections of the current event loop and of those that have ended; calls under way fail."""
        self._closed = True
        self._pool().close()
        self._close_what_ended()
        for watched in self._watched.values():
            await watched.aclose()

    def _watched_by(self, place: Place) -> httpx.AsyncBaseTransport:
        """Return a transport that the tool sees: httpx's own over this pool, or, for a tool below that, all of it."""
        stock = httpx.AsyncHTTPTransport if place == "below" else StandIn
        watched = self._watched.get(stock)
        if watched is None:
            watched = httpx.AsyncHTTPTransport(verify=ssl_context()) if place == "below" else StandIn(self._send)
            self._watched[stock] = watched
        return watched

    def _pool(self) -> "_Pool":
        if self._pid != os.getpid():
            # Nothing of the parent's is touched: its sockets were let go when this process began.
            self._pid = os.getpid()
            self._pools = WeakKeyDictionary()
        loop = anyio.lowlevel.current_token().native_token
        pool = self._pools.get(loop)
        if pool is None:
            self._close_what_ended()
            pool = self._pools[loop] = _Pool(self._max_connections, self._keepalive_expiry)
        if self._closed:
            pool.close()
        return pool

    def _close_what_ended(self) -> None:
        # Threads with other loops do the same at the same time: ``keyrefs`` and ``pop`` are one step each.
        for reference in self._pools.keyrefs():
            loop = reference()
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                pool = self._pools.pop(loop, None)
                if pool is not None:
                    pool.close_sockets()


class _Waiter:
    """A call that waits for its turn: for a place, or for a connection that came free."""

    __slots__ = ("connection", "granted", "origin", "turn")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.turn = anyio.Event()
        self.granted = False
        self.connection: HTTP1Connection | None = None


class _Pool:
    """The connections of one event loop in one process. No await stands within a change of its state.

    A call holds a place from ``take`` to ``put_back`` or ``drop``. An idle connection holds one too.
    """

    def __init__(self, places: int, expiry: float) -> None:
        self._free = places
        self._expiry = expiry
        self._closed = False
        self._resolver = Resolver()
        self._busy: set[HTTP1Connection] = set()
        self._idle: dict[Origin, deque[HTTP1Connection]] = {}
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()

    async def take(self, origin: Origin, seconds: float | None) -> HTTP1Connection | None:
        """Get a place, with an idle connection if there is one; wait for it when all are taken.

        Raises:
            httpx.PoolTimeout: None came free in so many seconds.
            ConnectionsClosedError: The pool is closed.
        """
        self._check_open()
        if not self._waiting:
            connection = self._most_recent(origin)
            if connection is not None:
                return connection
            if self._free or self._evict():
                self._free -= 1
                return None
        return await self._queue(origin, seconds)

    async def open(self, origin: Origin, seconds: float | None) -> HTTP1Connection:
        """Connect, on a place that is held already.

        Raises:
            httpx.ConnectTimeout: It took longer than so many seconds.
            httpx.ConnectError: It did not work.
        """
        tls, host, port = origin
        try:
            with anyio.fail_after(seconds):
                stream = await connect(self._resolver, host, port, ssl_context() if tls else None)
        except TimeoutError:
            problem: httpx.TransportError = httpx.ConnectTimeout("connecting took too long")
        except OSError as error:
            problem = httpx.ConnectError(reason(error))
            problem.__cause__ = error.with_traceback(None) if isinstance(error, ssl.SSLError) else None
        else:
            connection = HTTP1Connection(origin, stream)
            self._busy.add(connection)
            if self._closed:
                connection.close()
            return connection
        raise problem

    def put_back(self, connection: HTTP1Connection) -> None:
        """Give back a place whose connection is ready for another exchange."""
        self._busy.discard(connection)
        waiter = None if self._closed else self._grant()
        if waiter is not None and waiter.origin == connection.origin:
            waiter.connection = connection
        elif waiter is None and not self._closed:
            connection.idle_since = monotonic()
            self._idle.setdefault(connection.origin, deque()).append(connection)
        else:
            connection.close()

    def drop(self, connection: HTTP1Connection | None) -> None:
        """Give back a place; close its connection, if there is one."""
        if connection is not None:
            self._busy.discard(connection)
            connection.close()
        if self._grant() is None:
            self._free += 1

    def close(self) -> None:
        """Close everything; calls under way and calls that wait end with an error."""
        self.close_sockets()
        for waiter in self._waiting:
            waiter.turn.set()
        self._waiting.clear()

    def close_sockets(self) -> None:
        """Close everything in a loop that has ended, in which nobody waits any more."""
        self._closed = True
        for connection in (*self._busy, *(one for idle in self._idle.values() for one in idle)):
            connection.close()
        self._idle.clear()

    def _most_recent(self, origin: Origin) -> HTTP1Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            return None
        expired = monotonic() - self._expiry
        while idle and idle[0].idle_since <= expired:
            self.drop(idle.popleft())
        while idle:
            connection = idle.pop()
            if connection.is_idle():
                self._busy.add(connection)
                return connection
            self.drop(connection)
        return None

    def _evict(self) -> bool:
        """Free the place of the longest idle connection, which is another service's: one's own would have been used."""
        longest = min((idle for idle in self._idle.values() if idle), key=lambda idle: idle[0].idle_since, default=None)
        if longest is None:
            return False
        self.drop(longest.popleft())
        return True

    async def _queue(self, origin: Origin, seconds: float | None) -> HTTP1Connection | None:
        waiter = _Waiter(origin)
        self._waiting[waiter] = None
        try:
            if seconds is None:
                await waiter.turn.wait()
            else:
                with anyio.move_on_after(seconds):
                    await waiter.turn.wait()
        except BaseException:
            self._withdraw(waiter)
            raise
        if self._closed or not waiter.granted:
            self._withdraw(waiter)
            self._check_open()
            raise httpx.PoolTimeout("no connection came free in time")
        connection = waiter.connection
        if connection is not None and not connection.is_idle():
            connection.close()
            return None
        if connection is not None:
            self._busy.add(connection)
        return connection

    def _grant(self) -> _Waiter | None:
        """Pass a place on to the call that waits longest."""
        if not self._waiting:
            return None
        waiter, _ = self._waiting.popitem(last=False)
        waiter.granted = True
        waiter.turn.set()
        return waiter

    def _withdraw(self, waiter: _Waiter) -> None:
        """Stop waiting; what was granted meanwhile goes to the next."""
        self._waiting.pop(waiter, None)
        if waiter.connection is not None:
            self.put_back(waiter.connection)
        elif waiter.granted:
            self.drop(None)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionsClosedError("the client was closed")


class _ResponseStream(httpx.AsyncByteStream):
    """The body of an answer, at whose end the connection is put back; broken off, it is closed.

    An iterator and no generator, which would live on when a cancelled call leaves it.
    """

    __slots__ = ("_held", "_seconds")

    def __init__(self, pool: _Pool, connection: HTTP1Connection, seconds: float | None) -> None:
        # Let go of at the end, or an answer that somebody keeps would keep an event loop's connections alive.
        self._held: tuple[_Pool, HTTP1Connection] | None = (pool, connection)
        self._seconds = seconds

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._held is None:
            raise StopAsyncIteration
        try:
            part = await self._held[1].receive_body(self._seconds)
        except BaseException:
            self._end(whole=False)
            raise
        if part is not None:
            return part
        self._end(whole=True)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        if self._held is None:
            return
        pool, connection = self._held
        self._held = None
        if whole and connection.renew():
            pool.put_back(connection)
        else:
            pool.drop(connection)
