"""client: over an HTTP client of the caller's, with its hooks, its transports, and what they raise."""

import gzip
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    Event,
    Outbox,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoNotFoundError,
    PerkamoRateLimitError,
    PerkamoResponseError,
    PerkamoStreamError,
    PerkamoTimeoutError,
    RetryPolicy,
)
from perkamo.sandbox import Sandbox, Status
from perkamo.transport.transport import Transport
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary, frames
from tests.faults.rawserver import RESULT, RawServer, answer, answering

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)
Hook = Callable[..., Awaitable[None]]


async def raise_for_status(response: httpx.Response) -> None:
    """The hook of httpx's own documentation."""
    response.raise_for_status()


async def read_and_raise(response: httpx.Response) -> None:
    """The same, after the body was read."""
    await response.aread()
    response.raise_for_status()


def with_hook(hook: Hook, kind: str = "response") -> httpx.AsyncClient:
    """Make a client with one hook."""
    return httpx.AsyncClient(trust_env=False, event_hooks={kind: [hook]})


def says(body: bytes, status: str, *headers: str) -> RawServer:
    """Make a server that answers every request alike."""
    return RawServer(answering(answer(body, status, headers)))


@pytest.mark.parametrize(("hook", "body"), [(raise_for_status, None), (read_and_raise, {"message": "No such thing"})])
async def test_a_hook_that_raises_for_a_status_changes_nothing_of_a_refusal(hook: Hook, body: object) -> None:
    """The error is that of the answer, in one attempt; catches a 404 that counts as a broken connection."""
    with says(b'{"message":"No such thing"}', "404 No", "x-request-id: req_7") as server:
        async with (
            with_hook(hook) as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http, retry=QUICK) as client,
        ):
            with pytest.raises(PerkamoNotFoundError) as caught:
                await client.emit("u", "e")
        assert len(server.requests) == 1

    error = caught.value
    assert (error.status, error.body, error.request_id) == (404, body, "req_7")
    assert (error.attempts, error.outcome, error.retryable) == (1, "rejected", False)
    assert error.__cause__ is error.__context__ is None


async def test_retry_after_counts_behind_such_a_hook() -> None:
    """The wait that the service asks for is handed to the caller; catches headers that are thrown away."""
    with says(b"{}", "429 Slow", "retry-after: 100") as server:
        async with (
            with_hook(raise_for_status) as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http) as client,
        ):
            with pytest.raises(PerkamoRateLimitError) as caught:
                await client.emit("u", "e")

    assert (caught.value.retry_after_seconds, caught.value.attempts) == (100.0, 1)


async def test_a_wrong_clock_is_put_right_behind_such_a_hook(sandbox: Sandbox) -> None:
    """A 401 with another Date is signed again; catches a correction that needs httpx's own answer."""
    sandbox.clock.advance(600)
    async with (
        with_hook(raise_for_status) as http,
        AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http) as client,
    ):
        result = await client.emit("u", "purchase.completed", {"amount": 100})

    assert result.meta.attempts == 2


@pytest.mark.parametrize("read", [True, False])
async def test_an_applied_event_does_not_read_as_failed_because_of_a_hook(read: bool) -> None:
    """A hook that raises at a 200 hides its body at most; catches a connection error, and a second request."""

    async def refuse(response: httpx.Response) -> None:
        if read:
            await response.aread()
        raise httpx.HTTPStatusError("no", request=response.request, response=response)

    with says(RESULT, "200 OK") as server:
        async with (
            with_hook(refuse) as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http, retry=QUICK) as client,
        ):
            if read:
                assert (await client.emit("u", "e")).accepted
            else:
                with pytest.raises(PerkamoResponseError, match="200, but the body was not read, because a hook") as got:
                    await client.emit("u", "e")
                assert got.value.outcome == "unknown"
        assert len(server.requests) == 1


async def test_a_hook_may_read_the_answer() -> None:
    """To log it, say; catches an answer that is looked for again where it was read already."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    with says(gzip.compress(RESULT), "200 OK", "content-encoding: gzip") as server:
        async with (
            with_hook(read) as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http) as client,
        ):
            assert (await client.emit("u", "e")).accepted


async def test_the_answer_to_a_request_of_the_hook_is_not_taken_for_ours() -> None:
    """A hook that asks somebody else for a token and fails is the caller's error; catches a foreign 404 as ours."""

    async def ask_elsewhere(_: httpx.Request) -> None:
        request = httpx.Request("GET", "https://tokens.test/")
        httpx.Response(404, request=request).raise_for_status()

    with says(RESULT, "200 OK") as server:
        async with (
            with_hook(ask_elsewhere, "request") as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http, retry=QUICK) as client,
        ):
            with pytest.raises(PerkamoConnectionError, match="the HTTP client raised HTTPStatusError") as caught:
                await client.emit("u", "e")
        assert server.requests == []

    assert not isinstance(caught.value, PerkamoApiError)
    assert (caught.value.attempts, caught.value.retryable) == (1, False)


@pytest.mark.parametrize(
    ("status", "token", "error", "requests"),
    [("401 No", "fixed", PerkamoStreamError, 1), ("401 No", "renewed", PerkamoStreamError, 2)],
)
async def test_a_stream_is_judged_by_its_answer_too(
    status: str, token: str, error: type[PerkamoError], requests: int
) -> None:
    """A 401 asks for one fresh token and no more; catches a stream that connects again and again with a bad one."""
    with says(b"{}", status) as server:
        async with (
            with_hook(raise_for_status) as http,
            AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http) as client,
        ):
            stream = client.subscribe_customer("alice", "jwt" if token == "fixed" else (lambda: "jwt"))
            with pytest.raises(error, match="401, the stream token was refused"):
                await stream.receive()
        assert len(server.requests) == requests


