"""retry: pure rules, each pinned."""

import random

import pytest

from perkamo import RetryPolicy
from perkamo.request.retry import FAILURES, QUOTA_CAPACITY, REJECTED_STATUSES, RetryQuota, Rule, rule_of_status

PASSING = Rule(call=True, stream=True, later=True)
LASTING = Rule(call=False, stream=False, later=False)
STREAM_ONLY = Rule(call=False, stream=True, later=False)


@pytest.mark.parametrize(
    ("status", "has_retry_after", "rule"),
    [
        *((status, False, PASSING) for status in (408, 425, 429, 500, 502, 503, 504, 520, 530)),
        *((status, False, LASTING) for status in (300, 302, 400, 401, 403, 404, 409, 413, 422)),
        *((status, True, LASTING) for status in (302, 400, 422)),
        *((status, True, STREAM_ONLY) for status in (501, 505, 519, 531, 599)),
        *((status, False, STREAM_ONLY) for status in (501, 505, 519, 531, 599)),
        (409, True, PASSING),
    ],
)
def test_the_table_of_statuses_holds(status: int, has_retry_after: bool, rule: Rule) -> None:
    """Each row of the table in the module's docstring, for calls, streams and later; catches a status that moved."""
    found = rule_of_status(status, has_retry_after=has_retry_after)

    assert found == rule
    assert (found.retry("call"), found.retry("stream")) == (rule.call, rule.stream)


def test_what_is_no_answer_is_in_the_same_table() -> None:
    """Only a connection and time pass; catches a refused certificate or a hook's error that is tried again."""
    again = {kind for kind, rule in FAILURES.items() if rule.call or rule.stream}

    assert again == {"connection", "timeout"}
    assert {kind for kind, rule in FAILURES.items() if rule.later} == {"connection", "timeout", "answer"}


def test_a_rejected_batch_is_not_sent_again_whole() -> None:
    """What halves a batch is nothing that passes by itself; catches a status that is both."""
    assert {rule_of_status(status, has_retry_after=True) for status in REJECTED_STATUSES} == {LASTING}


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
