"""client: test tools that stand above the transport, or below it, and telemetry over a client of the caller's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import respx
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport, HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perkamo import AsyncPerkamoClient, PerkamoStreamError, RetryPolicy, Transport
from tests.faults.rawserver import RawServer, answer, answering

pytestmark = pytest.mark.anyio

USER = "jan novák"
SENT = "/v1/customer/jan%20nov%C3%A1k"
CUSTOMER = answer(b'{"user_id": "jan"}')


@pytest.fixture
async def own() -> AsyncIterator[AsyncPerkamoClient]:
    """A client with an HTTP client of our own."""
    async with AsyncPerkamoClient("sk_x", base_url="https://api.test", retry=RetryPolicy.none()) as client:
        yield client


async def test_a_tool_that_chooses_the_transport_answers_by_the_path_that_is_sent(own: AsyncPerkamoClient) -> None:
    """As respx does when it is told to, and pook; catches a tool that is shown the template."""
    with respx.mock(using="httpx") as router:
        route = router.get(f"https://api.test{SENT}").respond(json={"user_id": "mocked"})

        customer = await own.customer(USER)

    assert (customer.user_id, route.call_count) == ("mocked", 1)


async def test_such_a_tool_sees_a_streams_path_too(own: AsyncPerkamoClient) -> None:
    """Catches a stream that shows it the template."""
    with respx.mock(using="httpx") as router:
        route = router.get(f"https://api.test{SENT.replace('/v1/', '/v1/client/')}/stream").respond(404)

        with pytest.raises(PerkamoStreamError):
            async with own.subscribe_customer(USER, "token") as stream:
                await anext(stream)

    assert route.call_count == 1


async def test_a_class_in_the_place_of_httpx_client_sees_the_path_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool's class may have a transport that knows of no template; catches one that sends the template."""
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, json={"user_id": "mocked"})

    class Tool(httpx.AsyncClient):
        def __init__(self, **_: object) -> None:
            super().__init__(transport=httpx.MockTransport(handle))

    monkeypatch.setattr(httpx, "AsyncClient", Tool)
    async with AsyncPerkamoClient("sk_x", base_url="https://api.test") as client:
        await client.customer(USER)

    assert seen == [SENT]


async def test_a_guard_of_the_network_holds_our_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-socket replaces ``socket.connect``; catches a request that leaves although no test may use the network."""

    class BlockedError(RuntimeError):
        """What the guard raises."""

    def guard(*_: object) -> None:
        raise BlockedError

    monkeypatch.setattr(socket.socket, "connect", guard)
    with RawServer(answering(CUSTOMER)) as server:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url) as client:
            with pytest.raises(BlockedError):
                await client.customer(USER)

        assert server.accepted == 0
    monkeypatch.undo()


@pytest.fixture
def spans() -> Iterator[tuple[InMemorySpanExporter, TracerProvider]]:
    """What OpenTelemetry records."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter, provider
    provider.shutdown()


def everywhere(provider: TracerProvider) -> httpx.AsyncClient:
    """Instrument all clients."""
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    return httpx.AsyncClient()


def over_ours(provider: TracerProvider) -> httpx.AsyncClient:
    """Instrument all clients; this one sends by our transport."""
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    return httpx.AsyncClient(transport=Transport())


def one_client(provider: TracerProvider) -> httpx.AsyncClient:
    """Instrument one client alone."""
    client = httpx.AsyncClient(transport=Transport())
    HTTPXClientInstrumentor().instrument_client(client, tracer_provider=provider)
    return client


def by_hand(provider: TracerProvider) -> httpx.AsyncClient:
    """Put OpenTelemetry's transport around one of ours."""
    return httpx.AsyncClient(transport=AsyncOpenTelemetryTransport(Transport(), tracer_provider=provider))


@pytest.mark.parametrize("instrumented", [everywhere, over_ours, one_client, by_hand])
async def test_spans_of_a_callers_client_have_the_template(
    instrumented: Callable[[TracerProvider], httpx.AsyncClient],
    spans: tuple[InMemorySpanExporter, TracerProvider],
) -> None:
    """Also a stream's; catches a customer's id in ``http.url``, and a request that is sent to the template."""
    exporter, provider = spans
    try:
        with RawServer(answering(CUSTOMER)) as server:
            async with (
                instrumented(provider) as http,
                AsyncPerkamoClient("sk_x", base_url=server.base_url, http_client=http) as client,
            ):
                await client.customer(USER)
                with pytest.raises(PerkamoStreamError):
                    async with client.subscribe_customer(USER, "token") as stream:
                        await anext(stream)
    finally:
        HTTPXClientInstrumentor().uninstrument()

    paths = [request.line.split(" ")[1] for request in server.requests]
    assert paths == [SENT, f"{SENT.replace('/v1/', '/v1/client/')}/stream"]
    urls = [str((span.attributes or {}).get("http.url")) for span in exporter.get_finished_spans()]
    assert urls == [
        f"{server.base_url}/v1/customer/%7Buser_id%7D",
        f"{server.base_url}/v1/client/customer/%7Buser_id%7D/stream",
    ]


class _Timer:
    """A timer that nothing can refer to weakly, as rloop's."""

    __slots__ = ("_timer",)

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self._timer = timer

    def cancel(self) -> None:
        self._timer.cancel()


class _Loop(asyncio.SelectorEventLoop):
    def call_later(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]  # whatever it is
        return _Timer(super().call_later(*args, **options))


def test_an_event_loop_with_timers_of_its_own_will_do() -> None:
    """Catches a call that wants to refer to the loop's timers weakly, which not every loop's allow (rloop)."""

    async def main() -> str | None:
        async with AsyncPerkamoClient("sk_x", base_url=server.base_url) as client:
            return (await client.customer(USER)).user_id

    with RawServer(answering(CUSTOMER)) as server, asyncio.Runner(loop_factory=_Loop) as runner:
        assert runner.run(main()) == "jan"
