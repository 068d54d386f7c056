"""client: what OpenTelemetry and Sentry record of our requests: each once, under its parent, and nobody's id."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perkamo import AsyncPerkamoClient, PerkamoClient, RetryPolicy
from perkamo.sandbox import Reset, Sandbox, Status
from tests.canary import CANARY_EMAIL, find_canary

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """OpenTelemetry's instrumentation of httpx, switched on."""
    made = TracerProvider()
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=made)
    yield made
    instrumentor.uninstrument()
    made.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    """What it records."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def urls(spans: InMemorySpanExporter) -> list[object]:
    """The URLs of all spans that are about requests."""
    return [
        (span.attributes or {})["http.url"] for span in spans.get_finished_spans() if span.kind is trace.SpanKind.CLIENT
    ]


async def test_each_request_of_a_call_is_one_span_under_the_callers(
    sandbox: Sandbox, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """A retry is a span of its own, a failed one too; catches spans that are missing, doubled or without a parent."""
    sandbox.faults.sequence("GET /v1/customer/{user_id}", [Status(503), Reset(before="apply")])
    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK) as client:
        with provider.get_tracer("test").start_as_current_span("order") as parent:
            await client.customer(CANARY_EMAIL)

    assert urls(spans) == [f"{sandbox.base_url}/v1/customer/%7Buser_id%7D"] * 3
    told = spans.get_finished_spans()
    assert {span.parent.span_id for span in told if span.parent} == {parent.get_span_context().span_id}
    assert [(span.attributes or {}).get("http.status_code") for span in told[:3]] == [503, None, 200]
    assert find_canary("".join(span.to_json() for span in told)) is None


def test_a_sync_call_has_the_callers_span_for_its_parent(
    sandbox: Sandbox, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """The request is made in another thread; catches a context that stays behind."""
    order = provider.get_tracer("test").start_as_current_span("order")
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK) as client, order as parent:
        client.emit(CANARY_EMAIL, "e", transaction_id=CANARY_EMAIL)

    request, _ = spans.get_finished_spans()
    assert urls(spans) == [f"{sandbox.base_url}/v1/events"]
    assert request.parent is not None
    assert request.parent.span_id == parent.get_span_context().span_id
    assert find_canary(request.to_json()) is None


async def test_a_stream_and_any_other_path_are_templates_too(sandbox: Sandbox, spans: InMemorySpanExporter) -> None:
    """No span of ours shows an id, wherever it stands in a path; catches a call that builds its own URL."""
    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK) as client:
        token = await client.create_stream_token(sandbox.browser_key, CANARY_EMAIL)
        async with client.subscribe_customer(CANARY_EMAIL, token) as stream:
            await stream.receive()
        for path in (f"/v1/customer/{CANARY_EMAIL}", f"/v1/usage?user={CANARY_EMAIL}"):
            await client.request("GET", path)

    assert [str(url).removeprefix(sandbox.base_url) for url in urls(spans)] == [
        "/v1/browser-tokens",
        "/v1/client/customer/%7Buser_id%7D/stream",
        "/v1/customer/%E2%80%A6",
        "/v1/usage",
    ]
    assert find_canary("".join(span.to_json() for span in spans.get_finished_spans())) is None


async def test_a_tool_in_the_place_of_httpxs_client_sees_our_requests(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches and older telemetry do it; a mock of the test's own client is left alone; catches a blind tool."""
    seen: list[str] = []

    class Tool(httpx.AsyncClient):
        async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
            seen.append(request.url.path)
            return await super().send(request, **options)

    for placed in (Tool, mock.MagicMock()):
        monkeypatch.setattr(httpx, "AsyncClient", placed)
        async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
            assert (await client.emit("u", "e")).meta.attempts == 1

    assert seen == ["/v1/events"]


async def test_a_callers_client_is_seen_once(sandbox: Sandbox, spans: InMemorySpanExporter) -> None:
    """Its transport is httpx's own, which is instrumented already; catches a span of ours on top."""
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http) as client,
    ):
        await client.emit("u", "e")

    assert urls(spans) == [f"{sandbox.base_url}/v1/events"]


SENTRY = """
import json, logging, sys
from urllib.parse import quote
import anyio, httpx, sentry_sdk
from perkamo import AsyncPerkamoClient, PerkamoError, RetryPolicy

logging.basicConfig(level=logging.INFO)
url, key, user, way = json.load(sys.stdin)  # Sentry shows arguments
sent = []

class Keep(sentry_sdk.transport.Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items if item.payload.json)

sentry_sdk.init("http://k@127.0.0.1:9/1", transport=Keep(), traces_sample_rate=1.0, send_default_pii=True)

async def main():
    http = httpx.AsyncClient(trust_env=False) if way == "external" else None
    retry = RetryPolicy(base_delay=0)
    async with AsyncPerkamoClient(key, base_url=url, http_client=http, retry=retry) as client:
        with sentry_sdk.start_transaction(name="order"):
            await client.customer(user)
            await client.emit(user, "e", {"name": user}, transaction_id=user)
        try:
            await client.request("GET", f"/v1/nothing/{quote(user, safe='')}")
        except PerkamoError as error:
            sentry_sdk.capture_exception(error)
    if http is not None:
        await http.aclose()

anyio.run(main)
sentry_sdk.flush()
print(json.dumps(sent))
"""


@pytest.mark.stress
@pytest.mark.parametrize("way", ["ours", "external"])
def test_sentry_shows_each_request_and_nobodys_id(way: str, sandbox: Sandbox) -> None:
    """Spans, breadcrumbs and the frames of an error, all local variables included; catches a URL with an id."""
    user = "canary customer/5e0d1"
    given = json.dumps([sandbox.base_url, sandbox.api_key, user, way])
    done = subprocess.run([sys.executable, "-c", SENTRY], input=given, capture_output=True, text=True, check=True)
    events = json.loads(done.stdout)

    transaction = next(event for event in events if event.get("type") == "transaction")
    error = next(event for event in events if event.get("exception"))
    requests = [span["description"] for span in transaction["spans"] if span["op"] == "http.client"]
    crumbs = [one["data"]["url"] for one in error["breadcrumbs"]["values"] if "url" in one.get("data", {})]
    assert requests == [f"GET {sandbox.base_url}/v1/customer/%7Buser_id%7D", f"POST {sandbox.base_url}/v1/events"]
    assert crumbs == [*(one.partition(" ")[2] for one in requests), f"{sandbox.base_url}/v1/nothing/%E2%80%A6"]
    for shown in (json.dumps(transaction), json.dumps(error["breadcrumbs"]), error["exception"]["values"][-1]["value"]):
        assert "5e0d1" not in shown
    everything = done.stdout + done.stderr
    assert sandbox.api_key not in everything
    assert "5e0d1" not in done.stderr
