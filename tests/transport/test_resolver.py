"""resolver: names, several addresses, dead ones among them (F02, F03, F05)."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import httpx
import pytest

from perkamo.runtime.clock import Clock
from perkamo.transport import sockets
from perkamo.transport.connect import Connector
from perkamo.transport.deadlines import Deadlines
from perkamo.transport.resolver import Address, connect_any, find_addresses, in_turn
from perkamo.transport.sockets import PlainSocket
from perkamo.transport.tls import shared_context
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer
from tests.transport.pool import GivenTransport, ask, client_over, echo, lost_places

pytestmark = pytest.mark.anyio


def inet(port: int) -> Address:
    """Return an address on this machine."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ("127.0.0.1", port))


@contextmanager
def black_hole() -> Iterator[int]:
    """Hold a port that answers no connection, as its queue is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def refused() -> int:
    """Return a port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def connector(*found: Address, head_start: float = 0.02) -> Connector:
    """Make a connector to which every name has these addresses."""

    def find(host: str, port: int, flags: int) -> Sequence[Address]:
        del port
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not an address")
        return found

    return Connector(shared_context, find=find, head_start=head_start)


@pytest.mark.parametrize("dead", ["silent", "refusing", "without a route"])
async def test_a_dead_address_does_not_keep_a_live_one_from_answering(dead: str) -> None:
    """Row F03, whichever of the addresses comes first; catches one that uses up the connect timeout."""
    with RawServer(echo) as server, black_hole() as hole:
        live = inet(int(server.base_url.rsplit(":", 1)[1]))
        unroutable: Address = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, ("100::1", 9, 0, 0))
        other = {"silent": inet(hole), "refusing": inet(refused()), "without a route": unroutable}[dead]
        for found in ([other, live], [live, other], [other, other, live]):
            transport = GivenTransport(connector=lambda _, found=found: connector(*found))  # type: ignore[misc]  # mypy can't infer it
            async with client_over(transport) as client:
                assert await ask(client, "http://service.test/", "alive") == "alive"


async def test_only_one_connection_is_kept() -> None:
    """All addresses answer, late; catches a loser of the race that stays open."""
    with RawServer(echo) as server:
        port = int(server.base_url.rsplit(":", 1)[1])
        before = open_sockets()
        stream = await connector(*[inet(port)] * 3, head_start=0).connect((False, "service.test", port))
        assert open_sockets() == before + 1
        stream.close()
        assert open_sockets() == before


async def test_of_two_that_connect_in_the_same_moment_one_is_kept() -> None:
    """Catches a loser that is forgotten because it was there before it could be cancelled."""
    before = open_sockets()
    with RawServer(echo) as server:
        address = inet(int(server.base_url.rsplit(":", 1)[1]))
        both = anyio.Event()

        async def dial(address: Address) -> PlainSocket:
            family, kind, protocol, where = address
            connected = PlainSocket(socket.socket(family, kind, protocol), Deadlines(Clock()), Clock())
            await connected.connect(where)
            made.append(connected)
            if len(made) == 2:
                both.set()
            with anyio.CancelScope(shield=True):
                await both.wait()
            return connected

        made: list[PlainSocket] = []
        kept = await connect_any([address] * 2, dial, 0)
        assert len(made) == 2
        kept.close()

    assert open_sockets() == before


async def test_a_connection_that_won_is_closed_when_the_call_is_cancelled_in_that_moment() -> None:
    """Nobody gets it any more; catches a socket that stays open until it is collected."""
    before = open_sockets()
    with RawServer(echo) as server:
        address = inet(int(server.base_url.rsplit(":", 1)[1]))

        async def dial(address: Address) -> PlainSocket:
            family, kind, protocol, where = address
            connected = PlainSocket(socket.socket(family, kind, protocol), Deadlines(Clock()), Clock())
            await connected.connect(where)
            kept.append(connected)
            scope.cancel()
            return connected

        kept: list[PlainSocket] = []
        with anyio.CancelScope() as scope:
            await connect_any([address] * 2, dial, 10)

    assert scope.cancelled_caught
    assert kept
    assert open_sockets() == before


def open_sockets() -> int:
    """Count the sockets of ours that are open in this process."""
    return sum(one._socket.fileno() >= 0 for one in list(sockets._open))


def test_both_families_are_tried_in_turn() -> None:
    """Catches three dead addresses of one family before the first of the other."""
    found: list[Address] = [
        (family, 1, 6, (name, 1)) for family, name in [(10, "a"), (10, "b"), (10, "c"), (2, "d"), (2, "e")]
    ]

    assert [address[3][0] for address in in_turn(found)] == ["a", "d", "b", "e", "c"]


