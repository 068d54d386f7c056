"""opentelemetry: spans and metrics of the real SDK, beside the instrumentation of httpx, and nobody's id in them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from perkamo import (
    AsyncPerkamoClient,
    Event,
    Outbox,
    PerkamoClient,
    PerkamoError,
    ReconnectPolicy,
    RetryPolicy,
    SyncOutbox,
)
from perkamo.integrations.opentelemetry import instrument, uninstrument
from perkamo.integrations.opentelemetry.instrumentor import PerkamoInstrumentor
from perkamo.sandbox import Delay, Reset, Sandbox, Status
from tests.canary import CANARY_EMAIL, find_canary
from tests.waiting import cancelled_once

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)
Point = tuple[Mapping[str, object], float]


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """The SDK, with the instrumentation of httpx switched on as well."""
    made = TracerProvider()
    HTTPXClientInstrumentor().instrument(tracer_provider=made)
    yield made
    HTTPXClientInstrumentor().uninstrument()
    made.shutdown()


@pytest.fixture
def reader(provider: TracerProvider) -> Iterator[InMemoryMetricReader]:
    """Where metrics are read, of both instrumentations."""
    made = InMemoryMetricReader()
    meters = MeterProvider([made])
    HTTPXClientInstrumentor().uninstrument()
    HTTPXClientInstrumentor().instrument(tracer_provider=provider, meter_provider=meters)
    instrument(tracer_provider=provider, meter_provider=meters, propagate=True)
    yield made
    uninstrument()
    meters.shutdown()


@pytest.fixture
def exporter(provider: TracerProvider, reader: InMemoryMetricReader) -> Iterator[InMemorySpanExporter]:
    """Where spans are read; all that was told is searched for the canary at the end."""
    made = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(made))
    yield made
    told = "".join(span.to_json() for span in made.get_finished_spans())
    data = reader.get_metrics_data()
    assert find_canary(told + ("" if data is None else data.to_json())) is None


def facts(span: ReadableSpan) -> dict[str, object]:
    """The attributes of a span, without what differs from run to run."""
    varying = {"server.address", "server.port", "perkamo.request_id", "perkamo.outcome"}
    return {name: value for name, value in (span.attributes or {}).items() if name not in varying}


def points(reader: InMemoryMetricReader, name: str) -> list[Point]:
    """The figures of a metric: the value of a gauge or counter, the count of a histogram."""
    data = reader.get_metrics_data()
    assert data is not None
    return [
        (dict(point["attributes"]), point["count"] if "count" in point else point["value"])
        for resource in json.loads(data.to_json())["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == name
        for point in metric["data"]["data_points"]
    ]


def client_of(sandbox: Sandbox) -> AsyncPerkamoClient:
    """A client that retries without waiting."""
    return AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK)


def parents(spans: Sequence[ReadableSpan]) -> list[int | None]:
    """The parent of each span."""
    return [None if span.parent is None else span.parent.span_id for span in spans]


async def test_a_call_is_a_span_with_one_below_it_for_each_attempt(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """By the stable HTTP conventions, under the caller's span; catches a retry that is lost, or spans of httpx too."""
    sandbox.faults.sequence("GET /v1/customer/{user_id}", [Status(503), Reset(before="apply")])

    with provider.get_tracer("shop").start_as_current_span("order") as order:
        async with client_of(sandbox) as client:
            customer = await client.customer(CANARY_EMAIL)

    *attempts, call, _ = exporter.get_finished_spans()
    about = {"http.request.method": "GET", "url.template": "/v1/customer/{user_id}"}
    assert [facts(span) for span in attempts] == [
        {**about, "http.response.status_code": 503, "error.type": "503"},
        {**about, "http.request.resend_count": 1, "error.type": "PerkamoConnectionError"},
        {**about, "http.request.resend_count": 2, "http.response.status_code": 200},
    ]
    assert facts(call) == {**about, "http.response.status_code": 200}
    assert {span.name for span in (*attempts, call)} == {"GET /v1/customer/{user_id}"}
    assert {span.kind for span in (*attempts, call)} == {SpanKind.CLIENT}
    assert call.context is not None
    assert parents([*attempts, call]) == [*[call.context.span_id] * 3, order.get_span_context().span_id]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert (call.attributes or {})["perkamo.request_id"] == customer.meta.request_id
    server = [str((call.attributes or {})[f"server.{name}"]) for name in ("address", "port")]
    assert f"http://{':'.join(server)}" == sandbox.base_url


