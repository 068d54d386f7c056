"""client: proxies, given and from the environment (rows F06, F07)."""

import sys
import traceback
from collections.abc import Callable

import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    RetryPolicy,
)
from perkamo.sandbox import Sandbox
from tests.canary import PACKAGE
from tests.faults.rawserver import Connection, RawServer, answer, answering
from tests.transport.proxyserver import ProxyServer

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def test_a_given_proxy_carries_the_call() -> None:
    """The request goes to the proxy, for the service; catches an option without effect."""
    with RawServer(answering(answer())) as proxy:
        async with AsyncPerkamoClient(
            "sk_test", base_url="http://perkamo.test", proxy=proxy.base_url, allow_insecure_http=True
        ) as client:
            result = await client.emit("u", "e")

    assert result.accepted
    assert proxy.requests[0].line == "POST http://perkamo.test/v1/events HTTP/1.1"


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
async def test_a_proxy_of_the_environment_carries_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As httpx reads them; catches a transport that looks at no variable."""
    with RawServer(answering(answer())) as proxy:
        monkeypatch.setenv(name, proxy.base_url)
        async with AsyncPerkamoClient("sk_test", base_url="http://perkamo.test", allow_insecure_http=True) as client:
            await client.emit("u", "e")

    assert len(proxy.requests) == 1


async def test_no_proxy_names_hosts_that_are_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY wins; catches a key that goes to a proxy against the operator's will."""
    with RawServer(answering(answer())) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url)
        monkeypatch.setenv("no_proxy", "perkamo.invalid")
        async with AsyncPerkamoClient(
            "sk_test", base_url="http://perkamo.invalid", allow_insecure_http=True, retry=RetryPolicy.none(), timeout=5
        ) as client:
            with pytest.raises(PerkamoConnectionError):
                await client.emit("u", "e")

    assert proxy.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machine_is_never_asked_for_through_a_proxy(
    host: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row F07: HTTP_PROXY is set and the sandbox is reached all the same; catches a developer's lost hour."""
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url.replace("127.0.0.1", host)) as client:
        program = await client.program()

    assert program.meta.status == 200


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"403 Forbidden"])
async def test_a_proxy_that_opens_no_tunnel_is_a_connection_error(status: bytes) -> None:
    """Row F06: typed, nothing was sent, and the proxy's password stays out of the text; catches httpx's own error."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 6\r\n\r\n<html>")

    with RawServer(script) as proxy:
        url = proxy.base_url.replace("http://", "http://user:hunter2@")
        async with AsyncPerkamoClient("sk_test", base_url="https://perkamo.test", proxy=url, retry=QUICK) as client:
            with pytest.raises(PerkamoConnectionError) as caught:
                await client.emit("u", "e")

    assert caught.value.outcome == "not_sent"
    assert "hunter2" not in str(caught.value)
    assert all(request.line.startswith("CONNECT perkamo.test:443") for request in proxy.requests)
    assert all("x-perkamo-api-key" not in request.headers for request in proxy.requests)


async def test_a_proxy_that_is_not_there_is_a_connection_error() -> None:
    """Row F06: three attempts, nothing sent; catches a hang."""
    with RawServer(answering(answer())) as proxy:
        url = proxy.base_url
    async with AsyncPerkamoClient("sk_test", base_url="https://perkamo.test", proxy=url, retry=QUICK) as client:
        with pytest.raises(PerkamoConnectionError) as caught:
            await client.emit("u", "e")

    assert (caught.value.outcome, caught.value.attempts) == ("not_sent", 3)


NO_PROXIES: list[object] = [
    "proxy.test",
    "ftp://user:hunter2@proxy.test",
    "http://user:hunter2@[::1",
    "nonsense",
    "",
    "http://user:hunter2@proxy.test:999999",
    "http://user:hunter2@proxy.test:-1",
    5,
    True,
    b"http://user:hunter2@proxy.test",
    ["http://user:hunter2@proxy.test"],
]


@pytest.mark.parametrize("url", NO_PROXIES, ids=range(len(NO_PROXIES)))
async def test_what_is_no_proxy_is_refused_without_showing_it(url: object) -> None:
    """At construction, typed, and without its password; catches httpx's error in the open, and a port of 999999."""
    with pytest.raises(PerkamoConfigurationError, match="proxy") as caught:
        AsyncPerkamoClient("sk_test", proxy=url)  # type: ignore[arg-type]  # wrong on purpose

    assert "hunter2" not in str(caught.value)


async def test_a_login_that_the_proxy_refuses_is_told_without_it() -> None:
    """Over a real proxy, for https; catches a password in the error, and a key that reaches the proxy."""
    with RawServer(answering(answer())) as server, ProxyServer(login=("user", "right")) as proxy:
        url = proxy.url.replace("://", "://user:hunter2@")
        async with AsyncPerkamoClient(
            "sk_test", base_url=server.base_url.replace("http", "https"), proxy=url, retry=RetryPolicy.none()
        ) as client:
            with pytest.raises(PerkamoConnectionError, match="407") as caught:
                await client.emit("u", "e")

    assert caught.value.outcome == "not_sent"
    assert "hunter2" not in str(caught.value)
    assert server.accepted == 0


@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_that_cannot_be_used_names_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At construction, with the remedy; catches a message that leaves one to search."""
    monkeypatch.setenv(name, "socks5://user:hunter2@proxy.test")
    monkeypatch.setitem(sys.modules, "socksio", None)

    with pytest.raises(
        PerkamoConfigurationError, match=rf"{name} speaks SOCKS5.*pip install 'perkamo\[socks\]'"
    ) as caught:
        AsyncPerkamoClient("sk_test", base_url="https://perkamo.test")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("make", [AsyncPerkamoClient, PerkamoClient], ids=["async", "sync"])
def test_a_wrong_proxy_stands_in_no_frame(make: Callable[..., object]) -> None:
    """Its URL may hold a password, which tools that record frames would send on; catches an argument kept."""
    with pytest.raises(PerkamoConfigurationError) as caught:
        make("sk_test", proxy="ftp://user:hunter2@proxy.test")

    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [frame for frame in shown.stack if frame.filename.startswith(PACKAGE)]
    assert frames
    assert not any("hunter2" in text for frame in frames for text in (frame.locals or {}).values())
