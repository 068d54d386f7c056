"""What is retried, and after how long: values and pure functions, no I/O.

Retries are safe because every attempt of a call sends the same bytes with the same transaction id, which the service
applies once (published).

| what happened                              | call | stream | later | why                                            |
| ------------------------------------------ | ---- | ------ | ----- | ---------------------------------------------- |
| no connection, broken connection, timeout  | yes  | yes    | yes   | passing; the transaction id makes it safe      |
| 408, 425, 429, 500, 502, 503, 504, 520-530 | yes  | yes    | yes   | the service or its gateway says "later"        |
| 409 with Retry-After                       | yes  | yes    | yes   | 409 is unpublished; the service names a time   |
| any other 5xx                              | no   | yes    | no    | a call would fail again; a stream has time     |
| an answer that can't be trusted            | no   | no     | yes   | a broken gateway; the caller decides           |
| 400, 413, 422                              | no   | no     | no    | an event is invalid: a batch is split          |
| any other 4xx, a redirect                  | no   | no     | no    | the same request would get the same answer     |
| TLS, a proxy or the request is refused     | no   | no     | no    | the next attempt would be refused, too         |
| an error of the caller's hook or transport | no   | no     | no    | the same code would fail again                 |
| TLS can't be set up on this machine        | no   | no     | no    | an environment variable names a wrong file     |

*call*: the call itself makes another attempt. *stream*: the stream connects again. *later*: ``retryable`` of a call's
error, by which ``Batcher``, ``emit_many`` and the outbox keep an event and send it again; a stream's says whether the
stream connects again.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from attrs import define, field, frozen
from attrs.validators import ge, gt, instance_of, le

Use: TypeAlias = Literal["call", "stream"]

FailureKind: TypeAlias = Literal[
    "connection", "timeout", "answer", "tls", "proxy", "redirect", "request", "client", "setup"
]
"""Why no answer came; the kind decides what is done about it."""

QUOTA_CAPACITY: Final = 500
QUOTA_COST: Final = 5
QUOTA_TIMEOUT_COST: Final = 10
"""As in botocore's standard mode: an outage sees at most 100 retries of a client before calls must succeed again."""


@frozen
class RetryPolicy:
    """How often and for how long one call is tried.

    Args:
        attempts: The most requests for one call, 1 to 10.
        attempt_timeout: Seconds for one attempt, answer included; the call's own timeout counts over all of them.
        base_delay: Seconds; the wait before retry n is drawn evenly from 0 to ``base_delay * 2**(n-1)`` (full jitter).
        max_delay: Seconds; no drawn wait is longer.
        max_retry_after: Seconds; if the service asks for a longer wait, the error is raised at once.

    Raises:
        ValueError: A number is out of its range.
        TypeError: A value is not a number.
    """

    attempts: int = field(default=3, validator=[instance_of(int), ge(1), le(10)])
    attempt_timeout: float = field(default=10.0, validator=[instance_of((int, float)), gt(0), le(86_400)])
    base_delay: float = field(default=0.5, validator=[instance_of((int, float)), ge(0), le(3_600)])
    max_delay: float = field(default=8.0, validator=[instance_of((int, float)), ge(0), le(3_600)])
    max_retry_after: float = field(default=60.0, validator=[instance_of((int, float)), ge(0), le(86_400)])

    @classmethod
    def none(cls) -> "RetryPolicy":
        """Return the policy that makes one attempt only."""
        return cls(attempts=1)

    def wait(self, retry: int, retry_after: float | None, remaining: float, jitter: float) -> float | None:
        """Return how long to wait before a retry, or None if there must not be one.

        Args:
            retry: The number of the retry, from 1.
            retry_after: Seconds that the service asked for, or None.
            remaining: Seconds that are left for the whole call.
            jitter: A random number from 0 to 1.
        """
        if retry >= self.attempts:
            return None
        drawn = jitter * min(self.max_delay, self.base_delay * 2 ** (retry - 1))
        if retry_after is not None and retry_after > self.max_retry_after:
            return None
        seconds = max(drawn, retry_after or 0.0)
        return seconds if seconds < remaining else None


@define
class RetryQuota:
    """Keeps retries from amplifying an outage: each retry takes tokens, and success gives them back."""

    tokens: int = QUOTA_CAPACITY

    def take(self, *, timed_out: bool) -> int:
        """Take the tokens of one retry and return their number; 0 if there are too few, so that there is no retry."""
        cost = QUOTA_TIMEOUT_COST if timed_out else QUOTA_COST
        if self.tokens < cost:
            return 0
        self.tokens -= cost
        return cost

    def give_back(self, taken: int) -> None:
        """Give back the tokens of the retry that succeeded, or one token after a success without a retry."""
        self.tokens = min(QUOTA_CAPACITY, self.tokens + (taken or 1))


@frozen
class Rule:
    """What is done after one kind of failure.

    Attributes:
        call: The call makes another attempt.
        stream: The stream connects again.
        later: The same call may succeed later; ``retryable`` of the error.
    """

    call: bool
    stream: bool
    later: bool

    def retry(self, use: Use) -> bool:
        """Return whether another attempt is made."""
        return self.call if use == "call" else self.stream


_PASSING: Final = Rule(call=True, stream=True, later=True)
_LASTING: Final = Rule(call=False, stream=False, later=False)

_PASSING_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
REJECTED_STATUSES: Final = frozenset({400, 413, 422})
"""An event of a batch is invalid; the others may be accepted without it."""

FAILURES: Final[Mapping[FailureKind, Rule]] = {
    "connection": _PASSING,
    "timeout": _PASSING,
    "answer": Rule(call=False, stream=False, later=True),
    "tls": _LASTING,
    "proxy": _LASTING,
    "redirect": _LASTING,
    "request": _LASTING,
    "client": _LASTING,
    "setup": _LASTING,
}


def rule_of_status(status: int, *, has_retry_after: bool) -> Rule:
    """Return what is done after an answer with this status; see the table above."""
    if status in _PASSING_STATUSES or (status == 409 and has_retry_after):
        return _PASSING
    return Rule(call=False, stream=True, later=False) if 500 <= status < 600 else _LASTING
