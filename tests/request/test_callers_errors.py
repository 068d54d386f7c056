"""An HTTP client of the caller's own: the errors of its hooks and transports."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoAuthenticationError,
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    RetryPolicy,
)
from perkamo.sandbox import Sandbox
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary, frames
from tests.faults.rawserver import RESULT
from tests.request.hooks import QUICK, with_hook

pytestmark = pytest.mark.anyio


class GatewayError(httpx.ReadError):
    """An own subclass that can't be made from a text."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"gateway {code}: {detail}")
        self.code = code


class SilentError(httpx.TransportError):
    """One whose text can't be read either."""

    def __init__(self, *, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        raise ValueError(self.code)


MISUSE: list[tuple[Exception, type[Exception]]] = [
    (httpx.StreamConsumed(), httpx.StreamError),
    (httpx.ResponseNotRead(), httpx.StreamError),
    (httpx.StreamError(f"no {CANARY_EMAIL}"), httpx.StreamError),
    (httpx.InvalidURL(f"no {CANARY_EMAIL}"), httpx.InvalidURL),
    (GatewayError(7, f"no {CANARY_EMAIL} {CANARY_KEY}"), httpx.ReadError),
    (SilentError(code=7), httpx.TransportError),
    (FileNotFoundError(2, "No such file or directory", CANARY_EMAIL), OSError),
    (ConnectionResetError(104, "reset"), OSError),
    (RuntimeError(f"open {CANARY_EMAIL}"), RuntimeError),
    (ExceptionGroup("several", [ValueError(CANARY_EMAIL)]), Exception),
    (UnicodeDecodeError("utf-8", b"", 0, 1, CANARY_EMAIL), ValueError),
    (ValueError(f"no {CANARY_EMAIL} {CANARY_KEY}"), ValueError),
    (httpx.CookieConflict(f"no {CANARY_EMAIL}"), Exception),
]


@pytest.mark.parametrize("where", ["request", "response", "transport", "body"])
@pytest.mark.parametrize(("raised", "nearest"), MISUSE, ids=[type(one).__name__ for one, _ in MISUSE])
async def test_an_error_of_the_callers_own_code_is_typed_and_not_repeated(
    where: str, raised: Exception, nearest: type[Exception]
) -> None:
    """One attempt, an error of ours that names the class, a cause without secrets; catches a raw error from a hook."""
    calls: list[str] = []

    async def hook(_: object) -> None:
        calls.append("hook")
        raise raised

    def handle(_: httpx.Request) -> httpx.Response:
        calls.append("transport")
        if where == "transport":
            raise raised
        return httpx.Response(200, stream=Broken()) if where == "body" else httpx.Response(200, content=RESULT)

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise raised

    hooks = {where: [hook]} if where in {"request", "response"} else {}
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle), event_hooks=hooks) as http,
        AsyncPerkamoClient(CANARY_KEY, base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError) as caught:
            await client.emit(CANARY_EMAIL, "e", transaction_id="t1")

    error = caught.value
    assert f"the HTTP client raised {type(raised).__name__}" in str(error)
    assert "check its hooks and its transport" in str(error)
    assert (error.attempts, error.retryable, error.outcome) == (1, False, "unknown")
    assert len(calls) == (2 if where == "response" else 1)
    assert isinstance(error.__cause__, nearest)
    assert error.__cause__.__traceback__ is None
    shown = "\n".join(frames(error))
    assert CANARY_KEY not in shown
    assert find_canary(f"{error} {error.__cause__!r} {error.__cause__}") is None


@pytest.mark.parametrize("kind", ["request", "response"])
async def test_a_request_that_a_hook_makes_and_that_fails_is_not_ours(kind: str) -> None:
    """It says nothing about our own; catches three attempts, and "nothing was sent" of an event that was applied."""
    calls: list[str] = []

    async def audit(_: object) -> None:
        calls.append("audit")
        raise httpx.ConnectError("refused", request=httpx.Request("POST", "https://audit.test/"))

    async with (
        httpx.AsyncClient(
            transport=httpx.MockTransport(lambda _: httpx.Response(200, content=RESULT)), event_hooks={kind: [audit]}
        ) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError, match="the HTTP client raised ConnectError") as caught:
            await client.emit("u", "e", transaction_id="t1")

    assert (caught.value.attempts, caught.value.retryable, caught.value.outcome) == (1, False, "unknown")
    assert calls == ["audit"]


