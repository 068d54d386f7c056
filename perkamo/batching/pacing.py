"""How fast a stream of requests may go: one pace for all of its tasks."""

import math
from typing import Final

from perkamo.errors import PerkamoApiError, PerkamoError
from perkamo.runtime.clock import Clock

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds. What the service asks for is obeyed up to here; whoever asks for more is asked again after that."""


class Pace:
    """Holds back all requests of a stream after one of them failed; begins at full speed.

    Args:
        clock: What it goes by, and where the randomness comes from.
    """

    def __init__(self, clock: Clock = Clock()) -> None:
        self.failures: int = 0
        self._clock = clock
        self._not_before = 0.0
        self._failed_at = -math.inf

    @property
    def seconds(self) -> float:
        """For how long nothing may leave; 0 or less when it may."""
        return self._not_before - self._clock.now()

    async def wait(self) -> None:
        """Wait until a request may leave."""
        while (seconds := self.seconds) > 0:
            await self._clock.sleep(seconds)

    def succeeded(self) -> None:
        """Go at full speed again."""
        self.failures = 0

    def failed(self, error: PerkamoError | None = None, sent_at: float = math.inf) -> None:
        """Hold back: twice as long each time, at random within that, and no less than the service asks for.

        Args:
            error: What the service answered.
            sent_at: When the request left, by its clock. Requests that were on their way together fail
                together, and count as one failure.
        """
        asked = error.retry_after_seconds if isinstance(error, PerkamoApiError) else None
        wait = 0.0 if asked is None else min(asked, LONGEST_RETRY_AFTER)
        if sent_at > self._failed_at:
            self._failed_at = self._clock.now()
            self.failures += 1
            limit = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self.failures - 1, 30))
            wait += limit * self._clock.randomness()
        self.hold(wait)

    def hold(self, seconds: float) -> None:
        """Send nothing for this many seconds."""
        self._not_before = max(self._not_before, self._clock.now() + seconds)
