"""From an origin to a stream that a request can be sent on."""

import socket
import ssl
from collections.abc import Callable
from typing import TypeAlias

from perkamo.clock import Clock
from perkamo.transport.resolver import HEAD_START, Address, Find, Resolver, connect_any, find_addresses
from perkamo.transport.sockets import PlainSocket, Stream
from perkamo.transport.tls import TLSStream

Origin: TypeAlias = tuple[bool, str, int]
"""Whether TLS is used, the host in ASCII, the port."""


class Connector:
    """Opens connections for one event loop.

    Args:
        ssl_context: Makes or finds the TLS context, when it is first needed.
        local_address: The address of this machine to connect from, or None for the system's choice.
        clock: What deadlines go by.
        find: Finds the addresses of a host.
        head_start: Seconds that each address has before the next one is tried as well.
    """

    def __init__(
        self,
        ssl_context: Callable[[], ssl.SSLContext],
        *,
        local_address: str | None = None,
        clock: Clock = Clock(),
        find: Find = find_addresses,
        head_start: float = HEAD_START,
    ) -> None:
        self._ssl_context = ssl_context
        self._local_address = local_address
        self._clock = clock
        self._resolver = Resolver(find)
        self._head_start = head_start

    async def connect(self, origin: Origin) -> Stream:
        """Open a connection to whichever of a host's addresses answers first.

        Raises:
            OSError: It did not work; an ``ssl.SSLError`` when TLS is why.
        """
        tls, host, port = origin
        context = self._ssl_context() if tls else None
        addresses = await self._resolver.look_up(host, port)
        plain = await connect_any(addresses, self._dial, self._head_start)
        return plain if context is None else await secure(plain, context, host)

    async def _dial(self, address: Address) -> PlainSocket:
        family, kind, protocol, where = address
        plain = PlainSocket(socket.socket(family, kind, protocol), self._clock)
        try:
            await plain.connect(where, self._local_address)
        except BaseException:
            plain.close()
            raise
        return plain


async def secure(stream: Stream, context: ssl.SSLContext, host: str) -> TLSStream:
    """Begin TLS over a stream, which is closed where that does not work.

    Raises:
        OSError: It did not work; an ``ssl.SSLError`` when TLS is why.
    """
    try:
        secured = TLSStream(stream, context, host)
        await secured.handshake()
    except BaseException:
        stream.close()
        raise
    return secured