async def test_what_a_test_asserts_about_a_request_reaches_the_test() -> None:
    """An AssertionError of a mock is the test's own verdict; catches a test that sees a connection error instead."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/other", "wrong path"
        return httpx.Response(200)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http) as client,
    ):
        with pytest.raises(AssertionError, match="wrong path"):
            await client.emit("u", "e")


async def test_an_error_of_ours_within_a_hook_is_not_wrapped(sandbox: Sandbox) -> None:
    """A hook may call another Perkamo client, whose error says enough; catches an error about an error."""

    async def hook(_: httpx.Request) -> None:
        raise PerkamoAuthenticationError("inner", status=401)

    async with (
        with_hook(hook, "request") as http,
        AsyncPerkamoClient("sk_x", base_url=sandbox.base_url, http_client=http) as client,
    ):
        with pytest.raises(PerkamoAuthenticationError, match="inner"):
            await client.emit("u", "e")


CONNECTING: list[tuple[httpx.RequestError, str, int]] = [
    (httpx.ConnectError("refused"), "not_sent", 3),
    (httpx.ConnectTimeout("slow"), "not_sent", 3),
    (httpx.PoolTimeout("full"), "not_sent", 3),
    (httpx.ProxyError("407 Proxy Authentication Required"), "not_sent", 1),
    (httpx.ProxyError("502 Bad Gateway"), "not_sent", 3),
    (httpx.UnsupportedProtocol("no"), "not_sent", 1),
    (httpx.ReadTimeout("slow"), "unknown", 3),
    (httpx.WriteError("broken"), "unknown", 3),
    (httpx.RemoteProtocolError("garbage"), "unknown", 3),
    (httpx.DecodingError("garbage"), "unknown", 1),
]


@pytest.mark.parametrize(
    ("raised", "outcome", "attempts"), CONNECTING, ids=[type(one[0]).__name__ for one in CONNECTING]
)
async def test_what_a_transport_says_decides_about_the_outcome(
    raised: httpx.RequestError, outcome: str, attempts: int
) -> None:
    """A transport that takes the content, and not the stream, may have sent it; catches an outcome of not_sent then."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.content
        raise raised

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError) as caught:
            await client.emit("u", "e")

    assert (caught.value.outcome, caught.value.attempts) == (outcome, attempts)


@pytest.mark.parametrize("write", [str, lambda url: unquote(str(url))], ids=["as sent", "decoded"])
@pytest.mark.parametrize("user_id", ["alice", "alice smith", "jan.novák@example.com", "a", "á", "a/b", "100%"])
async def test_no_text_shows_the_url_of_a_customer(
    user_id: str, write: Callable[[httpx.URL], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Errors and records name the template, also where the id is percent-encoded; catches ``%C3%A1`` in a text."""
    caplog.set_level(logging.DEBUG)

    def boom(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot reach {write(request.url)}")

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(boom)) as http,
        AsyncPerkamoClient("sk_x", base_url="http://127.0.0.1:9", http_client=http, retry=RetryPolicy.none()) as client,
    ):
        with pytest.raises(PerkamoConnectionError) as caught:
            await client.customer(user_id)

    assert str(caught.value) == (
        "GET /v1/customer/{user_id}: cannot reach http://127.0.0.1:9/v1/customer/{user_id}. Try again later."
    )
    everything = "\n".join(record.getMessage() + repr(record.__dict__) for record in caplog.records)
    assert "/v1/customer/a" not in everything
    assert "n%C3%A1k" not in everything


@pytest.mark.parametrize(
    "wrong", [httpx.Client(trust_env=False), object(), "http://proxy.test", httpx.AsyncHTTPTransport], ids=range(4)
)
@pytest.mark.parametrize("cls", [AsyncPerkamoClient, PerkamoClient])
def test_what_is_not_an_async_client_is_refused_at_once(
    wrong: object, cls: type[AsyncPerkamoClient | PerkamoClient]
) -> None:
    """The natural slip with the sync twin; catches an AttributeError at the first call."""
    name = "httpx.Client" if isinstance(wrong, httpx.Client) else ""
    with pytest.raises(PerkamoConfigurationError, match=rf"http_client must be an httpx\.AsyncClient, .*not {name}"):
        cls("sk_x", http_client=wrong)  # type: ignore[arg-type]  # wrong on purpose


def untrusted(_: httpx.Request) -> httpx.Response:
    """Fail as stock httpx does where a certificate is refused."""
    cause = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)")
    raise httpx.ConnectError(str(cause)) from cause


async def test_a_certificate_that_a_callers_client_refuses_is_final() -> None:
    """One attempt, not retryable, in words; catches the marks of OpenSSL in a text."""
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(untrusted)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError, match=r"refused \(certificate verify failed\)\. Nothing") as caught:
            await client.emit("u", "e")

    assert (caught.value.attempts, caught.value.retryable, caught.value.outcome) == (1, False, "not_sent")