async def test_each_attempt_names_its_own_span_to_the_service(sandbox: Sandbox, exporter: InMemorySpanExporter) -> None:
    """Where it is asked for; catches the span of the call, or of httpx, on the wire."""
    sandbox.faults.next("POST /v1/events", Status(503))

    async with client_of(sandbox) as client:
        await client.emit(CANARY_EMAIL, "e")

    sent = [value for record in sandbox.requests for name, value in record.headers if name.lower() == "traceparent"]
    first, second, _ = exporter.get_finished_spans()
    assert first.context is not None
    assert second.context is not None
    assert [one.split("-")[2] for one in sent] == [f"{span.context.span_id:016x}" for span in (first, second)]


async def test_nothing_goes_along_unless_it_is_asked_for(sandbox: Sandbox, provider: TracerProvider) -> None:
    """Trace ids are the application's own; catches a traceparent that reaches another company by default."""
    instrument(tracer_provider=provider)
    try:
        async with client_of(sandbox) as client:
            await client.program()
    finally:
        uninstrument()

    assert "traceparent" not in {name.lower() for record in sandbox.requests for name, _ in record.headers}


async def test_each_request_is_counted_once(
    sandbox: Sandbox, exporter: InMemorySpanExporter, reader: InMemoryMetricReader
) -> None:
    """Three attempts are three durations, though httpx is instrumented as well; catches figures that are doubled."""
    sandbox.faults.next("GET /v1/program", Status(503), times=2)

    async with client_of(sandbox) as client:
        await client.program()

    counted = {(str(told.get("error.type")), count) for told, count in points(reader, "http.client.request.duration")}
    assert counted == {("503", 2), ("None", 1)}
    assert points(reader, "http.client.duration") == []
    [(_, quota)] = points(reader, "perkamo.client.retry_quota")
    assert 485 <= quota <= 500
    assert len(exporter.get_finished_spans()) == 4


async def test_connecting_a_stream_is_a_span_too(
    sandbox: Sandbox, exporter: InMemorySpanExporter, reader: InMemoryMetricReader
) -> None:
    """Which ends when the stream is open; catches requests of streams that only another instrumentation sees."""
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Status(503))
    at_once = ReconnectPolicy(base_delay=0, max_delay=0)

    async with client_of(sandbox) as client:
        token = await client.create_stream_token(sandbox.browser_key, CANARY_EMAIL)
        exporter.clear()
        async with client.subscribe_customer(CANARY_EMAIL, token, reconnect=at_once) as stream:
            await stream.receive()
            failed, opened, call = exporter.get_finished_spans()

    assert {span.name for span in (failed, opened, call)} == {"GET /v1/client/customer/{user_id}/stream"}
    assert call.context is not None
    assert parents([failed, opened, call]) == [call.context.span_id] * 2 + [None]
    assert facts(failed)["error.type"] == "503"
    assert facts(opened)["http.request.resend_count"] == 1
    assert facts(call)["http.response.status_code"] == 200
    counted = points(reader, "http.client.request.duration")
    assert sum(count for told, count in counted if told["url.template"] == call.name.removeprefix("GET ")) == 2
    assert points(reader, "http.client.duration") == []


async def test_a_failed_and_a_cancelled_call_end_their_spans(sandbox: Sandbox, exporter: InMemorySpanExporter) -> None:
    """With error.type, and the caller's span is the current one again; catches spans that are never exported."""
    before = trace.get_current_span()
    async with client_of(sandbox) as client:
        sandbox.faults.next("POST /v1/events", Status(401))
        with pytest.raises(PerkamoError):
            await client.emit(CANARY_EMAIL, "e")
        sandbox.faults.next("POST /v1/events", Delay(30))
        async with cancelled_once(lambda: len(sandbox.requests) == 2):
            await client.emit(CANARY_EMAIL, "e")
    with pytest.raises(PerkamoError):
        await client.emit(CANARY_EMAIL, "e")

    told = [(facts(span).get("error.type"), span.status.status_code) for span in exporter.get_finished_spans()]
    assert [error for error, _ in told[:2]] == ["401", "401"]
    assert {error for error, _ in told[2:4]} <= {"CancelledError", "Cancelled"}
    assert told[4][0] == "PerkamoClosedError"
    assert {status for _, status in told} == {StatusCode.ERROR}
    assert trace.get_current_span() is before


