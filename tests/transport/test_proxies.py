"""proxy, tunnel: requests through real proxies (F06)."""

import socket
import ssl
import sys
import traceback
from collections.abc import Callable
from urllib.parse import quote

import anyio
import httpx
import pytest

from perkamo.transport.proxy import Proxy
from perkamo.transport.transport import Transport
from tests.canary import PACKAGE
from tests.faults.rawserver import Connection, RawServer, Script
from tests.processes.script import run
from tests.transport.cancelling import WAYS, Way, cancel_everywhere_at
from tests.transport.pool import ask, assert_sound, client_over, echo, idle_count, lost_places
from tests.transport.proxyserver import ProxyServer
from tests.transport.test_forks import FORKS, WITHOUT_WARNINGS
from tests.transport.tls import client_context, https, secured, server_context, trusting
from tests.waiting import until

pytestmark = pytest.mark.anyio

LOGIN = ("user@shop", "p%40ss:w0rd/\u00fc")
"""With signs that a URL must percent-encode."""

SECRET = "hunter2"


def with_login(url: str, login: tuple[str, str] = LOGIN) -> str:
    """Return a proxy's URL with credentials."""
    return url.replace("://", f"://{quote(login[0], safe='')}:{quote(login[1], safe='')}@")


KINDS: dict[str, Callable[[], ProxyServer]] = {
    "http": ProxyServer,
    "http, login": lambda: ProxyServer(login=LOGIN),
    "https": lambda: ProxyServer(tls=server_context("localhost")),
    "https, login": lambda: ProxyServer(tls=server_context("localhost"), login=LOGIN),
    "http, byte by byte": lambda: ProxyServer(login=LOGIN, pause=0.0005),
    "socks": lambda: ProxyServer("socks"),
    "socks, login": lambda: ProxyServer("socks", login=LOGIN),
    "socks, byte by byte": lambda: ProxyServer("socks", login=LOGIN, pause=0.0005),
}
kinds = pytest.mark.parametrize("kind", KINDS)
secure = pytest.mark.parametrize("tls", [False, True], ids=["plain service", "service over TLS"])


def service(script: Script, *, tls: bool) -> tuple[RawServer, Callable[[RawServer], str]]:
    """Make a server, plain or over TLS, and what tells its address by name."""
    if tls:
        return RawServer(secured(script, "localhost")), https
    return RawServer(script), lambda server: server.base_url.replace("127.0.0.1", "localhost")


@kinds
@secure
async def test_calls_go_through_a_proxy_and_share_a_connection(kind: str, *, tls: bool) -> None:
    """With its login percent-decoded, which no service sees; catches a proxy that is asked for every call."""
    server, address = service(echo, tls=tls)
    with KINDS[kind]() as proxy, server:
        url = address(server)
        transport = trusting(proxy=with_login(proxy.url) if "byte" in kind or "login" in kind else proxy.url)
        async with client_over(transport) as client:
            answers = [await ask(client, f"{url}/path?q=1", text) for text in ("a", "b", "c" * 300_000)]
            assert (idle_count(transport), lost_places(transport)) == (1, 0)

    assert answers == ["a", "b", "c" * 300_000]
    assert server.accepted == 1
    assert [request.line for request in server.requests] == ["POST /path?q=1 HTTP/1.1"] * 3
    assert not any("proxy-authorization" in request.headers for request in server.requests)
    if tls or "socks" in kind:
        assert proxy.asked == [url.partition("://")[2]]
    else:
        assert proxy.asked == [f"POST {url}/path?q=1 HTTP/1.1"] * 3


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_the_proxy_looks_names_up(scheme: str) -> None:
    """As httpx has it, for both; catches a name that only the proxy knows, asked for here."""
    with RawServer(echo) as server, ProxyServer("socks", hosts={"inside.test": "127.0.0.1"}) as proxy:
        transport = Transport(proxy=proxy.url.replace("socks5", scheme))
        async with client_over(transport) as client:
            url = server.base_url.replace("127.0.0.1", "inside.test")
            assert await ask(client, url, "a") == "a"

    assert proxy.asked == [url.partition("://")[2]]


async def test_a_service_is_named_by_its_ipv6_address() -> None:
    """In brackets to an HTTP proxy, packed to SOCKS; catches a colon too many."""
    for kind in ("http", "socks"):
        with ProxyServer(kind, hosts={"::1": "127.0.0.1"}) as proxy, RawServer(secured(echo, "::1")) as server:
            port = server.base_url.rpartition(":")[2]
            async with client_over(trusting(proxy=proxy.url)) as client:
                assert await ask(client, f"https://[::1]:{port}/", "a") == "a"

        assert proxy.asked[0] in {f"[::1]:{port}", f"::1:{port}"}


