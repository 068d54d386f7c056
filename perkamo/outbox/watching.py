"""What a relay tells the hooks of its client: each delivery, and how the outbox stands."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Final

from attrs import define

from perkamo.errors import PerkamoError
from perkamo.hooks import Delivery, DeliveryStart, DeliveryState, Hooks
from perkamo.outbox.settling import Settled
from perkamo.outbox.store import OutboxStats, StoredEvent
from perkamo.runtime.clock import Clock

STATE_SECONDS: Final = 1.0
"""The shortest time between two tellings of the state, which counts events."""
_numbers: Final = count(1)


@define
class DeliveryResult:
    """The outcome of a delivery; ``settled`` is None where it was broken off."""

    settled: Settled | None = None


class RelayHooks:
    """Tells the hooks, if there are any."""

    def __init__(self, hooks: Hooks, clock: Clock, space: str) -> None:
        self._hooks = hooks
        self._clock = clock
        self._space = space
        self._told_at = -STATE_SECONDS

    @contextmanager
    def delivery(self, events: Sequence[StoredEvent]) -> Generator[DeliveryResult]:
        """Tell of a delivery at both ends of the block."""
        result = DeliveryResult()
        if not self._hooks:
            yield result
            return
        contexts = dict.fromkeys(event.trace_context for event in events if event.trace_context is not None)
        size = sum(len(event.body) for event in events)
        start = DeliveryStart(next(_numbers), len(events), size, tuple(contexts))
        began = self._clock.now()
        self._hooks.delivery_start(start)
        error: str | None = None
        try:
            yield result
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            settled = result.settled or Settled(later=[(event, event.failures, 0.0) for event in events])
            if settled.trouble is not None:
                error = type(settled.trouble).__name__
            counts = (len(settled.delivered), len(settled.dead), len(settled.later))
            self._hooks.delivery(Delivery(start, *counts, error, self._clock.now() - began))

    def seconds_to_state(self) -> float | None:
        """Return after how many seconds the state may be reported; None where nobody wants it."""
        if not self._hooks.overrides("on_state"):
            return None
        return max(0.0, self._told_at + STATE_SECONDS - self._clock.now())

    def state(self, stats: OutboxStats, trouble: PerkamoError | None, paused_seconds: float, wall_time: float) -> None:
        """Tell how the outbox and its relay stand."""
        self._told_at = self._clock.now()
        state = DeliveryState(
            space=self._space,
            accepted=stats.accepted,
            delivered=stats.delivered,
            waiting=stats.pending,
            dead=stats.dead,
            missing=stats.missing,
            oldest_put_at=None if stats.oldest_age is None else wall_time - stats.oldest_age,
            paused=None if trouble is None else type(trouble).__name__,
            paused_seconds=max(0.0, paused_seconds),
        )
        self._hooks.state(state)
