"""pacing: one pace for all requests of a stream."""

import pytest

from perkamo.batching.pacing import FIRST_WAIT, Pace
from perkamo.errors import PerkamoRateLimitError
from perkamo.runtime.clock import Clock

pytestmark = pytest.mark.anyio


async def test_requests_that_were_on_their_way_together_fail_once() -> None:
    """The second to fourth refusal of one moment don't double the wait; one that was sent later does."""
    clock = Clock()
    pace = Pace(clock)
    sent_at = clock.now()

    for _ in range(4):
        pace.failed(None, sent_at)
    together = pace.failures
    pace.failed(None, clock.now() + 1)

    assert (together, pace.failures) == (1, 2)
    assert pace.seconds <= 2 * FIRST_WAIT


async def test_what_the_service_asks_for_holds_for_all_of_them() -> None:
    """Of several refusals the longest wait counts; catches one that is dropped with its failure."""
    clock = Clock()
    pace = Pace(clock)
    sent_at = clock.now()

    for seconds in (0.0, 20.0):
        pace.failed(PerkamoRateLimitError("", status=429, retry_after_seconds=seconds), sent_at)

    assert pace.failures == 1
    assert 15 < pace.seconds <= 20
