"""What happens to a task whose call failed: tried again after a while, or refused. Without any framework."""

from typing import Final

from perkamo.batching.pacing import FIRST_WAIT, LONGEST_RETRY_AFTER
from perkamo.batching.split import classify_result
from perkamo.errors import PerkamoApiError, PerkamoError
from perkamo.runtime.clock import Clock

MAX_UNDECIDED: Final = 5
"""How often a task is tried again whose event is refused for a reason that may pass."""
_LONGEST_WAIT: Final = 300.0
_CLOCK: Final = Clock()


def wait_after(error: PerkamoError, tries: int) -> float | None:
    """Return the seconds after which a task is to be tried again; None where it would be refused again.

    What is not the fault of an event, such as a refused key, is tried again for as long as it takes.

    Args:
        error: Why the call failed.
        tries: How often the task was tried again before.
    """
    verdict = classify_result(error)
    if verdict == "rejected" or (verdict == "undecided" and tries >= MAX_UNDECIDED):
        return None
    asked = error.retry_after_seconds if isinstance(error, PerkamoApiError) else None
    growing = min(_LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 20))
    return min(asked or 0.0, LONGEST_RETRY_AFTER) + growing * _CLOCK.randomness()
