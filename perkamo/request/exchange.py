"""One logical call: attempts within one deadline, with waits between them, until there is an answer or a final error.

``retry`` decides what is retried, and ``attempt`` makes one request. This module puts them in order.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Final

from attrs import define, evolve, field, frozen

from perkamo.errors import PerkamoClosedError, PerkamoConfigurationError
from perkamo.hooks import Hook, Hooks
from perkamo.redaction import current_call
from perkamo.request.attempt import Sender
from perkamo.request.classify import Failure, Reply, logger
from perkamo.request.credentials import NOTHING_SENT
from perkamo.request.endpoints import Call
from perkamo.request.observation import Observation
from perkamo.request.options import check_hooks, check_timeout, check_type
from perkamo.request.retry import RetryPolicy, RetryQuota
from perkamo.runtime.clock import Clock


@frozen
class Exchange:
    """Sends calls; views with other options share the sender and the retry quota.

    Attributes:
        sender: The HTTP client, key and base URL.
        timeout: Seconds for a whole call, or None for no limit.
        retry: How often and for how long one call is tried.
        quota: Keeps retries from amplifying an outage.
        clock: The clock of deadlines and waits, and the source of jitter.
        hooks: The hooks that are notified of calls.
    """

    sender: Sender = field(repr=False)
    timeout: float | None
    retry: RetryPolicy
    quota: RetryQuota = field(factory=RetryQuota)
    clock: Clock = field(factory=Clock, repr=False)
    hooks: Hooks = field(factory=Hooks, repr=False)

    @classmethod
    def of(cls, sender: Sender, *, timeout: float | None, retry: RetryPolicy, hooks: Iterable[Hook]) -> "Exchange":
        """Check the options of a client, and return what sends its calls.

        Raises:
            PerkamoConfigurationError: A value can't work.
        """
        check_type(retry, RetryPolicy, "retry")
        return cls(sender=sender, timeout=check_timeout(timeout), retry=retry, hooks=check_hooks(hooks))

    def with_options(self, *, timeout: float | EllipsisType | None, retry: RetryPolicy | EllipsisType) -> "Exchange":
        """Return a view with other limits; ``...`` keeps one.

        Raises:
            PerkamoConfigurationError: A value can't work.
        """
        return evolve(
            self,
            timeout=self.timeout if isinstance(timeout, EllipsisType) else check_timeout(timeout),
            retry=self.retry if isinstance(retry, EllipsisType) else check_type(retry, RetryPolicy, "retry"),
        )

    async def send(self, call: Call) -> Reply:
        """Make the call, with retries, and return the 2xx answer.

        Raises:
            PerkamoApiError: The service answered with another status.
            PerkamoConnectionError: No complete answer came in time.
            PerkamoResponseError: The answer can't be trusted.
            PerkamoConfigurationError: The key supplier failed.
            PerkamoClosedError: The client is closed.
        """
        token = current_call.set(call.label)
        try:
            if not (self.hooks or logger.isEnabledFor(logging.INFO)):
                return await self._send(call, None)
            observation = Observation(call, self.hooks, self.clock, self.sender.server)
            error: BaseException | None = None
            try:
                return await self._send(call, observation)
            except BaseException as raised:
                error = raised
                raise
            finally:
                observation.ends(error, self.quota.tokens)
                error = None
        finally:
            current_call.reset(token)

    async def _send(self, call: Call, observation: Observation | None) -> Reply:
        if self.sender.client.is_closed:
            raise PerkamoClosedError(f"{call.label}: the client is closed. Nothing was sent.", outcome="not_sent")
        progress = _Progress(self.clock.now())
        deadline = math.inf if self.timeout is None else progress.began + self.timeout
        while True:
            progress.attempts += 1
            seconds = min(self.retry.attempt_timeout, deadline - self.clock.now())
            headers = _NO_HEADERS if observation is None else observation.attempt_starts()
            result = await self._attempt(call, seconds, progress, headers)
            wait = None if isinstance(result, Reply) else self._wait(result, progress, deadline - self.clock.now())
            if observation is not None:
                observation.attempt_ends(result, wait)
            if isinstance(result, Reply):
                self.quota.give_back(progress.taken)
                return result
            if self.sender.client.is_closed:
                raise PerkamoClosedError(
                    f"{call.label}: the client was closed during the call.",
                    outcome=result.error.outcome,
                    attempts=progress.attempts,
                )
            if wait is None:
                raise result.error
            if wait:
                await self.clock.sleep(wait)

    async def _attempt(
        self, call: Call, seconds: float, progress: "_Progress", headers: Mapping[str, str]
    ) -> Reply | Failure:
        uncertain = progress.uncertain
        try:
            return await self.sender.attempt(
                call,
                seconds,
                progress.attempts,
                uncertain=uncertain,
                headers=headers,
                clock=self.clock,
                began=progress.began,
            )
        except PerkamoConfigurationError as error:
            # The key supplier failed, perhaps after an attempt that reached the service.
            if not (uncertain and call.is_write):
                raise
            cause = error.__cause__
            problem = str(error).removesuffix(NOTHING_SENT)
        advice = "An earlier attempt may have been applied; sending it again with the same transaction id is safe."
        raise PerkamoConfigurationError(
            f"{call.label}: {problem} {advice}", outcome="unknown", attempts=progress.attempts - 1
        ) from cause

    def _wait(self, result: Failure, progress: "_Progress", remaining: float) -> float | None:
        """Return how long to wait before another attempt; None if there must not be one."""
        if self.sender.client.is_closed:
            return None
        progress.uncertain = progress.uncertain or result.error.outcome == "unknown"
        if result.clock_offset is not None and not progress.signed_again:
            progress.signed_again = True
            self.sender.clock_offset = result.clock_offset
            return 0.0
        progress.retries += 1
        wait = None
        if result.retry:
            wait = self.retry.wait(progress.retries, result.retry_after, remaining, self.clock.randomness())
        if wait is not None:
            progress.taken = self.quota.take(timed_out=result.timed_out)
        return wait if progress.taken else None


@define
class _Progress:
    """The state of a call.

    Attributes:
        began: When it began, by the clock.
        attempts: How many requests were made.
        retries: How many of these failed, without the one that was signed again after the clock was corrected.
        taken: The tokens that the last retry took from the quota.
        signed_again: Whether the clock was corrected.
        uncertain: Whether an attempt may have been applied.
    """

    began: float
    attempts: int = 0
    retries: int = 0
    taken: int = 0
    signed_again: bool = False
    uncertain: bool = False


_NO_HEADERS: Final[Mapping[str, str]] = {}
