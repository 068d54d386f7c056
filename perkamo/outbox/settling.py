"""What happens to each event of a request: the judgement of its result, and who is to blame for a failure.

A request that fails is made again as it was, for most failures pass. After a few of them, or at once where others pass
meanwhile, its events travel in tens, then alone. An event that keeps failing alone while others pass waits by itself,
ever longer; one that breaks the service, or that the service does not decide about, becomes a dead letter after five
tries alone. While nothing passes, no event is to blame: each that failed alone stands back until the others were tried,
and is called back as soon as one of them passes, or when none is left to try.
"""

import math
from collections.abc import Sequence
from typing import Final

from attrs import define, evolve, field

from perkamo.batching.pacing import FIRST_WAIT
from perkamo.batching.split import MAX_REQUEST_EVENTS, EventResult, classify_result
from perkamo.errors import (
    PerkamoConflictError,
    PerkamoError,
    PerkamoEventError,
    PerkamoRateLimitError,
    PerkamoResponseError,
    PerkamoServerError,
    PerkamoTimeoutError,
)
from perkamo.outbox.store import StoredEvent
from perkamo.runtime.clock import Clock

MAX_SOLO_FAILURES: Final = 5
"""How often an event may fail alone before it is a dead letter, or is left to wait where time may yet repair it."""
LONGEST_PUT_OFF: Final = 300.0
"""The longest, in seconds, that an event waits by itself between two tries."""
_WHOLE: Final = 4
"""How often a request is made as it was, before its events travel in tens."""
ALONE: Final = _WHOLE + 1
SIZES: Final = (*[MAX_REQUEST_EVENTS] * _WHOLE, 10, 1)
"""How many events travel together, by the number of their failures."""
_AFTER_OTHERS: Final = 0.1
"""Seconds for which an event that failed alone lets others go first, so that it is seen whether these pass."""
_MAX_TURNS: Final = 10
_CALLED_BACK: Final = 2
"""How many events are called back when one passes: few, for the service may pass one and fail the next."""
_SERVER_ERROR: Final = 500


@define
class Settled:
    """The outcome of the events of one request.

    Attributes:
        delivered: The service answered for these.
        dead: These will never be accepted, each with the reason.
        later: These go on waiting, each with its number of failures and the seconds for which nobody takes it.
        stands_back: Whether these wait only so that others go first.
        due: These were told to wait by an earlier settlement, and need not any more.
        trouble: Why everything waits; None while others pass.
        is_answered: Whether the service accepted the key.
    """

    delivered: list[StoredEvent] = field(factory=list)
    dead: list[tuple[StoredEvent, str]] = field(factory=list)
    later: list[tuple[StoredEvent, int, float]] = field(factory=list)
    stands_back: bool = False
    due: Sequence[StoredEvent] = ()
    trouble: PerkamoError | None = None
    is_answered: bool = False


@define
class _Suspect:
    """An event that failed alone: when it did so first, when last, and how often without being to blame.

    While it stands back it is here as it is in the store, but for its bytes.
    """

    first: float
    last: float = -math.inf
    tries: int = 0
    standing_back: StoredEvent | None = None


