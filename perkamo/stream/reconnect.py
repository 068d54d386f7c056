"""When a stream reconnects: a policy, and an immutable strategy whose steps return the next strategy.

Pure functions: time and chance are arguments.
"""

from typing import Final

from attrs import evolve, field, frozen
from attrs.validators import ge, instance_of, le

HEALTHY_SECONDS: Final = 60.0
"""A connection that was open for this long is a success, even if the customer did not change meanwhile."""


def _check_attempts(_: object, __: object, value: object) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError("attempts must be a whole number of 1 or more, or None")


@frozen
class ReconnectPolicy:
    """How a stream reconnects.

    The wait after failed attempt n is ``base_delay * 2**(n-1)``, at most ``max_delay``. A ``retry`` field of the stream
    replaces ``base_delay``; if it is shorter, it does so for the first wait only. ``jitter`` spreads the waits of many
    clients. An attempt failed if it brought no update, and its connection was open for less than a minute.

    Args:
        base_delay: Seconds before the first reconnection, if the stream does not set them.
        max_delay: Seconds; no wait is longer, unless the service asks for it.
        jitter: 0 to 1: each wait is lengthened at random by up to this share, and stays within ``max_delay``.
        attempts: How many failed attempts in a row end the stream with an error; None to reconnect without end.
        max_asked: Seconds; the longest wait that ``retry`` or Retry-After may ask for. A longer one counts as this.

    Raises:
        ValueError: A number is out of its range.
        TypeError: A value is not a number.
    """

    base_delay: float = field(default=3.0, validator=[instance_of((int, float)), ge(0), le(3_600)])
    max_delay: float = field(default=30.0, validator=[instance_of((int, float)), ge(0), le(3_600)])
    jitter: float = field(default=1.0, validator=[instance_of((int, float)), ge(0), le(1)])
    attempts: int | None = field(default=20, validator=_check_attempts)
    max_asked: float = field(default=300.0, validator=[instance_of((int, float)), ge(0), le(86_400)])


DEFAULT_RECONNECT: Final = ReconnectPolicy()


@frozen
class Backoff:
    """The current state of reconnecting.

    Attributes:
        policy: The caller's policy.
        retry: Seconds that the stream asked for with ``retry``; None if it did not.
        failures: Failed attempts in a row.
    """

    policy: ReconnectPolicy
    retry: float | None = None
    failures: int = 0

    def with_retry(self, retry_ms: int | None) -> "Backoff":
        """Return the strategy after a connection that set this reconnection time; None keeps the time as it was."""
        if retry_ms is None:
            return self
        return evolve(self, retry=retry_ms / 1000)

    def step(
        self, randomness: float, retry_after: float | None = None, *, failed: bool = True
    ) -> tuple[float | None, "Backoff"]:
        """Record a lost connection or a failed attempt.

        Args:
            randomness: A random number from 0 to 1.
            retry_after: Seconds that the answer asked for, or None.
            failed: Whether it failed; otherwise the count starts again.

        Returns:
            The seconds to wait, or None to give up; and the next strategy.
        """
        after = evolve(self, failures=self.failures + 1 if failed else 0)
        policy = self.policy
        if policy.attempts is not None and after.failures >= policy.attempts:
            return None, after
        ceiling = policy.max_delay / (1 + policy.jitter)
        wait = max(min(self._grown(after.failures), ceiling), self._asked(retry_after))
        return wait + randomness * policy.jitter * min(wait, ceiling), after

    def _grown(self, failures: int) -> float:
        base = self.policy.base_delay if self.retry is None else self.retry
        if failures > 1:
            base = max(base, self.policy.base_delay)  # retry: 0 must not make a loop without a pause
        return base * 2.0 ** min(max(failures - 1, 0), 32)

    def _asked(self, retry_after: float | None) -> float:
        return min(max(self.retry or 0.0, retry_after or 0.0), self.policy.max_asked)