async def test_headers_and_tls_of_the_proxy_are_those_that_it_was_given() -> None:
    """By ``httpx.Proxy``, and not with the request's own; catches a header that the service gets, or two logins."""
    with ProxyServer(tls=server_context("localhost"), login=LOGIN) as proxy, RawServer(echo) as server:
        given = httpx.Proxy(proxy.url, auth=LOGIN, ssl_context=client_context(), headers={"X-Tenant": "shop"})
        async with client_over(Transport(proxy=given)) as client:
            await ask(client, server.base_url, "a")
        async with client_over(Transport(proxy=given)) as client:
            refused = await client.get(server.base_url, headers={"proxy-authorization": "Basic mine"})

    assert server.requests[0].headers["x-tenant"] == "shop"
    assert refused.status_code == 407


@pytest.mark.parametrize("kind", ["http", "socks"])
async def test_wrong_credentials_are_a_proxy_error_without_them(kind: str) -> None:
    """Row F06; no place is lost, and the password is in no text and in no frame of ours; catches all three."""
    with RawServer(echo) as server, ProxyServer(kind, login=LOGIN) as proxy:  # type: ignore[arg-type]  # mypy widens
        for url in (with_login(proxy.url, ("user", SECRET)), proxy.url):
            transport = trusting(proxy=url, max_connections=1)
            async with client_over(transport) as client:
                for _ in range(2):
                    with pytest.raises(httpx.ProxyError, match=r"407|credentials|SOCKS5") as caught:
                        await client.post(https(server), content=b"a")
                    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
                    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
                    frames = [frame for frame in shown.stack if frame.filename.startswith(PACKAGE)]
                    assert frames
                    assert not any(SECRET in text for frame in frames for text in (frame.locals or {}).values())
                assert lost_places(transport) == 0

        assert proxy.asked == []  # the server's own count would take in whoever still tries its port


def hang_up(connection: Connection) -> None:
    """Read, and end."""
    connection.read_some(65536)


def gibberish(connection: Connection) -> None:
    """Speak neither."""
    connection.read_some(65536)
    connection.send(b"\x00\x01\x02\x03\x04\x05\x06\x07\r\n\r\n")


def talkative(connection: Connection) -> None:
    """Open the tunnel, and send something of its own into it."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    connection.stall()


def cannot(connection: Connection) -> None:
    """Take any login of SOCKS5 and say that the host can't be reached."""
    connection.read_some(65536)
    connection.send(b"\x05\x00")
    connection.read_some(65536)
    connection.send(b"\x05\x04\x00\x01" + bytes(6))


def cannot_as_tor(connection: Connection) -> None:
    """Say that a hidden service can't be reached, by a code that Tor added."""
    connection.read_some(65536)
    connection.send(b"\x05\x00")
    connection.read_some(65536)
    connection.send(b"\x05\xf2\x00\x01" + bytes(6))


@pytest.mark.parametrize(
    ("scheme", "script", "text"),
    [
        ("http", hang_up, "closed the connection"),
        ("http", gibberish, "does not speak HTTP"),
        ("http", talkative, "before the service"),
        ("socks5", hang_up, "closed the connection"),
        ("socks5", gibberish, "does not speak SOCKS5"),
        ("socks5", cannot, "can't connect: host unreachable"),
        ("socks5", cannot_as_tor, "can't connect: reply 242"),
    ],
)
async def test_a_proxy_that_does_not_do_its_work_is_a_proxy_error(scheme: str, script: Script, text: str) -> None:
    """Row F06; catches a request that is sent to whatever is there, and a place that is lost."""
    with RawServer(script) as proxy:
        transport = trusting(proxy=proxy.base_url.replace("http", scheme), max_connections=1)
        async with client_over(transport) as client:
            for _ in range(2):
                with pytest.raises(httpx.ProxyError, match=text):
                    await client.post("https://service.test/", content=b"secret")
                assert lost_places(transport) == 0

    assert not any(b"secret" in request.body for request in proxy.requests)


async def test_a_name_too_long_for_socks_is_a_proxy_error() -> None:
    """It has one byte for the length; catches an OverflowError."""
    with ProxyServer("socks") as proxy:
        async with client_over(Transport(proxy=proxy.url)) as client:
            with pytest.raises(httpx.ProxyError, match="so long a name"):
                await client.get(f"http://{'.'.join(['a' * 60] * 5)}/")


async def test_a_service_behind_a_proxy_must_prove_itself_too() -> None:
    """The proxy may be anybody; catches TLS that ends at the proxy."""
    with ProxyServer() as proxy, RawServer(secured(echo, "other.test")) as server:
        async with client_over(trusting(proxy=proxy.url)) as client:
            with pytest.raises(httpx.ConnectError, match="Hostname mismatch") as caught:
                await ask(client, https(server), "secret")

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert not server.requests


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_hangs_ends_with_the_connect_timeout(scheme: str) -> None:
    """Whatever step it hangs in; catches a timeout that covers TCP alone, and a place that is lost."""

    def silent(connection: Connection) -> None:
        connection.stall()

    with RawServer(silent) as proxy:
        transport = trusting(proxy=proxy.base_url.replace("http", scheme), max_connections=1)
        async with httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(20, connect=0.1)) as client:
            for _ in range(2):
                with pytest.raises(httpx.ConnectTimeout):
                    await client.get("https://service.test/")
                assert lost_places(transport) == 0


