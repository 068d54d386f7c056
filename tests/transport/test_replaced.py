"""replaced: test tools and telemetry see what our own pool sends, and nothing leaves past them."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpcore
import httpx
import pytest
import respx
import vcr  # type: ignore[import-untyped]  # it has no types
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_httpx import HTTPXMock
from vcr.errors import CannotOverwriteExistingCassetteException  # type: ignore[import-untyped]

from perkamo.transport.replaced import tool_in_place
from perkamo.transport.transport import Transport
from tests.faults.rawserver import RawServer, answer, answering
from tests.transport.pool import ask, client_over, echo, idle_count

pytestmark = pytest.mark.anyio

HANDLE = "handle_async_request"
TEMPLATE = "/v1/customer/%7Buser_id%7D"


def test_nothing_is_replaced_at_first() -> None:
    """Catches a look that takes httpx's own code for a tool's, and sends everything by the slow way."""
    assert tool_in_place() is None


async def get_customer(client: httpx.AsyncClient, url: str) -> httpx.Response:
    """Ask for one customer by a URL that shows the template only."""
    return await client.get(f"{url}/v1/customer/{{user_id}}", extensions={"target": b"/v1/customer/alice"})


async def test_the_target_is_what_is_sent() -> None:
    """The URL may be a template; catches a request for the template itself."""
    with RawServer(answering(answer(b"{}"))) as server:
        async with client_over(Transport()) as client:
            response = await get_customer(client, server.base_url)

    assert server.requests[0].line == "GET /v1/customer/alice HTTP/1.1"
    assert response.request.url.raw_path.decode() == TEMPLATE


async def test_respx_answers_and_nothing_leaves() -> None:
    """It replaces httpcore's classes; it matches by the URL that would be sent."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            with respx.mock as router:
                router.get(f"{server.base_url}/v1/customer/alice").respond(json={"mocked": True})
                response = await get_customer(client, server.base_url)
                assert tool_in_place() == "below"
            assert server.accepted == 0
            real = await ask(client, server.base_url, "real")

    assert response.json() == {"mocked": True}
    assert real == "real"
    assert tool_in_place() is None


async def test_pytest_httpx_answers_and_nothing_leaves(httpx_mock: HTTPXMock) -> None:
    """pytest-httpx replaces httpx's transport; it matches by URL and body, and shows both."""
    with RawServer(echo) as server:
        url = f"{server.base_url}/v1/customer/alice"
        httpx_mock.add_response(url=url, json={"mocked": True})
        httpx_mock.add_response(url=f"{server.base_url}/v1/events", match_json={"a": 1}, json={"mocked": 2})
        async with client_over(Transport()) as client:
            response = await get_customer(client, server.base_url)
            posted = await client.post(f"{server.base_url}/v1/events", json={"a": 1})
        assert server.accepted == 0

    assert (response.json(), posted.json()) == ({"mocked": True}, {"mocked": 2})
    assert str(httpx_mock.get_requests()[0].url) == url
    assert tool_in_place() == "transport"


@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host != "127.0.0.1")
async def test_what_pytest_httpx_lets_through_goes_over_our_pool(httpx_mock: HTTPXMock) -> None:
    """A host that is not mocked is reached by our own connections; catches a second pool in the tests of users."""
    with RawServer(echo) as server:
        transport = Transport()
        async with client_over(transport) as client:
            assert [await ask(client, server.base_url, text) for text in "ab"] == ["a", "b"]
            assert (server.accepted, idle_count(transport)) == (1, 1)


async def test_vcrpy_records_and_plays_back(tmp_path: Path) -> None:
    """A cassette holds request and answer, and replaces the service afterwards; catches a cassette that stays empty."""
    cassette = tmp_path / "cassette.yaml"
    with RawServer(answering(answer(b'{"points":1}'))) as server:
        for _ in range(2):
            with vcr.use_cassette(str(cassette)):
                async with client_over(Transport()) as client:
                    response = await get_customer(client, server.base_url)
                    assert response.json() == {"points": 1}
        assert len(server.requests) == 1

    assert f"uri: {server.base_url}/v1/customer/alice" in cassette.read_text()