async def test_when_all_addresses_are_dead_the_error_says_why() -> None:
    """Row F01 with several addresses, and no place is lost; catches a group of exceptions."""
    transport = GivenTransport(max_connections=1, connector=lambda _: connector(inet(refused()), inet(refused())))
    async with client_over(transport) as client:
        with pytest.raises(httpx.ConnectError, match=r"^Connection refused$"):
            await ask(client, "http://service.test/", "a")
        assert lost_places(transport) == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_black_hole_ends_with_the_connect_timeout(count: int) -> None:
    """Row F05; catches a timeout for each address, and sockets that go on connecting."""
    before = open_sockets()
    with black_hole() as hole:
        transport = GivenTransport(connector=lambda _: connector(*[inet(hole)] * count))
        async with httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(20, connect=0.3)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("http://service.test/")

    assert open_sockets() == before


async def test_an_unknown_name_is_a_connect_error() -> None:
    """Row F02; catches a gaierror, or a place that is lost."""

    def fail(host: str, port: int, flags: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    transport = GivenTransport(max_connections=1, connector=lambda _: Connector(shared_context, find=fail))
    async with client_over(transport) as client:
        with pytest.raises(httpx.ConnectError, match="Name or service not known"):
            await client.get("http://nowhere.test/")
        assert lost_places(transport) == 0


async def test_a_name_that_is_none_is_a_connect_error() -> None:
    """A label of more than 63 letters has no form in DNS; catches a UnicodeError from the codec."""
    with pytest.raises(httpx.ConnectError):
        await Transport().handle_async_request(httpx.Request("GET", f"http://{'a' * 64}.test/"))


async def test_a_resolver_that_hangs_holds_one_thread_and_no_call() -> None:
    """Row F02: calls end with the connect timeout, and later ones work; catches a thread for every call."""
    hanging = threading.Event()
    looked_up: list[str] = []

    def hang(host: str, port: int, flags: int) -> Sequence[Address]:
        if flags:
            return find_addresses(host, port, flags)
        looked_up.append(host)
        hanging.wait(30)
        return [inet(port)]

    transport = GivenTransport(connector=lambda _: Connector(shared_context, find=hang))
    with RawServer(echo) as server:
        url = server.base_url.replace("127.0.0.1", "service.test")
        async with httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(20, connect=0.05)) as client:
            for _ in range(5):
                with pytest.raises(httpx.ConnectTimeout):
                    await client.get(url)
            hanging.set()
            assert len(looked_up) == 1
            answered = await ask(client, url, "found")

    assert answered == "found"


async def test_the_local_address_is_where_connections_come_from() -> None:
    """All of 127.0.0.0/8 is this machine; catches an option without effect."""
    came_from: list[str] = []

    def tell(connection: Connection) -> None:
        came_from.append(connection.socket.getpeername()[0])
        echo(connection)

    with RawServer(tell) as server:
        for address in ("127.0.0.1", "127.0.0.2"):
            async with client_over(Transport(local_address=address)) as client:
                await ask(client, server.base_url, "a")

    assert came_from == ["127.0.0.1", "127.0.0.2"]


HANGING = """
import socket, sys, time, anyio, httpx
from perkamo.transport.transport import Transport

genuine = socket.getaddrinfo
def hang(host, *args, **kwargs):
    if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
        return genuine(host, *args, **kwargs)
    time.sleep(60)
socket.getaddrinfo = hang

async def main():
    async with httpx.AsyncClient(transport=Transport(), timeout=0.1) as client:
        try:
            await client.get("http://service.test/")
        except httpx.ConnectTimeout:
            print("timeout", flush=True)

anyio.run(main, backend=sys.argv[1])
"""


def test_a_resolver_that_hangs_does_not_keep_a_program_from_ending(anyio_backend_name: str) -> None:
    """Row F02: the interpreter exits at once; catches a thread that exit waits for."""
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", HANGING, anyio_backend_name], capture_output=True, text=True, timeout=50, check=True
    )

    assert done.stdout == "timeout\n"
    assert time.monotonic() - began < 30


async def test_localhost_is_found() -> None:
    """The real resolver, by name; catches a look-up that only works for addresses."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            assert await ask(client, server.base_url.replace("127.0.0.1", "localhost"), "a") == "a"
