"""The sandbox's own clock. It runs with the machine's clock until a test stops or moves it."""

import math
import time
from datetime import UTC, datetime, timedelta

from perkamo.sandbox.process import ProcessLock


class Clock:
    """A clock that a test may stop and move. It is thread-safe.

    It sets the ``date`` header, the window of signature timestamps, the expiry of tokens and every ``…_at`` that the
    sandbox makes. It does not set the client's clock: if it is moved by more than the window, a client that does not
    correct its clock gets a 401.

    Args:
        lock: The lock of the whole sandbox.
        now: The time at which it is stopped at first, with a zone. None lets it run.
    """

    def __init__(self, lock: ProcessLock, now: datetime | None = None) -> None:
        self._lock = lock
        self._offset = 0.0
        self._frozen: float | None = None
        if now is not None:
            self.freeze(now)

    def time(self) -> float:
        """Return the time in Unix seconds."""
        with self._lock:
            return self._time()

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped."""
        return self._frozen is not None

    def freeze(self, at: datetime | None = None) -> None:
        """Stop the clock, now or at the given time.

        Args:
            at: A time with a zone; None for the present one.

        Raises:
            ValueError: The time has no zone.
        """
        if at is not None and at.tzinfo is None:
            raise ValueError("the time needs a zone, such as datetime(2026, 6, 1, tzinfo=UTC)")
        with self._lock:
            self._frozen = self._time() if at is None else at.timestamp()

    def advance(self, by: float | timedelta) -> None:
        """Move the clock, stopped or not.

        Args:
            by: Seconds or a timedelta; negative moves it back.

        Raises:
            ValueError: It is not a finite number of seconds.
        """
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if not math.isfinite(seconds):
            raise ValueError("the clock moves by a finite number of seconds")
        with self._lock:
            if self._frozen is None:
                self._offset += seconds
            else:
                self._frozen += seconds

    def resume(self) -> None:
        """Let a stopped clock run on from its time."""
        with self._lock:
            if self._frozen is not None:
                self._offset = self._frozen - time.time()
                self._frozen = None

    def reset(self) -> None:
        """Set it to the machine's time, and let it run."""
        with self._lock:
            self._offset, self._frozen = 0.0, None

    def _time(self) -> float:
        return time.time() + self._offset if self._frozen is None else self._frozen


def stamp(moment: float) -> str:
    """Return Unix seconds as the API writes times: UTC, milliseconds, ``Z``."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