async def test_with_record_mode_none_nothing_leaves(tmp_path: Path) -> None:
    """It wraps httpx's method under its own name, and must be seen all the same; catches a real request."""
    with RawServer(echo) as server:
        with vcr.use_cassette(str(tmp_path / "empty.yaml"), record_mode="none"):
            async with client_over(Transport()) as client:
                with pytest.raises(CannotOverwriteExistingCassetteException):
                    await client.post(server.base_url, content=b"a")

        assert server.accepted == 0


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What OpenTelemetry's instrumentation of httpx records."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()
    provider.shutdown()


async def test_opentelemetry_sees_each_request_once_and_no_id(spans: InMemorySpanExporter) -> None:
    """One span a request, with the template for a URL; catches telemetry that is blind, double or shows customers."""
    with RawServer(answering(answer(b"{}"))) as server:
        transport = Transport()
        async with client_over(transport) as client:
            for _ in range(2):
                await get_customer(client, server.base_url)
            assert (server.accepted, idle_count(transport)) == (1, 1)  # our own pool, also with telemetry

    finished: tuple[ReadableSpan, ...] = spans.get_finished_spans()
    assert [span.name for span in finished] == ["GET", "GET"]
    assert all("alice" not in span.to_json() for span in finished)
    assert (finished[0].attributes or {})["http.url"] == f"{server.base_url}{TEMPLATE}"
    assert [request.line for request in server.requests] == ["GET /v1/customer/alice HTTP/1.1"] * 2
    trace_id = trace.format_trace_id(finished[0].context.trace_id)
    assert server.requests[0].headers["traceparent"].split("-")[1] == trace_id
    assert tool_in_place() == "telemetry"


async def test_a_test_tool_under_opentelemetry_sees_what_is_sent(
    httpx_mock: HTTPXMock, spans: InMemorySpanExporter
) -> None:
    """A tool that answers by the URL gets the URL, whatever stands around it; catches a mock that matches nothing."""
    httpx_mock.add_response(url="https://api.test/v1/customer/alice", json={"mocked": True})
    async with client_over(Transport()) as client:
        response = await get_customer(client, "https://api.test")

    assert response.json() == {"mocked": True}
    assert len(spans.get_finished_spans()) == 1


def recording(seen: list[str]) -> Any:
    """Make a tool that has the name of what it wraps, and answers by itself."""
    real = httpx.AsyncHTTPTransport.handle_async_request

    @functools.wraps(real)
    async def handle(self: object, request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"tool": True})

    return handle


async def test_a_tool_in_disguise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function with the name and module of what it replaces is no code of httpx; catches a look at names."""
    seen: list[str] = []
    tool = recording(seen)
    assert tool.__module__ == "httpx._transports.default"
    monkeypatch.setattr(httpx.AsyncHTTPTransport, HANDLE, tool)
    async with client_over(Transport()) as client:
        response = await get_customer(client, "https://api.test")

    assert response.json() == {"tool": True}
    assert seen == ["https://api.test/v1/customer/alice"]


async def test_a_class_in_the_place_of_the_transport_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where two tools follow each other; catches a transport of the first one that is kept for the second."""

    class Tool(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text=type(self).__name__)

    async with client_over(Transport()) as client:
        answers = []
        for name in ("First", "Second"):
            with monkeypatch.context() as patch:
                patch.setattr(httpx, "AsyncHTTPTransport", type(name, (Tool,), {}))
                answers.append((await client.get("https://api.test/")).text)

    assert answers == ["First", "Second"]


@pytest.mark.parametrize("name", ["AsyncConnectionPool", "AsyncHTTPConnection", "AsyncHTTP11Connection"])
async def test_a_mock_anywhere_below_is_seen(name: str) -> None:
    """Whichever class of httpcore's a tool replaces, it gets the request; catches a place nobody looks at."""
    refused = mock.AsyncMock(side_effect=httpcore.ConnectError("replaced"))
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            with mock.patch.object(getattr(httpcore, name), HANDLE, refused), pytest.raises(httpx.ConnectError):
                await client.get(server.base_url)

    assert refused.await_count == 1


def test_looking_for_tools_costs_no_import() -> None:
    """The package is loaded by whoever replaces something in it; catches 20 ms at every start."""
    code = "import sys, perkamo.transport.pool; print('httpcore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.lower()) is False
