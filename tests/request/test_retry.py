"""retry: pure rules, each pinned."""

import random
from datetime import UTC, datetime

import pytest

from perkamo import RetryPolicy
from perkamo.request.retry import QUOTA_CAPACITY, RetryQuota, is_retried, parse_http_date, parse_retry_after

NOW = datetime(2026, 6, 1, 10, 0, 0, tzinfo=UTC).timestamp()

# Row F31: what a Retry-After header may say, and what is made of it.
RETRY_AFTER: list[tuple[str | None, float | None]] = [
    (None, None),
    ("0", 0.0),
    ("1", 1.0),
    ("120", 120.0),
    ("999999999", 999_999_999.0),
    ("9999999999", None),
    ("99999999999999999999", None),
    ("-1", None),
    ("+7", None),
    ("1.5", None),
    ("1e3", None),
    ("inf", None),
    ("nan", None),
    ("", None),
    (" ", None),
    (" 5 ", 5.0),
    ("\t5", 5.0),
    ("5;x", None),
    ("5, 6", None),
    ("1_0", None),
    ("\uff11\uff12", None),
    ("\u0663", None),
    ("0x10", None),
    ("\udcff", None),
    ("soon", None),
    ("Mon, 01 Jun 2026 10:01:00 GMT", 60.0),
    ("Mon, 01 Jun 2026 10:00:00 GMT", 0.0),
    ("Mon, 01 Jun 2026 09:00:00 GMT", 0.0),
    ("Tue, 01 Jun 2027 10:00:00 GMT", 365 * 86400.0),
    ("Mon, 01 Jun 2026 10:00:60 GMT", None),
    ("Mon, 01 Jun 2026 10:60:00 GMT", None),
    ("Mon, 01 Jun 2026 24:00:00 GMT", None),
    ("Mon, 31 Feb 2026 10:00:00 GMT", None),
    ("Mon, 01 Jun 99999 10:00:00 GMT", None),
    ("Mon, 01 Jun 0000 10:00:00 GMT", None),
    ("Mon, 01 Jun 2026 10:00:00", None),
    ("Mon, 01 Jun 2026 10:00:00 CET", None),
    ("Mon, 01 Jun 2026 10:00:00 +0000", None),
    ("Zun, 01 Jun 2026 10:00:00 GMT", None),
    ("Mon Jun  1 10:00:30 2026", 30.0),
    ("Mon Jun 01 10:00:30 2026", 30.0),
    ("Monday, 01-Jun-26 10:00:45 GMT", 45.0),
    ("Tuesday, 01-Jun-99 10:00:45 GMT", 0.0),
    ("2026-06-01T10:01:00Z", None),
]


@pytest.mark.parametrize(("text", "seconds"), RETRY_AFTER)
def test_retry_after_is_read_strictly(text: str | None, seconds: float | None) -> None:
    """What is not plain seconds or an HTTP date counts as absent; catches float(), int() and email.utils (row F31)."""
    assert parse_retry_after(text, NOW) == seconds


def test_a_two_digit_year_lies_within_fifty_years() -> None:
    """RFC 9110: a year that seems more than 50 years ahead is past; catches a fixed pivot."""
    years = {
        text: datetime.fromtimestamp(parse_http_date(f"Monday, 01-Jun-{text} 10:00:00 GMT", NOW) or 0, UTC).year
        for text in ("26", "76", "77", "99")
    }

    assert years == {"26": 2026, "76": 2076, "77": 1977, "99": 1999}


@pytest.mark.parametrize(
    ("status", "has_retry_after", "again"),
    [
        *((status, False, True) for status in (408, 425, 429, 500, 502, 503, 504, 520, 530)),
        *((status, False, False) for status in (300, 302, 400, 401, 403, 404, 409, 413, 422, 501, 505, 519, 531)),
        *((status, True, False) for status in (400, 422, 501)),
        (409, True, True),
    ],
)
def test_the_table_of_statuses_holds(status: int, has_retry_after: bool, again: bool) -> None:
    """Each row of the table in the module's docstring; catches a status that moved."""
    assert is_retried(status, has_retry_after=has_retry_after) is again


def test_waits_are_drawn_evenly_and_grow_to_the_cap() -> None:
    """Full jitter: from 0 to base * 2**(n-1), never above the cap; catches equal jitter and an uncapped power."""
    policy = RetryPolicy(attempts=10, base_delay=0.5, max_delay=8.0)

    tops = [policy.wait(retry, None, 1e9, 1.0) for retry in range(1, 10)]

    assert tops == [0.5, 1, 2, 4, 8, 8, 8, 8, 8]
    assert policy.wait(3, None, 1e9, 0.0) == 0.0
    assert policy.wait(3, None, 1e9, 0.25) == 0.5


def test_a_wait_honours_retry_after_within_its_bounds() -> None:
    """The longer of draw and Retry-After, None above the cap or the budget; catches trust without bounds (P8)."""
    policy = RetryPolicy(max_retry_after=60.0)

    assert policy.wait(1, 7.0, 30.0, 1.0) == 7.0
    assert policy.wait(1, 0.1, 30.0, 1.0) == 0.5
    assert policy.wait(1, 60.0, 100.0, 1.0) == 60.0
    assert policy.wait(1, 60.1, 100.0, 1.0) is None
    assert policy.wait(1, 30.0, 30.0, 1.0) is None
    assert policy.wait(1, None, 0.0, 0.0) is None


def test_the_last_attempt_is_not_waited_for() -> None:
    """Attempts counts all requests; catches one too many."""
    assert RetryPolicy(attempts=3).wait(2, None, 1e9, 1.0) == 1.0
    assert RetryPolicy(attempts=3).wait(3, None, 1e9, 1.0) is None
    assert RetryPolicy.none().wait(1, None, 1e9, 1.0) is None


def test_the_quota_ends_retries_in_an_outage_and_comes_back_with_success() -> None:
    """100 retries, then none until calls succeed; a timeout costs double; catches a quota that never runs dry (P7)."""
    quota = RetryQuota()

    taken = 0
    while quota.take(timed_out=False):
        taken += 1

    assert taken == 100
    for _ in range(5):
        quota.give_back(0)
    assert quota.take(timed_out=True) == 0
    assert quota.take(timed_out=False) == 5


def test_the_quota_never_exceeds_its_capacity() -> None:
    """Success can't save up retries for the next outage; catches an unbounded count."""
    quota = RetryQuota()

    quota.give_back(0)
    quota.give_back(10)

    assert quota.tokens == QUOTA_CAPACITY


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 11},
        {"attempts": 1.5},
        {"attempt_timeout": 0},
        {"attempt_timeout": float("nan")},
        {"base_delay": -1},
        {"max_delay": "8"},
        {"max_retry_after": float("inf")},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    """Numbers out of range raise at construction; catches a policy that fails in the middle of an outage."""
    with pytest.raises((ValueError, TypeError)):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # what a caller without a type checker may pass


def test_two_clients_do_not_wait_alike() -> None:
    """Draws differ; catches a shared seed, which would make a herd."""
    policy = RetryPolicy()

    draws = {policy.wait(1, None, 1e9, random.random()) for _ in range(100)}

    assert len(draws) > 90
