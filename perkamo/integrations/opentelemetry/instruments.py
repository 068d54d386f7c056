"""The metrics: durations of requests and deliveries, events, and the state of outboxes."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from perkamo import Delivery, DeliveryState
from perkamo.runtime.clock import Clock

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""As the HTTP conventions advise."""
_STALE: Final = 30.0
"""Seconds. A relay that has reported nothing for this long has ended, and its state is dropped."""


class Instruments:
    """The instruments of one hook.

    Attributes:
        retry_quota: What is left of a client's quota for retries; None before the first call.
    """

    def __init__(self, name: str, version: str, provider: MeterProvider | None) -> None:
        """Make them.

        Args:
            name: The scope's name.
            version: The scope's version.
            provider: Where the figures go; the process's own when not given.
        """
        meter = get_meter(name, version, provider)
        self.retry_quota: int | None = None
        self._clock = Clock()
        self._states: dict[str, tuple[float, DeliveryState]] = {}
        self._requests = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._processing = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        gauges: Mapping[str, tuple[str, str, Callable[[DeliveryState], float | None]]] = {
            "waiting": ("{event}", "Events that wait.", lambda state: state.waiting),
            "oldest_age": ("s", "Since the oldest event that waits was put.", _age),
            "dead": ("{event}", "Dead letters.", lambda state: state.dead),
            "delivered": ("{event}", "Events that the service has answered for.", lambda state: state.delivered),
            "missing": ("{event}", "Events that something other than the outbox deleted.", lambda state: state.missing),
        }
        for short, (unit, description, read) in gauges.items():
            meter.create_observable_gauge(
                f"perkamo.outbox.{short}", [self._observing(read)], unit=unit, description=description
            )
        meter.create_observable_gauge(
            "perkamo.outbox.paused", [self._paused], unit="1", description="1 while everything waits, and why."
        )
        meter.create_observable_gauge(
            "perkamo.client.retry_quota", [self._quota], unit="1", description="What is left for retries."
        )

    def request(self, seconds: float, attributes: Mapping[str, str | int], error: str | None) -> None:
        """Count one request."""
        self._requests.record(seconds, attributes if error is None else {**attributes, "error.type": error})

    def delivery(self, delivery: Delivery, attributes: Mapping[str, str | int]) -> None:
        """Count one delivery, and the events that it settled; one that still waits is counted when it is."""
        failed = attributes if delivery.error is None else {**attributes, "error.type": delivery.error}
        self._processing.record(delivery.seconds, failed)
        if delivery.delivered:
            self._consumed.add(delivery.delivered, attributes)
        if delivery.dead:
            self._consumed.add(delivery.dead, {**attributes, "error.type": "rejected"})

    def note(self, state: DeliveryState) -> None:
        """Keep the state of an outbox."""
        self._states[state.space] = (self._clock.now(), state)

    def _observing(
        self, read: Callable[[DeliveryState], float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for state in self._fresh():
                value = read(state)
                yield Observation(0 if value is None else value, {"perkamo.space": state.space})

        return observe

    def _paused(self, _: CallbackOptions) -> Iterator[Observation]:
        for state in self._fresh():
            attributes = {"perkamo.space": state.space}
            if state.paused is not None:
                attributes["error.type"] = state.paused
            yield Observation(int(state.paused is not None), attributes)

    def _quota(self, _: CallbackOptions) -> Iterator[Observation]:
        if self.retry_quota is not None:
            yield Observation(self.retry_quota)

    def _fresh(self) -> list[DeliveryState]:
        now = self._clock.now()
        return [state for told_at, state in tuple(self._states.values()) if now - told_at < _STALE]


def _age(state: DeliveryState) -> float | None:
    return None if state.oldest_put_at is None else max(0.0, time.time() - state.oldest_put_at)
