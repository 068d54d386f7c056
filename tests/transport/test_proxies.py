"""connections: which transport serves a base URL (F06, F07)."""

from collections.abc import Callable

import anyio
import httpx
import pytest

from perkamo.transport.transport import Transport, transport_for
from tests.faults.rawserver import Connection, RawServer, answer
from tests.transport.pool import client_over, echo

pytestmark = pytest.mark.anyio

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
Env = Callable[..., None]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Env:
    """Set the environment's proxies; all others are off."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def is_direct(url: str) -> bool:
    """Tell whether our own transport serves this URL."""
    return isinstance(transport_for(url), Transport)


def test_without_a_proxy_our_own_transport_serves(env: Env) -> None:
    """Catches httpx's own pool where nobody asked for a proxy."""
    assert is_direct("https://api.test")


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://proxy.test:3128", "proxy.test:3128"])
def test_the_environment_asks_for_a_proxy(variable: str, value: str, env: Env) -> None:
    """As httpx reads it, also without a scheme; catches a variable that is not looked at."""
    env(**{variable: value})

    assert not is_direct("https://api.test")


def test_a_proxy_for_another_scheme_is_none(env: Env) -> None:
    """Catches HTTP_PROXY used for https."""
    env(http_proxy="http://proxy.test:3128")

    assert is_direct("https://api.test")
    assert not is_direct("http://api.test")


@pytest.mark.parametrize("hosts", ["api.test", "other.test, api.test", ".test", "test", "*"])
def test_no_proxy_is_heeded(hosts: str, env: Env) -> None:
    """Names and suffixes; catches an internal service that is asked for through the proxy."""
    env(ALL_PROXY="http://proxy.test:3128", NO_PROXY=hosts)

    assert is_direct("https://api.test")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "[::1]"])
def test_this_machine_is_never_asked_for_through_the_environments_proxy(host: str, env: Env) -> None:
    """Row F07, which httpx gets wrong; catches a sandbox that is looked for at the proxy."""
    env(HTTP_PROXY="http://proxy.test:3128", ALL_PROXY="http://proxy.test:3128")

    assert is_direct(f"http://{host}:4001")


@pytest.mark.parametrize(
    "proxy", ["ftp://proxy.test", "http://user:hunter2@", "http://user:hunter2@x:port", "://", "http://"]
)
def test_a_proxy_that_is_none_is_refused_without_showing_it(proxy: str, env: Env) -> None:
    """Its URL may hold a password; catches one in the message or in what stands behind it."""
    with pytest.raises(ValueError, match="is not the URL of an HTTP proxy") as caught:
        transport_for("https://api.test", proxy)

    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_a_request_goes_through_the_proxy(env: Env) -> None:
    """In absolute form, with the proxy's own credentials; catches a proxy that is chosen and not used."""
    with RawServer(echo) as proxy:
        url = proxy.base_url.replace("http://", "http://user:hunter2@")
        async with client_over(transport_for("http://api.test", url)) as client:
            response = await client.post("http://api.test/x", content=b"through")

    assert response.text == "through"
    assert proxy.requests[0].line == "POST http://api.test/x HTTP/1.1"
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")


async def test_a_proxy_that_refuses_https_is_an_error(env: Env) -> None:
    """Row F06: 407 to CONNECT; catches the proxy's answer taken for the service's."""

    def refuse(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer(b"who are you", "407 Proxy Authentication Required"))

    with RawServer(refuse) as proxy:
        async with client_over(transport_for("https://api.test", proxy.base_url)) as client:
            with pytest.raises(httpx.ProxyError, match="407"):
                await client.get("https://api.test/x")


async def test_a_direct_client_ignores_a_proxy_that_appears_later(env: Env) -> None:
    """The choice is made once; catches a look at the environment in every call."""
    with RawServer(echo) as server:
        transport = transport_for(server.base_url)
        env(ALL_PROXY="http://127.0.0.1:1")
        async with client_over(transport) as client, anyio.create_task_group():
            assert (await client.post(server.base_url, content=b"direct")).text == "direct"
