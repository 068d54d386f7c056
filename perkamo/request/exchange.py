"""One logical call: attempts within one deadline, with waits between them, until an answer or an error stands.

What is retried is said in ``retry``; how a request is made, in ``attempt``. Here is the order of things only.
"""

import math

from attrs import evolve, field, frozen

from perkamo.clock import Clock
from perkamo.errors import PerkamoClosedError, PerkamoConfigurationError, PerkamoError
from perkamo.redaction import current_call
from perkamo.request.attempt import Sender
from perkamo.request.classify import Failure, Reply, logger
from perkamo.request.credentials import NOTHING_SENT
from perkamo.request.endpoints import Call
from perkamo.request.retry import RetryPolicy, RetryQuota


@frozen
class Exchange:
    """Sends calls over a wire; views with other options share wire and retry quota.

    Attributes:
        sender: The HTTP client, key and base URL.
        timeout: Seconds for a whole call, or None for no limit.
        retry: How often and how patiently one call is tried.
        quota: What keeps retries from amplifying an outage.
        clock: What deadlines and waits go by, and where jitter comes from.
    """

    sender: Sender = field(repr=False)
    timeout: float | None
    retry: RetryPolicy
    quota: RetryQuota = field(factory=RetryQuota)
    clock: Clock = field(factory=Clock, repr=False)

    def with_options(self, *, timeout: float | None, retry: RetryPolicy) -> "Exchange":
        """Return a view with other limits."""
        return evolve(self, timeout=timeout, retry=retry)

    async def send(self, call: Call) -> Reply:
        """Make the call, again where that is due, and return the 2xx answer.

        Raises:
            PerkamoApiError: The service answered with another status.
            PerkamoConnectionError: No complete answer came, or not in time.
            PerkamoResponseError: The answer can't be trusted.
            PerkamoConfigurationError: The key supplier failed.
            PerkamoClosedError: The client is closed.
        """
        if self.sender.client.is_closed:
            raise PerkamoClosedError(f"{call.label}: the client is closed. Nothing was sent.", outcome="not_sent")
        token = current_call.set(call.label)
        try:
            return await self._send(call)
        finally:
            current_call.reset(token)

    async def _send(self, call: Call) -> Reply:
        deadline = math.inf if self.timeout is None else self.clock.now() + self.timeout
        number = retries = taken = 0
        signed_again = uncertain = False
        while True:
            number += 1
            seconds = min(self.retry.attempt_timeout, deadline - self.clock.now())
            result = await self._attempt(call, seconds, number, uncertain=uncertain)
            if isinstance(result, Reply):
                self.quota.give_back(taken)
                return result
            if self.sender.client.is_closed:
                raise PerkamoClosedError(
                    f"{call.label}: the client was closed during the call.",
                    outcome=result.error.outcome,
                    attempts=number,
                )
            uncertain = uncertain or result.error.outcome == "unknown"
            if result.clock_offset is not None and not signed_again:
                signed_again = True
                self.sender.clock_offset = result.clock_offset
                logger.info(
                    "%s: 401; signing again with the clock put right by %.0f s", call.label, result.clock_offset
                )
                continue
            retries += 1
            wait = self._wait(result, retries, deadline - self.clock.now())
            if wait is None:
                break
            taken = self.quota.take(timed_out=result.timed_out)
            if not taken:
                break
            logger.info("%s: %s; attempt %d follows in %.3f s", call.label, _kind(result), number + 1, wait)
            await self.clock.sleep(wait)
        raise result.error

    async def _attempt(self, call: Call, seconds: float, number: int, *, uncertain: bool) -> Reply | Failure:
        try:
            return await self.sender.attempt(call, seconds, number, uncertain=uncertain)
        except PerkamoConfigurationError as error:
            # The key's supplier failed, maybe after an attempt that reached the service.
            if not (uncertain and call.is_write):
                raise
            cause = error.__cause__
            problem = str(error).removesuffix(NOTHING_SENT)
        advice = "An earlier attempt may have been applied; sending it again with the same transaction id is safe."
        raise PerkamoConfigurationError(
            f"{call.label}: {problem} {advice}", outcome="unknown", attempts=number - 1
        ) from cause

    def _wait(self, result: Failure, retries: int, remaining: float) -> float | None:
        if not result.retry:
            return None
        return self.retry.wait(retries, result.retry_after, remaining, self.clock.randomness())


def _kind(result: Failure) -> str:
    error: PerkamoError = result.error
    return f"{type(error).__name__} {getattr(error, 'status', '')}".rstrip()
