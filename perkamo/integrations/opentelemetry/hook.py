"""The hook that makes spans and metrics, and how it is installed for the whole process."""

from collections.abc import Mapping
from contextvars import Token
from typing import Final

from attrs import frozen
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from perkamo import (
    AttemptEnd,
    AttemptStart,
    CallEnd,
    CallStart,
    Delivery,
    DeliveryStart,
    DeliveryState,
    Hook,
    __version__,
)
from perkamo.hooks import install, uninstall
from perkamo.integrations.opentelemetry.instruments import Instruments

_NAME: Final = "perkamo"
_MAX_LINKS: Final = 128
"""As many as the SDK keeps of a span by default."""
_SUPPRESSED: Final = "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"
"""What instrumentations of HTTP clients look for, so that they leave our requests to us."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()

Attributes = dict[str, "str | int"]


@frozen
class _Open:
    """A span that is the current one of its task."""

    span: Span
    token: Token[Context]

    def end(self, attributes: Attributes, error: str | None) -> None:
        """End it, and let the one before it be the current one again."""
        otel_context.detach(self.token)
        for name, value in attributes.items():
            self.span.set_attribute(name, value)
        if error is not None:
            self.span.set_attribute("error.type", error)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class OpenTelemetryHook(Hook):
    """Makes a CLIENT span for each call and one below it for each attempt, and a CONSUMER span for each delivery.

    No attribute holds an id, a key or a value of an event. Instrumentations of httpx leave the requests to this hook.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagate: bool = False,
    ) -> None:
        """Prepare.

        Args:
            tracer_provider: Where spans go; the process's own when not given.
            meter_provider: Where metrics go; the process's own when not given.
            propagate: Send ``traceparent`` and ``tracestate`` to Perkamo.
        """
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        self._instruments = Instruments(_NAME, __version__, meter_provider)
        self._propagate = propagate
        self._calls: dict[int, _Open] = {}
        self._attempts: dict[int, _Open] = {}
        self._deliveries: dict[int, _Open] = {}

    def on_call_start(self, call: CallStart) -> None:
        """Begin the call's span."""
        span = self._tracer.start_span(_name(call), kind=SpanKind.CLIENT, attributes=_of_call(call))
        self._calls[call.number] = _Open(span, otel_context.attach(trace.set_span_in_context(span)))

    def on_attempt_start(self, attempt: AttemptStart) -> Mapping[str, str] | None:
        """Begin the attempt's span, and return the headers that name it."""
        call = attempt.call
        attributes = _of_call(call)
        if attempt.attempt > 1:
            attributes["http.request.resend_count"] = attempt.attempt - 1
        span = self._tracer.start_span(_name(call), kind=SpanKind.CLIENT, attributes=attributes)
        current = trace.set_span_in_context(span)
        if (key := getattr(otel_context, _SUPPRESSED, None)) is not None:
            current = otel_context.set_value(key, True, current)  # noqa: FBT003 - a value like any other
        self._attempts[call.number] = _Open(span, otel_context.attach(current))
        if not self._propagate:
            return None
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, current)
        return headers

    def on_attempt(self, attempt: AttemptEnd) -> None:
        """End the attempt's span and count it."""
        error = _error(attempt)
        attributes = _of_answer(attempt)
        if (current := self._attempts.pop(attempt.call.number, None)) is not None:
            current.end(attributes, error)
        measured = _of_call(attempt.call)
        if attempt.status is not None:
            measured["http.response.status_code"] = attempt.status
        self._instruments.request(attempt.seconds, measured, error)

    def on_call_end(self, call: CallEnd) -> None:
        """End the call's span."""
        self._instruments.retry_quota = call.retry_quota
        if (current := self._calls.pop(call.call.number, None)) is not None:
            current.end(_of_answer(call), _error(call))

    def on_put(self) -> str | None:
        """Return the ``traceparent`` of the span in which an event is put."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers)
        return headers.get("traceparent")

    def on_delivery_start(self, delivery: DeliveryStart) -> None:
        """Begin the delivery's span, a trace of its own that is linked to those who put the events."""
        links = [Link(trace.get_current_span(_read(text)).get_span_context()) for text in delivery.trace_contexts]
        span = self._tracer.start_span(
            "deliver perkamo_outbox",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes={**_MESSAGING, "messaging.batch.message_count": delivery.events},
            links=[link for link in links if link.context.is_valid][:_MAX_LINKS],
        )
        self._deliveries[delivery.number] = _Open(span, otel_context.attach(trace.set_span_in_context(span)))

    def on_delivery(self, delivery: Delivery) -> None:
        """End the delivery's span and count its events."""
        counts: Attributes = {
            "perkamo.outbox.delivered": delivery.delivered,
            "perkamo.outbox.dead": delivery.dead,
            "perkamo.outbox.later": delivery.later,
        }
        if (current := self._deliveries.pop(delivery.start.number, None)) is not None:
            current.end(counts, delivery.error)
        self._instruments.delivery(delivery, _MESSAGING)

    def on_state(self, state: DeliveryState) -> None:
        """Keep the outbox's state for the gauges."""
        self._instruments.note(state)


_MESSAGING: Final[Attributes] = {
    "messaging.system": "perkamo_outbox",
    "messaging.operation.name": "deliver",
    "messaging.operation.type": "process",
}


def _name(call: CallStart) -> str:
    return f"{call.method} {call.endpoint}"


def _of_call(call: CallStart) -> Attributes:
    return {
        "http.request.method": call.method,
        "url.template": call.endpoint,
        "server.address": call.server_address,
        "server.port": call.server_port,
    }


def _of_answer(end: AttemptEnd | CallEnd) -> Attributes:
    attributes: Attributes = {"perkamo.outcome": end.outcome}
    if end.status is not None:
        attributes["http.response.status_code"] = end.status
    if end.request_id is not None:
        attributes["perkamo.request_id"] = end.request_id
    return attributes


def _error(end: AttemptEnd | CallEnd) -> str | None:
    """Return ``error.type``: the status where the answer is the error, otherwise the name of its class."""
    if end.error is None:
        return None
    return str(end.status) if end.status is not None and end.status >= 300 else end.error


def _read(text: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": text}, Context())


_installed: list[OpenTelemetryHook] = []


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    propagate: bool = False,
) -> OpenTelemetryHook:
    """Let all clients, outboxes and relays of the process make spans and metrics, also those that exist already.

    A second call changes nothing. Do not give a client such a hook as well: its calls would be counted twice.

    Args:
        tracer_provider: Where spans go; the process's own when not given.
        meter_provider: Where metrics go; the process's own when not given.
        propagate: Send ``traceparent`` and ``tracestate`` to Perkamo.

    Returns:
        The hook.
    """
    if not _installed:
        hook = OpenTelemetryHook(tracer_provider=tracer_provider, meter_provider=meter_provider, propagate=propagate)
        _installed.append(hook)
        install(hook)
    return _installed[0]


def uninstrument() -> None:
    """Undo ``instrument``."""
    while _installed:
        uninstall(_installed.pop())