async def test_a_refused_event_becomes_a_dead_letter_behind_such_a_hook(tmp_path: Path, sandbox: Sandbox) -> None:
    """An outbox tells a poisonous event from a broken connection; catches an outbox that never gets past it."""
    sandbox.faults.next("POST /v1/events:batch", Status(422, body='{"message":"No"}'))
    async with (
        with_hook(read_and_raise) as http,
        AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http) as client,
        Outbox(tmp_path / "outbox") as outbox,
    ):
        await outbox.put(Event("u", "e", "t1"))
        with anyio.fail_after(30):
            await outbox.drain(client)
        dead = [letter.transaction_id async for letter in outbox.dead()]

    assert dead == ["t1"]


CONTENT_HOOKS: list[Callable[[httpx.Request], Any]] = [
    lambda request: request.content,
    lambda request: request.read(),
    lambda request: b"".join(cast("httpx.SyncByteStream", request.stream)),
]


@pytest.mark.parametrize("look", CONTENT_HOOKS, ids=["content", "read", "stream"])
async def test_a_hook_finds_the_content(look: Callable[[httpx.Request], bytes], sandbox: Sandbox) -> None:
    """As in every request that httpx itself makes, and it is sent all the same; catches RequestNotRead."""
    seen: list[bytes] = []

    async def hook(request: httpx.Request) -> None:
        seen.append(look(request))
        assert await request.aread() == seen[-1]

    async with (
        with_hook(hook, "request") as http,
        AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http) as client,
    ):
        assert (await client.emit("u", "purchase.completed", {"amount": 100}, transaction_id="t1")).accepted
        await client.customer("u")

    assert json.loads(seen[0])["transaction_id"] == "t1"
    assert seen[1] == b""


class SendsTwice(httpx.AsyncBaseTransport):
    """A transport of the caller's that reads the content, and sends each request twice, as one with retries would."""

    def __init__(self) -> None:
        self.inner = httpx.AsyncHTTPTransport(trust_env=False)
        self.contents: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send and send again."""
        self.contents.append(request.content)
        first = await self.inner.handle_async_request(request)
        await first.aread()
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close what sends."""
        await self.inner.aclose()


async def test_a_transport_may_read_the_content_and_send_it_again(sandbox: Sandbox) -> None:
    """The body can be sent any number of times; catches a second request without a body."""
    transport = SendsTwice()
    async with (
        httpx.AsyncClient(transport=transport) as http,
        AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http) as client,
    ):
        result = await client.emit("u", "purchase.completed", {"amount": 100}, transaction_id="t1")

    assert result.duplicate
    assert json.loads(transport.contents[0])["transaction_id"] == "t1"


async def test_a_tool_that_never_answers_does_not_hold_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one in the place of httpx's ``send`` under our own client; catches a bound that only the transport keeps."""

    async def send(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    policy = RetryPolicy(attempts=1, attempt_timeout=0.2)
    async with AsyncPerkamoClient(CANARY_KEY, base_url="http://127.0.0.1:9", retry=policy) as client:
        monkeypatch.setattr(httpx.AsyncClient, "send", send)
        with anyio.fail_after(15), pytest.raises(PerkamoTimeoutError):
            await client.customer("u")


class Unmasking(httpx.AsyncBaseTransport):
    """A transport around ours that gives an answer another body."""

    def __init__(self) -> None:
        self._below = Transport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, and change what comes in place."""
        response = await self._below.handle_async_request(request)
        masked = b"".join([part async for part in cast("httpx.AsyncByteStream", response.stream)])
        response.stream = httpx.ByteStream(masked.swapcase())
        return response

    async def aclose(self) -> None:
        """Close what is below."""
        await self._below.aclose()


async def test_a_transport_around_ours_may_change_the_body() -> None:
    """What it gives is read; catches the short way to the body that came along with the head."""
    with says(RESULT.swapcase(), "200 OK") as server:
        async with (
            httpx.AsyncClient(transport=Unmasking()) as http_client,
            AsyncPerkamoClient(CANARY_KEY, base_url=server.base_url, http_client=http_client) as client,
        ):
            assert (await client.emit("u", "e", transaction_id="t")).applied


async def test_hooks_and_transports_see_the_path_that_is_sent() -> None:
    """The template is for tools that look at ``send``; catches a caller's own transport that gets no id."""
    seen: list[str] = []

    class Client(httpx.AsyncClient):
        async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
            seen.append(str(request.url))
            request.url = request.url.copy_with(host="gateway.test", path=f"/gw{request.url.path}")
            return await super().send(request, **options)

    async def hook(request: httpx.Request) -> None:
        seen.append(str(request.url))

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"user_id": "alice smith"})

    async with (
        Client(transport=httpx.MockTransport(handle), event_hooks={"request": [hook]}) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test/pfx", http_client=http) as client,
    ):
        await client.customer("alice smith")

    sent = "https://gateway.test/gw/pfx/v1/customer/alice%20smith"
    assert seen == ["https://api.test/pfx/v1/customer/%7Buser_id%7D", sent, sent]


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
