"""The pace of a stream of requests: one for all of its tasks."""

import math
from typing import Final

from perkamo.errors import PerkamoApiError, PerkamoError
from perkamo.runtime.clock import Clock

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds. A longer wait that the service asks for is shortened to this, and the next request is then sent."""


class Pace:
    """Holds back all requests of a stream after one of them failed; begins at full speed.

    Args:
        clock: The clock of the waits, and the source of randomness.
    """

    def __init__(self, clock: Clock = Clock()) -> None:
        self.failures: int = 0
        self._clock = clock
        self._not_before = 0.0
        self._failed_at = -math.inf

    @property
    def seconds(self) -> float:
        """How long to wait before the next request; 0 or less if it may be sent now."""
        return self._not_before - self._clock.now()

    async def wait(self) -> None:
        """Wait until a request may be sent."""
        while (seconds := self.seconds) > 0:
            await self._clock.sleep(seconds)

    def succeeded(self) -> None:
        """Go at full speed again."""
        self.failures = 0

    def failed(self, error: PerkamoError | None = None, sent_at: float = math.inf) -> None:
        """Delay the next request: by Retry-After, plus a random part of a time that doubles with each failure.

        Args:
            error: The error of the request.
            sent_at: When the request was sent, by the clock. Requests that were under way at the same time fail
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