def test_a_sync_call_is_below_the_callers_span(
    sandbox: Sandbox, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Though it is made in another thread; catches a trace that is torn."""
    order = provider.get_tracer("shop").start_as_current_span("order")
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client, order as parent:
        client.emit(CANARY_EMAIL, "e")

    attempt, call, _ = exporter.get_finished_spans()
    assert call.context is not None
    assert parents([attempt, call]) == [call.context.span_id, parent.get_span_context().span_id]


async def test_a_delivery_is_linked_to_those_who_put_and_above_its_call(
    sandbox: Sandbox,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    reader: InMemoryMetricReader,
    tmp_path: Path,
) -> None:
    """Over an outage too; catches an order that can't be followed, and a delivery that belongs to one order only."""
    sandbox.faults.next("POST /v1/events:batch", Status(503))
    orders = []
    async with Outbox(tmp_path / "outbox") as outbox, client_of(sandbox) as client:
        for number in range(2):
            with provider.get_tracer("shop").start_as_current_span("order") as order:
                await outbox.put(Event(CANARY_EMAIL, "e", f"t{number}", {"text": CANARY_EMAIL}))
                orders.append(order.get_span_context())
        await outbox.put(Event(CANARY_EMAIL, "e", "t2"))
        with provider.get_tracer("shop").start_as_current_span("worker"):
            await outbox.drain(client)

    spans = exporter.get_finished_spans()
    failed, passed = [span for span in spans if span.name == "deliver perkamo_outbox"]
    for delivery in (failed, passed):
        assert (delivery.kind, delivery.parent) == (SpanKind.CONSUMER, None)
        assert [link.context.span_id for link in delivery.links] == [order.span_id for order in orders]
        assert [link.context.trace_id for link in delivery.links] == [order.trace_id for order in orders]
    assert facts(failed)["error.type"] == "PerkamoServerError"
    assert [facts(one)["perkamo.outbox.delivered"] for one in (failed, passed)] == [0, 3]
    calls = [span for span in spans if span.kind is SpanKind.CLIENT and span.parent is not None]
    deliveries = {delivery.context.span_id for delivery in (failed, passed) if delivery.context is not None}
    assert len([span for span in calls if span.parent is not None and span.parent.span_id in deliveries]) == 2
    [(_, consumed)] = points(reader, "messaging.client.consumed.messages")
    assert consumed == 3
    assert sorted(count for _, count in points(reader, "messaging.process.duration")) == [1, 1]
    for name, value in {"waiting": 0, "oldest_age": 0, "dead": 0, "delivered": 3, "missing": 0, "paused": 0}.items():
        assert points(reader, f"perkamo.outbox.{name}") == [({"perkamo.space": ""}, value)]


def test_what_opentelemetry_instrument_loads_does_the_same() -> None:
    """Once, however often it is asked; catches an entry point that leads nowhere."""
    instrumentor = PerkamoInstrumentor()
    instrumentor.instrument()
    try:
        assert instrument() is instrument()
    finally:
        instrumentor.uninstrument()


@pytest.mark.stress
def test_a_relay_is_seen_without_a_line_of_code(sandbox: Sandbox, tmp_path: Path) -> None:
    """By opentelemetry-instrument, as a process; catches an entry point that it does not take."""
    folder = tmp_path / "outbox"
    with SyncOutbox(folder) as outbox:
        outbox.put(Event(CANARY_EMAIL, "review.created", "review_1"))
    instrumented = [str(Path(sys.executable).with_name("opentelemetry-instrument")), "--traces_exporter", "console"]
    others = ["--metrics_exporter", "none", "--logs_exporter", "none"]
    relay = [sys.executable, "-m", "perkamo", "outbox", "relay", str(folder), "--until-empty"]

    done = subprocess.run(
        [*instrumented, *others, *relay],
        env={"PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url, "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    names = re.findall(r'^    "name": "(.*)",$', done.stdout, re.MULTILINE)
    assert names == ["POST /v1/events:batch", "POST /v1/events:batch", "deliver perkamo_outbox"]
    assert find_canary(done.stdout) is None
