"""Which attempts are made again, and after how long: values and pure functions, no I/O.

What is retried, and why it is safe: every attempt of a call sends the same bytes with the same transaction id, which
the service applies once (published).

| what happened                                | again? | why                                                   |
| -------------------------------------------- | ------ | ----------------------------------------------------- |
| no connection, broken connection, timeout    | yes    | passing faults; the transaction id makes it safe      |
| 408, 425, 429, 500, 502, 503, 504, 520-530   | yes    | the service or its gateway says "later"               |
| 409 with Retry-After                         | yes    | its meaning is unpublished; only when it says when    |
| a certificate or host name that is refused   | no     | the next attempt would see the same                   |
| any other 4xx, 501, 505, a redirect          | no     | the same request would get the same answer            |
| an answer that can't be trusted              | no     | a broken gateway; the caller decides                  |
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import define, field, frozen
from attrs.validators import ge, gt, instance_of, le

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})

QUOTA_CAPACITY: Final = 500
QUOTA_COST: Final = 5
QUOTA_TIMEOUT_COST: Final = 10
"""As in botocore's standard mode: an outage sees at most 100 retries of a client before calls must succeed again."""


@frozen
class RetryPolicy:
    """How often and how patiently one call is tried.

    Args:
        attempts: The most requests for one call, 1 to 10.
        attempt_timeout: Seconds for one attempt, answer included; the call's own timeout counts over all of them.
        base_delay: Seconds; the wait before retry n is drawn evenly from 0 to ``base_delay * 2**(n-1)`` (full jitter).
        max_delay: Seconds; no drawn wait is longer.
        max_retry_after: Seconds; where the service asks for a longer wait, the error is raised at once instead.

    Raises:
        ValueError: A number is out of its range.
        TypeError: A value is no number.
    """

    attempts: int = field(default=3, validator=[instance_of(int), ge(1), le(10)])
    attempt_timeout: float = field(default=10.0, validator=[instance_of((int, float)), gt(0), le(86_400)])
    base_delay: float = field(default=0.5, validator=[instance_of((int, float)), ge(0), le(3_600)])
    max_delay: float = field(default=8.0, validator=[instance_of((int, float)), ge(0), le(3_600)])
    max_retry_after: float = field(default=60.0, validator=[instance_of((int, float)), ge(0), le(86_400)])

    @classmethod
    def none(cls) -> "RetryPolicy":
        """Return the policy that makes one attempt."""
        return cls(attempts=1)

    def wait(self, retry: int, retry_after: float | None, remaining: float, jitter: float) -> float | None:
        """Tell how long to wait before a retry, or None when there must be none.

        Args:
            retry: Which retry this is, from 1.
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
    """What keeps retries from amplifying an outage: each takes tokens, success gives them back."""

    tokens: int = QUOTA_CAPACITY

    def take(self, *, timed_out: bool) -> int:
        """Take the tokens of one retry and return their number; 0 when there are too few, and no retry is due."""
        cost = QUOTA_TIMEOUT_COST if timed_out else QUOTA_COST
        if self.tokens < cost:
            return 0
        self.tokens -= cost
        return cost

    def give_back(self, taken: int) -> None:
        """Give back what the retry that succeeded had taken, or one token after a clean success."""
        self.tokens = min(QUOTA_CAPACITY, self.tokens + (taken or 1))


def is_retried(status: int, *, has_retry_after: bool) -> bool:
    """Tell whether an answer with this status is worth another attempt; see the table above."""
    return status in RETRIED_STATUSES or (status == 409 and has_retry_after)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Read a ``retry-after`` header.

    Args:
        text: The raw header: whole seconds of at most nine digits, or an HTTP date in one of its three forms.
        now: Unix seconds.

    Returns:
        Seconds to wait, never negative; None when absent or written in any other way.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = parse_http_date(text, now)
    return None if moment is None else max(0.0, moment - now)


def parse_http_date(text: str, now: float) -> float | None:
    """Read an HTTP date as Unix seconds; None when it is written in none of the three forms of RFC 9110.

    Args:
        text: The raw date.
        now: Unix seconds, which tell the century of a date with two digits of the year.
    """
    match = next((found for form in _DATES if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    year, month = int(match["year"]), _MONTHS.index(match["month"]) + 1
    if len(match["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    clock = timedelta(hours=int(match["hour"]), minutes=int(match["minute"]), seconds=int(match["second"]))
    if clock >= timedelta(days=1) or int(match["minute"]) > 59 or int(match["second"]) > 59:
        return None
    try:
        return (datetime(year, month, int(match["day"]), tzinfo=UTC) + clock).timestamp()
    except (ValueError, OverflowError):
        return None


_SECONDS = re.compile(r"[0-9]{1,9}")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES: Final = (
    re.compile(rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"),
    re.compile(
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
    ),
    re.compile(rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"),
)