async def test_a_proxy_that_is_not_there_is_a_connect_error() -> None:
    """Row F06; catches a hang, and the service asked for in its place."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    async with client_over(Transport(proxy=f"http://127.0.0.1:{port}")) as client:
        with pytest.raises(httpx.ConnectError, match="refused"):
            await client.get("http://service.test/")


THROUGH: dict[str, tuple[Callable[[], ProxyServer], bool]] = {
    "forwarded": (ProxyServer, False),
    "tunnel": (ProxyServer, True),
    "TLS in TLS": (lambda: ProxyServer(tls=server_context("localhost")), True),
    "socks": (lambda: ProxyServer("socks"), False),
}
through = pytest.mark.parametrize("way_through", THROUGH)


@pytest.mark.sample(3)
@through
@pytest.mark.parametrize("situation", ["cold", "warm", "queued"])
@pytest.mark.parametrize(("anyio_backend", "way"), WAYS)
async def test_a_call_through_a_proxy_that_is_cancelled_at_any_point_costs_no_place(
    way: Way, situation: str, way_through: str
) -> None:
    """In every step of the tunnel, too, and nothing stays open at the proxy; catches a socket between two layers."""
    make, tls = THROUGH[way_through]
    server, address = service(echo, tls=tls)
    with make() as proxy, server:
        options = {"proxy": proxy.url, "ssl_context": client_context()}
        points = await cancel_everywhere_at(way, situation, address(server), **options)
        await until(lambda: proxy.open_sockets == 0)

    assert points >= 1


@pytest.mark.sample(2)
@pytest.mark.slow_on_each_backend
@through
async def test_a_crowd_with_short_deadlines_leaves_a_sound_client_behind_a_proxy(way_through: str) -> None:
    """20 workers on 5 connections with deadlines of 0 to 30 ms; httpx's own pool is dead after a few seconds of it."""
    make, tls = THROUGH[way_through]
    server, address = service(echo, tls=tls)
    with make() as proxy, server:
        transport = trusting(proxy=proxy.url, max_connections=5)
        async with client_over(transport) as client:
            end = anyio.current_time() + 1

            async def work(number: int) -> None:
                count = 0
                while anyio.current_time() < end:
                    count += 1
                    with anyio.move_on_after((number * 7 + count * 3) % 31 / 1000):
                        assert await ask(client, address(server), f"{number} {count}") == f"{number} {count}"

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(work, number)
            await assert_sound(transport, client, address(server))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_forked_children_behind_a_proxy_get_their_own_answers(backend: str) -> None:
    """As without one (P14): 0 wrong answers in parent and children, 0 hangs."""
    with RawServer(echo) as server, ProxyServer("socks") as proxy:
        program = FORKS.replace("Transport(max_connections=3)", f"Transport(max_connections=3, proxy={proxy.url!r})")
        ended = run(program, server.base_url, backend, "20", "sound", options=WITHOUT_WARNINGS)

    assert ended.out == "{0: 20} 0 False\n", ended.err


@pytest.mark.parametrize(
    "proxy",
    [
        *("ftp://user:hunter2@proxy.test", "http://user:hunter2@", "http://user:hunter2@x:port", "://", "http://"),
        *("hunter2", "", "http://user:hunter2@[::1", "//user:hunter2@proxy.test"),
    ],
)
def test_a_proxy_that_is_none_is_refused_without_showing_it(proxy: str) -> None:
    """Its URL may hold a password; catches one in the message, in what stands behind it, or in a frame of ours."""
    with pytest.raises(ValueError, match="is not the URL of an HTTP or SOCKS5 proxy") as caught:
        Transport(proxy=proxy)

    assert SECRET not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in shown.stack if frame.filename.startswith(PACKAGE)]
    assert frames
    assert not any(SECRET in text for frame in frames for text in (frame.locals or {}).values())


def test_socks_without_its_package_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the transport is made; catches an ImportError, at the first call or at once."""
    monkeypatch.setitem(sys.modules, "socksio", None)

    with pytest.raises(ValueError, match=r"needs the package socksio: pip install 'perkamo\[socks\]'") as caught:
        Transport(proxy="socks5://user:hunter2@proxy.test")

    assert SECRET not in str(caught.value)


def test_a_proxy_shows_no_credentials() -> None:
    """Neither in its repr nor as an attribute's; catches a log line that holds them."""
    proxy = Proxy(f"http://user:{SECRET}@proxy.test")

    assert repr(proxy) == "<Proxy proxy.test:80>"
