"""The waits between connections of a stream, without a stream."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from perkamo.stream.reconnect import Backoff, ReconnectPolicy

PLAIN = ReconnectPolicy(base_delay=1.0, max_delay=30.0, jitter=0.0)


def waits(backoff: Backoff, count: int, chance: float = 0.0) -> list[float | None]:
    """The waits after so many failures in a row."""
    made: list[float | None] = []
    for _ in range(count):
        wait, backoff = backoff.step(chance)
        made.append(wait)
    return made


def test_waits_double_up_to_the_cap() -> None:
    """Each failed attempt doubles the wait, and none is longer than max_delay."""
    assert waits(Backoff(PLAIN), 7) == [1, 2, 4, 8, 16, 30, 30]


def test_a_strategy_is_never_changed() -> None:
    """A step returns the next strategy and leaves the one it was asked of as it was."""
    before = Backoff(PLAIN)

    before.step(0.5)

    assert before == Backoff(PLAIN)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_jitter_stays_between_the_wait_and_the_cap(chance: float) -> None:
    """Whatever chance says, a wait lies between the plain one and its double, and at most at the cap."""
    jittered = waits(Backoff(ReconnectPolicy(base_delay=1.0, max_delay=30.0, jitter=1.0)), 12, chance)

    for plain, wait in zip((1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15, 15), jittered, strict=True):
        assert wait is not None
        assert wait == pytest.approx(plain * (1 + chance))
        assert wait <= 30


def test_a_thousand_clients_do_not_come_back_at_once() -> None:
    """When one server drops them all, no tenth of a second sees more than a twentieth of them."""
    randomness = random.Random(5)
    backoff = Backoff(ReconnectPolicy())

    bins = Counter(int((backoff.step(randomness.random())[0] or 0) * 10) for _ in range(1000))

    assert max(bins.values()) <= 50


def test_the_streams_retry_is_the_base_and_a_minimum() -> None:
    """``retry: 1500`` makes the waits 1.5, 3, 6 … and no jitter shortens them."""
    asked = Backoff(PLAIN).with_retry(1500)

    assert waits(asked, 3) == [1.5, 3, 6]
    assert waits(Backoff(ReconnectPolicy(jitter=1.0)).with_retry(1500), 1, 0.0) == [1.5]


def test_a_retry_stays_until_another_one_comes() -> None:
    """The reconnection time belongs to the stream: success and connections without one keep it."""
    backoff = Backoff(PLAIN).with_retry(1500)

    _, backoff = backoff.step(0.0, failed=False)
    kept = backoff.with_retry(None)

    assert waits(kept, 1) == [1.5]
    assert waits(kept.with_retry(200), 1) == [0.2]


def test_a_retry_of_zero_makes_no_busy_loop() -> None:
    """The first wait may be none at all; from the second failed attempt on the policy's own base counts."""
    assert waits(Backoff(PLAIN).with_retry(0), 4) == [0, 2, 4, 8]


def test_a_long_retry_is_honoured_within_bounds() -> None:
    """The service may ask for more than max_delay, but not for more than max_asked."""
    policy = ReconnectPolicy(base_delay=1.0, max_delay=30.0, jitter=0.0, max_asked=300.0)

    assert waits(Backoff(policy).with_retry(60_000), 3) == [60, 60, 60]
    assert waits(Backoff(policy).with_retry(86_400_000), 2) == [300, 300]


def test_jitter_adds_little_to_a_wait_that_was_asked_for() -> None:
    """Clients that were all told the same time are spread by half the cap at most."""
    backoff = Backoff(ReconnectPolicy(max_delay=30.0, jitter=1.0))

    assert backoff.step(1.0, 300.0)[0] == 315


@pytest.mark.parametrize(("asked", "wait"), [(None, 1), (0.0, 1), (0.5, 1), (20.0, 20), (120.0, 120), (9e9, 300)])
def test_retry_after_is_a_minimum_within_bounds(asked: float | None, wait: float) -> None:
    """Retry-After lengthens a wait, never shortens it, and counts up to max_asked."""
    assert Backoff(PLAIN).step(0.0, asked)[0] == wait


def test_progress_starts_the_count_again() -> None:
    """After a connection that was worth while, the wait is the first one, and so is that of the next failure."""
    backoff = Backoff(PLAIN)
    for _ in range(5):
        _, backoff = backoff.step(0.0)

    wait, backoff = backoff.step(0.0, failed=False)

    assert wait == 1
    assert waits(backoff, 3) == [1, 2, 4]


def test_attempts_are_bounded() -> None:
    """The last of so many failed attempts in a row is followed by none; progress gives all of them back."""
    backoff = Backoff(ReconnectPolicy(base_delay=1.0, jitter=0.0, attempts=3))

    assert waits(backoff, 3) == [1, 2, None]
    for _ in range(2):
        _, backoff = backoff.step(0.0)
    wait, backoff = backoff.step(0.0, failed=False)
    assert wait == 1
    assert waits(backoff, 3) == [1, 2, None]


def test_without_a_bound_a_stream_goes_on_for_ever() -> None:
    """Thousands of failures neither end it nor overflow."""
    endless = waits(Backoff(ReconnectPolicy(attempts=None, jitter=0.0)), 5000)

    assert endless[-1] == 30


@pytest.mark.parametrize(
    "wrong",
    [{"base_delay": -1}, {"max_delay": 1e9}, {"jitter": 1.5}, {"attempts": 0}, {"max_asked": -1}, {"base_delay": "3"}],
)
def test_a_policy_out_of_range_is_refused(wrong: Mapping[str, object]) -> None:
    """Values that can't work fail where they are written."""
    with pytest.raises((ValueError, TypeError)):
        ReconnectPolicy(**wrong)  # type: ignore[arg-type]  # the point of the test