class Settler:
    """Settles the events of one relay's requests."""

    def __init__(self, clock: Clock) -> None:
        self.given_up: set[int] = set()
        """Rows of events that failed alone again and again, for which whoever drains need not wait."""
        self._clock = clock
        self._has_blamed = False
        self._answered_at = -math.inf
        self._failed_together_at = -math.inf
        self._suspects: dict[int, _Suspect] = {}
        self._only_suspects_failed = True

    @property
    def turns(self) -> int:
        """For how many waits an event that failed alone stands back: the next ones in line may fail as it did."""
        return min(2 + 2 * len(self._suspects), _MAX_TURNS)

    def settle(self, events: Sequence[StoredEvent], results: Sequence[EventResult], sent_at: float) -> Settled:
        """Judge each result.

        Args:
            events: The events of one request.
            results: Their results, in order.
            sent_at: When they were sent, by the clock.
        """
        settled = Settled(is_answered=any(_is_answer(result) for result in results))
        if settled.is_answered:
            self._note_answer()
        for event, result in zip(events, results, strict=True):
            if not isinstance(result, PerkamoError) or (verdict := classify_result(result)) == "accepted":
                settled.delivered.append(event)
            elif verdict == "rejected":
                settled.dead.append((event, str(result)))
                self._note_answer()
            elif verdict == "undecided":
                is_alone = len(events) == 1 or isinstance(result, PerkamoConflictError)
                self._put_off(settled, event, max(event.failures, ALONE) + is_alone, result)
            else:
                self._fail(settled, event, result, sent_at, is_alone=len(events) == 1)
        if self._suspects or self.given_up:
            for event in settled.delivered + [event for event, _ in settled.dead]:
                self._suspects.pop(event.row, None)
                self.given_up.discard(event.row)
        if settled.is_answered:
            settled.due = self._call_back(_CALLED_BACK)
        return settled

    def forget(self) -> None:
        """Forget what failed: nothing waits, for another relay delivered it."""
        self._suspects.clear()
        self.given_up.clear()

    def call_back(self, longest: StoredEvent) -> Sequence[StoredEvent]:
        """Return what need not stand back any longer where no other event is left that could go first.

        Once an event was to blame since the last answer, it is none that failed before that answer, too: the service
        may fail for all of them, and each would be to blame in turn.

        Args:
            longest: The one that has stood back longest, whichever relay told it to.
        """
        if not self._has_blamed or longest.row not in self._suspects:
            return [longest]
        return self._call_back(1, failed_since=self._answered_at)

    def _call_back(self, most: int, failed_since: float = -math.inf) -> list[StoredEvent]:
        """Return the events that stand back since the longest time, which may be taken now."""
        suspects = self._suspects.values()
        standing = [suspect for suspect in suspects if suspect.standing_back and suspect.first >= failed_since]
        called = sorted(standing, key=lambda suspect: suspect.last)[:most]
        events = [suspect.standing_back for suspect in called if suspect.standing_back]
        for suspect in called:
            suspect.standing_back = None
        return events

    def _fail(
        self, settled: Settled, event: StoredEvent, error: PerkamoError, sent_at: float, *, is_alone: bool
    ) -> None:
        """Settle an event whose request failed."""
        if not error.retryable or isinstance(error, PerkamoRateLimitError):
            settled.trouble = error
            settled.later.append((event, event.failures, 0.0))
        elif is_alone:
            self._fail_alone(settled, event, error, sent_at)
        else:
            others_pass = self._answered_at > sent_at
            failures = event.failures + 1
            if others_pass or isinstance(error, PerkamoTimeoutError):  # a request that hangs is not made again for long
                failures = max(failures, _WHOLE)
            settled.later.append((event, failures, 0.0))
            settled.trouble = None if others_pass else error
            self._failed_together_at = sent_at
            self._only_suspects_failed = False

    def _fail_alone(self, settled: Settled, event: StoredEvent, error: PerkamoError, sent_at: float) -> None:
        suspect = self._suspects.setdefault(event.row, _Suspect(sent_at))
        others_passed = self._answered_at > suspect.first
        self._only_suspects_failed &= others_passed
        # Where nothing was tried since the last answer but what had failed before it, the service may still be well.
        is_to_blame = others_passed and (self._answered_at > suspect.last or self._only_suspects_failed)
        suspect.standing_back = None
        if is_to_blame or event.failures >= ALONE + MAX_SOLO_FAILURES:
            self._has_blamed = True
            self._put_off(settled, event, max(event.failures, ALONE) + 1, error)
        else:
            settled.trouble = error
            settled.later.append((event, event.failures, _AFTER_OTHERS))
            settled.stands_back = True
            suspect.standing_back = evolve(event, body=b"")
            suspect.tries += 1
            # It failed with others, who passed without it, here or by what another relay noted; then nothing was left
            # to try beside it. That is too little to call it dead, for an outage may have begun, and too much to wait
            # for it any longer.
            passed_without = -math.inf < self._failed_together_at < self._answered_at or event.failures > ALONE
            if suspect.tries >= MAX_SOLO_FAILURES and passed_without:
                self.given_up.add(event.row)
        suspect.last = self._clock.now()

    def _note_answer(self) -> None:
        self._answered_at = self._clock.now()
        self._has_blamed = False
        self._only_suspects_failed = True

    def _put_off(self, settled: Settled, event: StoredEvent, failures: int, error: PerkamoError) -> None:
        """Let an event wait by itself, or for good if it is its own fault and was tried often enough."""
        solo = failures - ALONE
        may_pass = classify_result(error) == "failed" and not _breaks_the_service(error)
        if solo >= MAX_SOLO_FAILURES and not may_pass:
            settled.dead.append((event, str(error)))
            return
        if solo >= MAX_SOLO_FAILURES:
            self.given_up.add(event.row)
        wait = min(LONGEST_PUT_OFF, FIRST_WAIT * 2.0 ** min(solo - 1, 20)) if solo else 0.0
        settled.later.append((event, failures, wait * self._clock.randomness()))


def _is_answer(result: EventResult) -> bool:
    return not isinstance(result, PerkamoError) or isinstance(result, PerkamoEventError)


def _breaks_the_service(error: PerkamoError) -> bool:
    is_server_error = isinstance(error, PerkamoServerError) and error.status == _SERVER_ERROR
    return is_server_error or isinstance(error, PerkamoResponseError)
