"""The transport under an ``httpx.AsyncClient``: connections that cancellation can't damage.

Stock httpx 0.28 on httpcore 1.0 loses a slot of its pool when a call is cancelled at the wrong moment, until every
later call fails. Its cost grows with the square of the concurrency (encode/httpcore#1093, #1035).
"""

import os
import ssl
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, cast
from weakref import WeakKeyDictionary

import anyio.lowlevel
import httpx

from perkamo.transport.connect import Connector
from perkamo.transport.deadlines import FOREVER
from perkamo.transport.http1 import Exchange, Origin
from perkamo.transport.pool import Limits, Pool
from perkamo.transport.proxy import Proxy
from perkamo.transport.replaced import Place, StandIn, reveal, tool_in_place
from perkamo.transport.response import ComingBody, Response, WholeBody, is_failure
from perkamo.transport.sockets import NothingSentError, reason
from perkamo.transport.tls import shared_context

MAX_CONNECTIONS: Final = 100
_PORTS: Final = {"http": 80, "https": 443}


class Transport(httpx.AsyncBaseTransport):
    """An httpx transport for asyncio and trio: ``httpx.AsyncClient(transport=perkamo.Transport())``.

    A call that is cancelled costs its own connection and nothing else. Each event loop and each process has connections
    of its own, so one transport serves any number of loops, in threads too, and continues working in a forked child.

    It speaks HTTP/1.1. A request's body is taken whole before it is sent. Of httpx's extensions ``trace``,
    ``sni_hostname`` and ``network_stream`` are not there.

    Example:
        >>> transport = Transport(ssl_context=ssl.create_default_context(cafile="our-ca.pem"))
        >>> async with httpx.AsyncClient(transport=transport) as client:
        ...     response = await client.get("https://service.internal/")

    Args:
        ssl_context: The certificates that are trusted, and our own, if any. By default a context that httpx makes,
            shared by all transports of the process. It is made to offer HTTP/1.1 (ALPN), as httpx does.
        max_connections: The most connections of one event loop at a time, 1 or more; further calls wait, first come,
            first served.
        keepalive_expiry: Seconds after which an idle connection is no longer used, or None for no limit. If the server
            names a shorter time (``Keep-Alive: timeout=``), that is kept.
        max_connection_age: Seconds after which a connection is not used for a further request, so that traffic follows
            a changed DNS name; None for no limit.
        proxy: The URL of a proxy for all requests: ``http://``, ``https://`` or, with the extra ``socks``,
            ``socks5://``, which looks names up itself; user name and password are percent-decoded. Or an
            ``httpx.Proxy``, which may have a TLS context of its own. The environment is not read.
        local_address: The IP address of this machine to connect from, or None for the system's choice.
        retries_on_stale: How often a request is sent again, over another connection, if the connection of an earlier
            request turned out to be closed before a single byte was sent.

    Raises:
        ValueError: A number is out of its range, ``local_address`` is not an IP address, or the proxy can't be used;
            the text does not show the proxy's URL.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_expiry: float | None = 30.0,
        max_connection_age: float | None = 300.0,
        proxy: str | httpx.URL | httpx.Proxy | Proxy | None = None,
        local_address: str | None = None,
        retries_on_stale: int = 1,
    ) -> None:
        self._proxy = proxy if proxy is None or isinstance(proxy, Proxy) else Proxy(proxy)
        del proxy  # it may hold a password, and errors lead into this frame
        if self._proxy is not None and self._proxy.problem is not None:
            raise ValueError(self._proxy.problem)
        _check_number("max_connections", max_connections, least=1, kinds=(int,))
        _check_number("retries_on_stale", retries_on_stale, least=0, kinds=(int,))
        for name, seconds in (("keepalive_expiry", keepalive_expiry), ("max_connection_age", max_connection_age)):
            if seconds is not None:
                _check_number(name, seconds, least=0, kinds=(int, float))
        if local_address is not None and not _is_address(local_address):
            raise ValueError("local_address must be an IP address")  # a name would be looked up within the event loop
        if ssl_context is not None and not isinstance(cast("object", ssl_context), ssl.SSLContext):
            raise ValueError("ssl_context must be an ssl.SSLContext")
        # Not a method of this object: its pools would refer back to it, and the cycle would keep the sockets open after
        # the object is dropped.
        self._ssl_context: Callable[[], ssl.SSLContext] = (lambda: ssl_context) if ssl_context else shared_context
        self._limits = Limits(
            connections=max_connections,
            idle=FOREVER if keepalive_expiry is None else keepalive_expiry,
            age=FOREVER if max_connection_age is None else max_connection_age,
        )
        self._local_address = local_address
        self._retries_on_stale = retries_on_stale
        self._closed = False
        self._watched: dict[type, httpx.AsyncBaseTransport] = {}
        # A socket of another event loop can't be awaited, and one of another process would bring its answers here.
        self._pid = os.getpid()
        self._pools: WeakKeyDictionary[object, Pool] = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request over a connection of its own and return the answer, whose body is still to be read.

        Args:
            request: Its extensions are: ``timeout``, httpx's four timeouts in seconds; ``total``, the seconds for all
                steps together until the end of the body; ``target``, the path to send, if it differs from that of the
                URL; ``deadline``, the ``anyio.current_time`` at which the caller gives the request up: a cancellation
                after that is a failure of the connection, and idle connections that are older are not used any more.

        Raises:
            httpx.TransportError: The exchange failed. Its cause is None or, if TLS failed, an ``ssl.SSLError`` without
                a traceback. After ``aclose`` it is a ``ConnectionsClosedError``.
        """
        place = tool_in_place()
        if place is not None:
            reveal(request, place)
            return await self._watched_by(place).handle_async_request(request)
        return await self._send(request)

    async def aclose(self) -> None:
        """Close all connections of the current event loop and of those that have ended; calls under way fail."""
        self._closed = True
        self._pool().close()
        self._close_what_ended()
        for watched in self._watched.values():
            await watched.aclose()

    def _new_pool(self) -> Pool:
        """Make the pool of one event loop."""
        connector = Connector(self._ssl_context, proxy=self._proxy, local_address=self._local_address)
        return Pool(connector, self._limits)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        origin = _origin_of(request.url)
        proxy = self._proxy if self._proxy and self._proxy.forwards(request.url.scheme) else None
        deadline: float = request.extensions.get("deadline", FOREVER)
        pool = self._pool()
        timeouts = pool.timeouts(request.extensions)
        retries = self._retries_on_stale
        # A generator may take its time and must not hold a connection meanwhile, nor let it go stale. Bytes that are
        # there are asked for when they are sent, so that whoever gave them knows whether any can have been.
        stream, exchange = request.stream, None
        parts = stream if isinstance(stream, httpx.ByteStream) else await _parts_of(stream)
        while True:
            connection = await pool.take(origin, timeouts.until("pool"))
            try:
                if connection is None:
                    connection = await pool.open(origin, timeouts.until("connect"))
                if exchange is None:
                    exchange = Exchange(request, list(parts), proxy)
                await connection.send(exchange, timeouts.until("write"))
                head = await connection.receive_head(timeouts)
            except NothingSentError as error:
                text = reason(error)
            except BaseException as error:
                failed = is_failure(error, deadline)
                if not failed:
                    pool.doubt(connection)
                pool.drop(connection, failed=failed)
                raise
            else:
                body = connection.take_body()
                if body is None:
                    return Response(head, ComingBody(pool, connection, timeouts, deadline))
                pool.finish(connection)
                return Response(head, WholeBody(body))
            pool.drop(connection, failed=True)
            if not retries:
                raise httpx.WriteError(text)
            retries -= 1

    def _watched_by(self, place: Place) -> httpx.AsyncBaseTransport:
        """Return a transport that the tool sees: httpx's own over our pool, or all of httpx's for a tool below that."""
        stock = httpx.AsyncHTTPTransport if place == "below" else StandIn
        watched = self._watched.get(stock)
        if watched is None:
            below = place == "below"
            watched = httpx.AsyncHTTPTransport(verify=self._ssl_context()) if below else StandIn(self._send)
            self._watched[stock] = watched
        return watched

    def _pool(self) -> Pool:
        if self._pid != os.getpid():
            # The parent's pools are not touched: the copies of their sockets were closed when this process began.
            self._pid = os.getpid()
            self._pools = WeakKeyDictionary()
        loop = _event_loop()
        pool = self._pools.get(loop)
        if pool is None:
            self._close_what_ended()
            pool = self._pools[loop] = self._new_pool()
        if self._closed:
            pool.close()
        return pool

    def _close_what_ended(self) -> None:
        import asyncio  # noqa: PLC0415 - as in sockets

        # Threads with other loops may do the same at the same time. ``keyrefs`` and ``pop`` are one step each.
        for reference in self._pools.keyrefs():
            loop = reference()
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                pool = self._pools.pop(loop, None)
                if pool is not None:
                    pool.close_sockets()


