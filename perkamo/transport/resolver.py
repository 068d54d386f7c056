"""From a host's name to a connected socket."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Final, TypeAlias

import anyio

from perkamo.event_loop import InLoop, caller_into_loop
from perkamo.transport.sockets import PlainSocket, Stream, TLSSocket, reason

HEAD_START: Final = 0.25
"""Seconds that an address has before the next one is tried as well, as in RFC 8305."""

Address: TypeAlias = tuple[int, int, int, tuple[str | int | bytes, ...]]
"""Family, kind and protocol of a socket, and where it connects to."""


async def connect(resolver: "Resolver", host: str, port: int, tls: ssl.SSLContext | None) -> Stream:
    """Open a connection to whichever of a host's addresses answers first.

    Args:
        resolver: Looks the host up.
        host: A name or an IP address, in ASCII.
        port: The TCP port.
        tls: The context of a TLS connection, or None for a plain one.

    Raises:
        OSError: It did not work; an ``ssl.SSLError`` when TLS is why.
    """
    plain = await _connect_any(await resolver.look_up(host, port))
    if tls is None:
        return plain
    try:
        secured = TLSSocket(plain, tls, host)
        await secured.handshake()
    except BaseException:
        plain.close()
        raise
    return secured


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its address or by the name that never means another."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Resolver:
    """Looks host names up in daemon threads, which neither a cancelled call nor the interpreter's exit waits for.

    An instance belongs to one event loop. It looks each name up once at a time, so that a resolver that hangs holds one
    thread and not one for every call.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], _LookUp] = {}

    async def look_up(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, in the order in which to try them.

        Raises:
            OSError: There are none.
        """
        with suppress(OSError, UnicodeError):
            return _addresses(host, port, socket.AI_NUMERICHOST)
        key = (host, port)
        looking = self._under_way.get(key)
        if looking is None:
            looking = _LookUp(host, port)
            in_loop = caller_into_loop()
            try:
                threading.Thread(
                    target=looking.run, args=(in_loop, lambda: self._done(key)), name="perkamo-dns", daemon=True
                ).start()
            except RuntimeError as error:  # too many threads, or the interpreter is about to exit
                raise OSError(str(error)) from None
            self._under_way[key] = looking
        await looking.done.wait()
        if looking.problem is not None:
            raise OSError(looking.problem)
        return looking.addresses

    def _done(self, key: tuple[str, int]) -> None:
        self._under_way.pop(key).done.set()


class _LookUp:
    def __init__(self, host: str, port: int) -> None:
        self.done = anyio.Event()
        self.addresses: list[Address] = []
        self.problem: str | None = None
        self._host = host
        self._port = port

    def run(self, in_loop: InLoop, done: Callable[[], None]) -> None:
        try:
            self.addresses = _addresses(self._host, self._port, 0)
        except (OSError, UnicodeError) as error:  # a name with a label of more than 63 letters has no IDNA form
            self.problem = reason(error)
        in_loop(done)


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found: list[Address] = [
        (family, kind, protocol, address)
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICSERV
        )
    ]
    # Both families in turn, so that one that leads nowhere costs one head start.
    favoured = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain.from_iterable(zip_longest(favoured, others)) if one is not None]


async def _connect_any(addresses: list[Address]) -> PlainSocket:
    if len(addresses) == 1:
        return await _connect_one(addresses[0])
    connected: list[PlainSocket] = []
    problems: list[OSError] = []

    async def attempt(address: Address, over: anyio.Event) -> None:
        try:
            connected.append(await _connect_one(address))
            group.cancel_scope.cancel()
        except OSError as error:
            problems.append(error)
        finally:
            over.set()

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                over = anyio.Event()
                group.start_soon(attempt, address, over)
                with anyio.move_on_after(HEAD_START):
                    await over.wait()
    except BaseException:
        for one in connected:
            one.close()
        raise
    for loser in connected[1:]:
        loser.close()
    if not connected:
        raise OSError("; ".join(dict.fromkeys(map(reason, problems))))
    return connected[0]


async def _connect_one(address: Address) -> PlainSocket:
    family, kind, protocol, where = address
    plain = PlainSocket(socket.socket(family, kind, protocol))
    try:
        await plain.connect(where)
    except BaseException:
        plain.close()
        raise
    return plain
