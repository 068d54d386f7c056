"""Opens connections: from an origin to a stream that a request can be sent on."""

import socket
import ssl
from collections.abc import Callable

from perkamo.runtime.clock import Clock
from perkamo.transport.deadlines import Deadlines
from perkamo.transport.http1 import Origin
from perkamo.transport.proxy import Proxy
from perkamo.transport.resolver import HEAD_START, Address, Find, Resolver, connect_any, find_addresses
from perkamo.transport.sockets import PlainSocket, Stream
from perkamo.transport.tls import TLSStream
from perkamo.transport.tunnel import open_tunnel


class Connector:
    """Opens connections for one event loop.

    Args:
        ssl_context: Makes or finds the TLS context, when it is first needed.
        proxy: The proxy that connections go through, or None.
        local_address: The address of this machine to connect from, or None for the system's choice.
        clock: The clock of the deadlines.
        find: Finds the addresses of a host.
        head_start: Seconds after which the next address is tried as well.
    """

    def __init__(
        self,
        ssl_context: Callable[[], ssl.SSLContext],
        *,
        proxy: Proxy | None = None,
        local_address: str | None = None,
        clock: Clock = Clock(),
        find: Find = find_addresses,
        head_start: float = HEAD_START,
    ) -> None:
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._local_address = local_address
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._resolver = Resolver(find)
        self._head_start = head_start

    async def connect(self, origin: Origin) -> Stream:
        """Open a connection to a service: through the proxy, or to whichever of the host's addresses answers first.

        Raises:
            OSError: The connection failed; an ``ssl.SSLError`` if TLS failed.
            httpx.ProxyError: The proxy refused.
        """
        tls, host, port = origin
        context = self._ssl_context() if tls else None
        stream = await self._reach(host, port) if self._proxy is None else await self._through(self._proxy, origin)
        return stream if context is None else await _secure(stream, context, host)

    def close(self) -> None:
        """Cancel the timer of the deadlines."""
        self._deadlines.close()

    async def _through(self, proxy: Proxy, origin: Origin) -> Stream:
        tls, host, port = origin
        context = (proxy.ssl_context or self._ssl_context()) if proxy.uses_tls else None
        stream: Stream = await self._reach(proxy.host, proxy.port)
        if context is not None:
            stream = await _secure(stream, context, proxy.host)
        if not tls and not proxy.is_socks:
            return stream  # requests are sent to the proxy itself
        try:
            await open_tunnel(proxy, stream, host, port)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _reach(self, host: str, port: int) -> Stream:
        addresses = await self._resolver.look_up(host, port)
        return await connect_any(addresses, self._dial, self._head_start)

    async def _dial(self, address: Address) -> PlainSocket:
        family, kind, protocol, where = address
        plain = PlainSocket(socket.socket(family, kind, protocol), self._deadlines, self._clock)
        try:
            await plain.connect(where, self._local_address)
        except BaseException:
            plain.close()
            raise
        return plain


async def _secure(stream: Stream, context: ssl.SSLContext, host: str) -> TLSStream:
    """Begin TLS over a stream, and close the stream if that fails.

    Raises:
        OSError: The connection failed; an ``ssl.SSLError`` if TLS failed.
    """
    try:
        secured = TLSStream(stream, context, host)
        await secured.handshake()
    except BaseException:
        stream.close()
        raise
    return secured