def _check_number(name: str, value: float, *, least: int, kinds: tuple[type, ...]) -> None:
    """Raise ValueError for what would only fail within a call, and cost a connection each time."""
    if not isinstance(value, kinds) or isinstance(value, bool) or not value >= least:  # NaN is not
        kind = "a number" if float in kinds else "a whole number"
        raise ValueError(f"{name} must be {least} or more, as {kind}")


def _is_address(given: str) -> bool:
    try:
        ip_address(given)
    except ValueError:
        return False
    return type(given) is str  # ip_address takes numbers, too


def _event_loop() -> object:
    """Return the event loop that runs the caller.

    A task of asyncio's knows its loop; asking anyio costs ten times as much. Code of trio's is in no such task, also
    where asyncio hosts trio.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop of asyncio's runs
            task = None
        if task is not None:
            return task.get_loop()
    return anyio.lowlevel.current_token().native_token


def _origin_of(url: httpx.URL) -> Origin:
    port = _PORTS.get(url.scheme)
    if port is None:
        raise httpx.UnsupportedProtocol("only http and https are supported")
    return (url.scheme == "https", url.raw_host.decode("ascii"), url.port or port)


async def _parts_of(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> list[bytes]:
    """Read a body whole before it is sent: a generator that is left half-read would outlive the call."""
    assert isinstance(stream, httpx.AsyncByteStream)
    return [part async for part in stream]
