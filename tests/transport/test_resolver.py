"""addresses: names, several addresses, dead ones among them (F02, F03, F05)."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from perkamo.transport import resolver as addresses
from perkamo.transport import sockets
from perkamo.transport.pool import Connections
from perkamo.transport.resolver import Address, Resolver, connect
from tests.faults.rawserver import RawServer
from tests.transport.pool import ask, client_over, echo, lost_places

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


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "HEAD_START", 0.02)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("dead", ["silent", "refusing", "without a route"])
async def test_a_dead_address_does_not_keep_a_live_one_from_answering(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row F03, whichever of the addresses comes first; catches one that uses up the connect timeout."""
    with RawServer(echo) as server, black_hole() as hole:
        live = inet(int(server.base_url.rsplit(":", 1)[1]))
        unroutable: Address = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, ("100::1", 9, 0, 0))
        other = {"silent": inet(hole), "refusing": inet(refused()), "without a route": unroutable}[dead]
        for found in ([other, live], [live, other], [other, other, live]):
            monkeypatch.setattr(addresses, "_addresses", lambda *_, found=found: found)
            async with client_over(Connections()) as client:
                assert await ask(client, "http://service.test/", "alive") == "alive"


@pytest.mark.usefixtures("_quick")
async def test_only_one_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses answer, late; catches a loser of the race that stays open."""
    with RawServer(echo) as server:
        port = int(server.base_url.rsplit(":", 1)[1])
        monkeypatch.setattr(addresses, "_addresses", lambda *_: [inet(port)] * 3)
        monkeypatch.setattr(addresses, "HEAD_START", 0)
        before = _open_sockets()
        stream = await connect(Resolver(), "service.test", port, None)
        assert _open_sockets() == before + 1
        stream.close()
        assert _open_sockets() == before


def _open_sockets() -> int:
    return sum(one._socket.fileno() >= 0 for one in list(sockets._open))


def test_both_families_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches three dead addresses of one family before the first of the other."""
    found = [(family, 1, 6, "", (name, 1)) for family, name in [(10, "a"), (10, "b"), (10, "c"), (2, "d"), (2, "e")]]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    order = [address[3][0] for address in addresses._addresses("service.test", 1, 0)]

    assert order == ["a", "d", "b", "e", "c"]


@pytest.mark.usefixtures("_quick")
async def test_when_all_addresses_are_dead_the_error_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row F01 with several addresses, and no place is lost; catches a group of exceptions."""
    transport = Connections(max_connections=1)
    monkeypatch.setattr(addresses, "_addresses", lambda *_: [inet(refused()), inet(refused())])
    async with client_over(transport) as client:
        with pytest.raises(httpx.ConnectError, match=r"^Connection refused$"):
            await ask(client, "http://service.test/", "a")
        assert lost_places(transport) == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_a_black_hole_ends_with_the_connect_timeout(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row F05; catches a timeout for each address, and sockets that go on connecting."""
    before = _open_sockets()
    with black_hole() as hole:
        monkeypatch.setattr(addresses, "_addresses", lambda *_: [inet(hole)] * count)
        async with httpx.AsyncClient(transport=Connections(), timeout=httpx.Timeout(20, connect=0.3)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("http://service.test/")

    assert _open_sockets() == before


async def test_an_unknown_name_is_a_connect_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row F02; catches a gaierror, a UnicodeError, or a place that is lost."""

    def fail(*args: object, **kwargs: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    transport = Connections(max_connections=1)
    async with client_over(transport) as client:
        with pytest.raises(httpx.ConnectError, match="Name or service not known"):
            await client.get("http://nowhere.test/")
        assert lost_places(transport) == 0


async def test_a_name_that_is_none_is_a_connect_error() -> None:
    """A label of more than 63 letters has no form in DNS; catches a UnicodeError from the codec."""
    with pytest.raises(httpx.ConnectError):
        await Connections().handle_async_request(httpx.Request("GET", f"http://{'a' * 64}.test/"))


async def test_a_resolver_that_hangs_holds_one_thread_and_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row F02: calls end with the connect timeout, and later ones work; catches a thread for every call."""
    hanging = threading.Event()
    looked_up: list[str] = []
    original = addresses._addresses

    def hang(host: str, port: int, flags: int) -> list[Address]:
        if flags:
            return original(host, port, flags)
        looked_up.append(host)
        hanging.wait(30)
        return [inet(port)]

    monkeypatch.setattr(addresses, "_addresses", hang)
    with RawServer(echo) as server:
        url = server.base_url.replace("127.0.0.1", "service.test")
        async with httpx.AsyncClient(transport=Connections(), timeout=httpx.Timeout(20, connect=0.05)) as client:
            for _ in range(5):
                with pytest.raises(httpx.ConnectTimeout):
                    await client.get(url)
            hanging.set()
            assert len(looked_up) == 1
            answered = await ask(client, url, "found")

    assert answered == "found"


HANGING = """
import socket, sys, time, anyio, httpx
from perkamo.transport.pool import Connections

genuine = socket.getaddrinfo
def hang(host, *args, **kwargs):
    if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
        return genuine(host, *args, **kwargs)
    time.sleep(60)
socket.getaddrinfo = hang

async def main():
    async with httpx.AsyncClient(transport=Connections(), timeout=0.1) as client:
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
        async with client_over(Connections()) as client:
            assert await ask(client, server.base_url.replace("127.0.0.1", "localhost"), "a") == "a"
