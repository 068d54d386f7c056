"""An HTTP client of the caller's own: its hooks and transports see the request, and the answer decides."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    Event,
    Outbox,
    PerkamoApiError,
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
from tests.canary import CANARY_KEY
from tests.faults.rawserver import RESULT, RawServer, answer, answering
from tests.request.hooks import QUICK, Hook, with_hook

pytestmark = pytest.mark.anyio


async def raise_for_status(response: httpx.Response) -> None:
    """The hook of httpx's own documentation."""
    response.raise_for_status()


async def read_and_raise(response: httpx.Response) -> None:
    """The same, after the body was read."""
    await response.aread()
    response.raise_for_status()


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
