"""From a host's name to a connected socket."""

import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Final, TypeAlias

import anyio

from perkamo.runtime.event_loop import InLoop, caller_into_loop
from perkamo.transport.sockets import PlainSocket, reason

HEAD_START: Final = 0.25
"""Seconds after which the next address is tried as well, as in RFC 8305."""

Address: TypeAlias = tuple[int, int, int, tuple[str | int | bytes, ...]]
"""Family, kind and protocol of a socket, and the address that it connects to."""

Find: TypeAlias = Callable[[str, int, int], Sequence[Address]]
"""Finds the addresses of a host and a port, with the flags of ``getaddrinfo``; raises OSError if there are none."""

Dial: TypeAlias = Callable[[Address], Awaitable[PlainSocket]]
"""Connects to one address; raises OSError if that fails."""


def find_addresses(host: str, port: int, flags: int) -> Sequence[Address]:
    """Ask the system for the addresses of a host, in its order.

    Raises:
        OSError: There are none.
        UnicodeError: The name cannot be written in DNS.
    """
    return [
        (family, kind, protocol, address)
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=flags | socket.AI_NUMERICSERV
        )
    ]


class Resolver:
    """Looks up host names in daemon threads: neither a cancelled call nor the interpreter's exit waits for them.

    An instance belongs to one event loop. It has at most one lookup of a name at a time, so that a system resolver that
    hangs blocks one thread, and not one for each call.

    Args:
        find: Finds the addresses.
    """

    def __init__(self, find: Find = find_addresses) -> None:
        self._find = find
        self._under_way: dict[tuple[str, int], _LookUp] = {}

    async def look_up(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, in the order in which to try them.

        Raises:
            OSError: There are none.
        """
        with suppress(OSError, UnicodeError):
            return in_turn(self._find(host, port, socket.AI_NUMERICHOST))
        key = (host, port)
        looking = self._under_way.get(key)
        if looking is None:
            looking = _LookUp()
            in_loop = caller_into_loop()
            try:
                threading.Thread(
                    target=looking.run,
                    args=(lambda: self._find(host, port, 0), in_loop, lambda: self._done(key)),
                    name="perkamo-dns",
                    daemon=True,
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
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.addresses: list[Address] = []
        self.problem: str | None = None

    def run(self, find: Callable[[], Sequence[Address]], in_loop: InLoop, done: Callable[[], None]) -> None:
        try:
            self.addresses = in_turn(find())
        except (OSError, UnicodeError) as error:  # a name with a label of more than 63 letters has no IDNA form
            self.problem = reason(error)
        in_loop(done)


def in_turn(found: Sequence[Address]) -> list[Address]:
    """Alternate the addresses of both families, so that a family without a route costs one head start only."""
    favoured = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain.from_iterable(zip_longest(favoured, others)) if one is not None]


async def connect_any(addresses: Sequence[Address], dial: Dial, head_start: float) -> PlainSocket:
    """Connect to the address that answers first; after so many seconds without an answer, try the next one as well.

    Raises:
        OSError: No address answers.
    """
    if len(addresses) == 1:
        return await dial(addresses[0])
    connected: list[PlainSocket] = []
    problems: list[OSError] = []

    async def attempt(address: Address, over: anyio.Event) -> None:
        try:
            connected.append(await dial(address))
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
                with anyio.move_on_after(head_start):
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


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: a loopback address, or ``localhost``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
