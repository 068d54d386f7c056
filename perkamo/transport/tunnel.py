"""Tunnels through proxies: CONNECT of HTTP, and SOCKS5."""

from typing import Final

import httpx

from perkamo.transport.deadlines import FOREVER
from perkamo.transport.http1 import Exchange
from perkamo.transport.proxy import Proxy
from perkamo.transport.sockets import Stream

_CHUNK: Final = 65536
_HUNG_UP: Final = "the proxy closed the connection"
_NOT_SOCKS: Final = "the proxy does not speak SOCKS5"


async def open_tunnel(proxy: Proxy, stream: Stream, host: str, port: int) -> None:
    """Have a proxy open a tunnel to a service.

    Args:
        proxy: What it asks for.
        stream: The connection to it.
        host: The service's host, which the proxy looks up.
        port: The service's port.

    Raises:
        httpx.ProxyError: It refused, or does not speak its protocol.
        OSError: The connection is broken.
    """
    if proxy.is_socks:
        problem = await _open_socks(proxy, stream, host, port)
    else:
        problem = await _open_http(proxy, stream, host, port)
    if problem is not None:
        raise httpx.ProxyError(problem)


async def _open_http(proxy: Proxy, stream: Stream, host: str, port: int) -> str | None:
    exchange = Exchange(proxy.connect_request(host, port), ())
    exchange.put_on(stream)
    try:
        while exchange.find_head() is None:
            await stream.send(FOREVER)
            exchange.feed(await stream.receive(_CHUNK, FOREVER))
    except httpx.RemoteProtocolError:
        return "the proxy does not speak HTTP, or closed the connection"
    head = exchange.find_head()
    if head is None or not 200 <= head.status < 300:
        return "" if head is None else f"{head.status} {head.reason.decode('ascii', 'replace')}".rstrip()
    return "the proxy sent data before the service could" if exchange.has_surplus() else None


async def _open_socks(proxy: Proxy, stream: Stream, host: str, port: int) -> str | None:
    from socksio import ProtocolError  # noqa: PLC0415 - an extra

    try:
        return await _ask_socks(proxy, stream, host, port)
    except OverflowError:
        return "SOCKS5 has no way to say so long a name or password"
    except (ProtocolError, UnicodeError):
        return _NOT_SOCKS


async def _ask_socks(proxy: Proxy, stream: Stream, host: str, port: int) -> str | None:
    """Do the handshake of SOCKS5; return why the proxy refused, or None."""
    from socksio import socks5  # noqa: PLC0415 - an extra

    no_login, login = socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED, socks5.SOCKS5AuthMethod.USERNAME_PASSWORD
    methods = [no_login, login] if proxy.has_login else [no_login]
    stream.put(socks5.SOCKS5AuthMethodsRequest(methods).dumps())
    answer = await _read(stream, 2)
    if answer[0] != 5:
        return _NOT_SOCKS
    method = socks5.SOCKS5AuthReply.loads(answer).method
    if method not in methods:
        return "the proxy asks for credentials that it was not given"
    if method == login:
        stream.put(proxy.socks_login())
        if not socks5.SOCKS5UsernamePasswordReply.loads(await _read(stream, 2)).success:
            return "the proxy refuses the credentials"
    # By name, also for ``socks5``: httpx does the same, and sometimes only the proxy reaches a DNS server.
    stream.put(socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (host, port)).dumps())
    head = await _read(stream, 5)
    if head[0] != 5:
        return _NOT_SOCKS
    if head[1]:
        return f"the proxy can't connect: {_reason(head[1])}"
    # Address and port, except for the byte that was read.
    await _read(stream, {1: 4, 3: 1 + head[4], 4: 16}.get(head[3], 1) + 2 - 1)
    return None


def _reason(code: int) -> str:
    from socksio.socks5 import SOCKS5ReplyCode  # noqa: PLC0415 - an extra

    try:
        return SOCKS5ReplyCode(bytes([code])).name.lower().replace("_", " ")
    except ValueError:  # Tor's, for one, has reasons of its own
        return f"reply {code}"


async def _read(stream: Stream, size: int) -> bytes:
    """Send what was put, and read exactly this many bytes."""
    await stream.send(FOREVER)
    data = b""
    while len(data) < size:
        part = await stream.receive(size - len(data), FOREVER)
        if not part:
            raise httpx.ProxyError(_HUNG_UP)
        data += part
    return data
