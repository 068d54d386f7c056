"""A relay's figures in the Prometheus text format; needs the extra ``prometheus``."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from perkamo.errors import PerkamoError
from perkamo.hooks import AttemptEnd, CallEnd, Delivery, Hook
from perkamo.outbox.store import OutboxStats

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Outbox(Collector):
    """The counts of the outbox, as they were counted for this scrape."""

    def __init__(self) -> None:
        self.stats: OutboxStats | None = None

    def collect(self) -> Iterable[Metric]:
        """Yield the figures of the outbox, then those of each Space."""
        stats = self.stats
        if stats is None:
            return
        yield CounterMetricFamily("perkamo_outbox_accepted", "Events that were ever put.", value=stats.accepted)
        yield CounterMetricFamily("perkamo_outbox_delivered", "Events that were confirmed.", value=stats.delivered)
        yield GaugeMetricFamily("perkamo_outbox_waiting", "Events that wait.", value=stats.pending)
        yield GaugeMetricFamily("perkamo_outbox_dead", "Dead letters.", value=stats.dead)
        yield GaugeMetricFamily("perkamo_outbox_missing", "Events that were deleted from outside.", value=stats.missing)
        yield GaugeMetricFamily("perkamo_outbox_bytes", "Bytes of all events and dead letters.", value=stats.size)
        yield GaugeMetricFamily(
            "perkamo_outbox_oldest_age_seconds", "Since the oldest waiting event was put.", value=stats.oldest_age or 0
        )
        space = ["space"]
        waiting = GaugeMetricFamily("perkamo_space_waiting", "Events that wait for a Space.", labels=space)
        oldest = GaugeMetricFamily("perkamo_space_oldest_age_seconds", "Of those, the oldest.", labels=space)
        minute = GaugeMetricFamily("perkamo_space_delivered_last_minute", "Confirmed in 60 s.", labels=space)
        last = GaugeMetricFamily("perkamo_space_last_delivery_timestamp_seconds", "Unix time.", labels=space)
        paused = GaugeMetricFamily("perkamo_space_paused", "1 while delivery is paused.", labels=space)
        for one in stats.spaces:
            waiting.add_metric([one.space], one.pending)
            oldest.add_metric([one.space], one.oldest_age or 0)
            minute.add_metric([one.space], one.delivered_last_minute)
            paused.add_metric([one.space], one.paused is not None)
            if one.last_delivery is not None:
                last.add_metric([one.space], one.last_delivery.timestamp())
        yield from (waiting, oldest, minute, last, paused)


class _Watching(Collector):
    """Why this relay waits now."""

    def __init__(self, trouble: Callable[[], PerkamoError | None]) -> None:
        self._trouble = trouble

    def collect(self) -> Iterable[Metric]:
        """Yield 1 with the name of the error, or 0 without one."""
        trouble = self._trouble()
        paused = GaugeMetricFamily("perkamo_relay_paused", "1 while this relay waits, and why.", labels=["error"])
        paused.add_metric(["" if trouble is None else type(trouble).__name__], trouble is not None)
        yield paused


class RelayMetrics(Hook):
    """Counts as a hook, and writes all figures of a relay."""

    def __init__(self, trouble: Callable[[], PerkamoError | None]) -> None:
        """Prepare.

        Args:
            trouble: Returns why delivery is paused, or None.
        """
        self._registry = CollectorRegistry()
        self._outbox = _Outbox()
        self._registry.register(self._outbox)
        self._registry.register(_Watching(trouble))
        self._requests = Histogram(
            "perkamo_request_duration_seconds",
            "Each attempt of each call; the status is 0 where no answer came.",
            ["method", "endpoint", "status"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._events = Counter(
            "perkamo_relay_events",
            "Results of the events that this relay sent.",
            ["result"],
            registry=self._registry,
        )
        self._quota = Gauge("perkamo_client_retry_quota", "What is left for retries.", registry=self._registry)

    def on_attempt(self, attempt: AttemptEnd) -> None:
        """Count a request."""
        call = attempt.call
        self._requests.labels(call.method, call.endpoint, str(attempt.status or 0)).observe(attempt.seconds)

    def on_call_end(self, call: CallEnd) -> None:
        """Record what is left for retries."""
        self._quota.set(call.retry_quota)

    def on_delivery(self, delivery: Delivery) -> None:
        """Count events."""
        for result in ("delivered", "dead", "later"):
            self._events.labels(result).inc(getattr(delivery, result))

    def text(self, stats: OutboxStats) -> bytes:
        """Return all figures.

        Args:
            stats: The outbox, counted just now.
        """
        self._outbox.stats = stats
        return generate_latest(self._registry)
