"""Who is to blame: what happens to each event of a request, without a service and without a store."""

from collections.abc import Sequence

import pytest
from attrs import evolve

from perkamo.errors import (
    PerkamoAuthenticationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoEventError,
    PerkamoPermissionError,
    PerkamoRateLimitError,
    PerkamoResponseError,
    PerkamoServerError,
    PerkamoTimeoutError,
)
from perkamo.models import EventIngestResponse
from perkamo.outbox.settling import ALONE, LONGEST_PUT_OFF, MAX_SOLO_FAILURES, SIZES, Settled, Settler
from perkamo.outbox.store import StoredEvent
from perkamo.runtime.clock import Clock

ACCEPTED = EventIngestResponse(
    applied=True, duplicate=False, delta=(), leveled_up=False, unlocked=(), wallet_state={}, level=None
)


class Steps(Clock):
    """A clock that a test sets, and that draws the longest waits."""

    time = 0.0

    def now(self) -> float:
        """Return what the test set."""
        return self.time

    def randomness(self) -> float:
        """Draw the longest."""
        return 1.0


class Trial:
    """A relay's settler, and a queue of events as a store would keep it."""

    def __init__(self) -> None:
        self.clock = Steps()
        self.settler = Settler(self.clock)

    def send(self, events: Sequence[StoredEvent], *results: EventIngestResponse | PerkamoError) -> Settled:
        """Send events in one request, which takes a second."""
        sent_at = self.clock.time
        self.clock.time += 1
        given = list(results) if len(results) == len(events) else [results[0] for _ in events]
        return self.settler.settle(events, given, sent_at)

    def others_pass(self) -> None:
        """Let a request with others pass."""
        self.send(stored(1, first=1000), ACCEPTED)


def stored(number: int, *, failures: int = 0, first: int = 0) -> list[StoredEvent]:
    """Make events."""
    return [StoredEvent(row, f"t{row}", b"{}", failures) for row in range(first, first + number)]


def server_error(status: int) -> PerkamoServerError:
    """Return what stands for a 5xx."""
    return PerkamoServerError(f"{status}", status=status, outcome="unknown", retryable=True)


def timeout() -> PerkamoTimeoutError:
    """Return what stands for a request that hung."""
    return PerkamoTimeoutError("hung", outcome="unknown", retryable=True)


PASSING = [
    server_error(502),
    server_error(503),
    PerkamoConnectionError("closed", outcome="unknown", retryable=True),
    timeout(),
]
BREAKING = [server_error(500), PerkamoResponseError("cut", status=200, outcome="unknown")]
by_error = pytest.mark.parametrize("error", [*PASSING, *BREAKING], ids=lambda error: f"{type(error).__name__} {error}")


@pytest.fixture
def trial() -> Trial:
    """A fresh one."""
    return Trial()


def failures(settled: Settled) -> list[int]:
    """Return the numbers of failures of what goes on waiting."""
    return [number for _, number, _ in settled.later]


def test_each_result_is_judged_by_itself(trial: Trial) -> None:
    """Accepted, accepted though unreadable, refused, undecided: four ways in one answer."""
    results: list[EventIngestResponse | PerkamoError] = [
        ACCEPTED,
        PerkamoEventError("odd", accepted=True),
        PerkamoEventError("no", outcome="rejected"),
        PerkamoEventError("hm", outcome="unknown"),
    ]

    settled = trial.send(stored(4), *results)

    assert [event.row for event in settled.delivered] == [0, 1]
    assert [(event.row, reason) for event, reason in settled.dead] == [(2, "no")]
    assert [(event.row, number) for event, number, _ in settled.later] == [(3, ALONE)]
    assert (settled.trouble, settled.is_answered) == (None, True)


@pytest.mark.parametrize(
    "error",
    [
        PerkamoEventError("hm", outcome="unknown"),
        PerkamoConflictError("409", status=409, outcome="rejected"),
    ],
    ids=["item", "409"],
)
def test_what_the_service_does_not_decide_about_is_given_five_tries_alone(trial: Trial, error: PerkamoError) -> None:
    """Then it is a dead letter with the item's words; meanwhile it waits ever longer."""
    (event,) = stored(1, failures=ALONE)
    waits: list[float] = []

    for _ in range(MAX_SOLO_FAILURES - 1):
        settled = trial.send([event], error)
        ((_, number, seconds),) = settled.later
        event = evolve(event, failures=number)
        waits.append(seconds)
    settled = trial.send([event], error)

    assert waits == sorted(set(waits))
    assert [reason for _, reason in settled.dead] == [str(error)]


@by_error
def test_a_request_that_fails_is_made_again_as_it_was(trial: Trial, error: PerkamoError) -> None:
    """For most failures pass; only one that hangs is not made again for long."""
    events = stored(50)
    together: list[int] = []

    while events[0].failures < ALONE:
        together.append(min(len(events), SIZES[events[0].failures]))
        settled = trial.send(events, error)
        assert settled.trouble is error
        events = [evolve(event, failures=number) for event, number, _ in settled.later]

    assert together == ([50, 10] if isinstance(error, PerkamoTimeoutError) else [50, 50, 50, 50, 10])


@by_error
def test_a_request_that_fails_while_others_pass_is_split_at_once_and_holds_up_nobody(
    trial: Trial, error: PerkamoError
) -> None:
    """It is to blame, and the others need not wait."""
    sent_at = trial.clock.time
    trial.others_pass()

    settled = trial.settler.settle(stored(100), [error] * 100, sent_at)

    assert settled.trouble is None
    assert SIZES[failures(settled)[0]] == 10


@by_error
def test_while_nothing_passes_no_event_is_to_blame(trial: Trial, error: PerkamoError) -> None:
    """However long an outage lasts, it makes no dead letters; catches counting the failures of an outage."""
    events = [evolve(event, failures=ALONE) for event in stored(3)]

    for _ in range(20):
        for place, event in enumerate(events):
            settled = trial.send([event], error)
            ((_, number, _),) = settled.later
            events[place] = evolve(event, failures=number)
            assert settled.trouble is error

    assert [event.failures for event in events] == [ALONE] * 3


@by_error
def test_an_event_that_fails_alone_while_others_pass_waits_by_itself_ever_longer(
    trial: Trial, error: PerkamoError
) -> None:
    """And becomes a dead letter only where it breaks the service; catches one poison event that blocks all."""
    event = stored(1, failures=ALONE)[0]
    waits: list[float] = []
    dead: list[str] = []
    trial.send([event], error)  # nothing was seen to pass yet

    for _ in range(30):
        trial.others_pass()
        settled = trial.send([event], error)
        assert settled.trouble is None
        dead += [reason for _, reason in settled.dead]
        if dead:
            break
        ((_, number, seconds),) = settled.later
        event = evolve(event, failures=number)
        waits.append(seconds)

    assert waits == sorted(waits)
    if any(error is one for one in BREAKING):
        assert (dead, len(waits)) == ([str(error)], MAX_SOLO_FAILURES - 1)
    else:
        assert (dead, waits[-1]) == ([], LONGEST_PUT_OFF)
        assert trial.settler.given_up == {event.row}


def test_an_outage_after_others_passed_makes_no_dead_letter_of_a_good_event(trial: Trial) -> None:
    """Two events that fail in turn and nothing that passes: the service is down, though something passed before."""
    first, second = stored(2, failures=ALONE)
    trial.send([first], server_error(500))
    trial.others_pass()

    for _ in range(20):
        for event in (first, second):
            settled = trial.send([event], server_error(500))
            assert not settled.dead
            ((_, number, _),) = settled.later
            first = evolve(first, failures=number) if event.row == first.row else first
    assert first.failures <= ALONE + 1


def test_an_answer_calls_back_the_two_that_stand_back_longest(trial: Trial) -> None:
    """Not all, for the service may pass one and fail the next, and none twice; catches events that wait for nobody."""
    for event in stored(5, failures=ALONE):
        settled = trial.send([event], server_error(503))
        assert settled.stands_back
        assert not settled.due

    called = [[event.row for event in trial.send(stored(1, first=row), ACCEPTED).due] for row in (2, 100, 101)]

    assert called == [[0, 1], [3, 4], []]


def test_what_is_to_blame_is_not_called_back(trial: Trial) -> None:
    """It waits by itself; catches a poison event that is sent with each answer."""
    (event,) = stored(1, failures=ALONE)
    trial.send([event], server_error(503))
    trial.others_pass()

    settled = trial.send([event], server_error(503))

    assert failures(settled) == [ALONE + 1]
    assert not settled.stands_back
    assert not trial.send(stored(1, first=1000), ACCEPTED).due


def test_one_answer_in_an_outage_exposes_few(trial: Trial) -> None:
    """One passes and the next fail: the rest stand back; catches good events that become dead letters in turn."""
    events = stored(5, failures=ALONE)
    for event in events:
        trial.send([event], server_error(500))
    assert trial.settler.call_back(events[4]) == [events[4]]

    one = events[0]
    assert [event.row for event in trial.send(stored(1, first=1000), ACCEPTED).due] == [0, 1]
    while not (settled := trial.send([one], server_error(500))).dead:
        one = evolve(one, failures=settled.later[0][1])
        assert not trial.settler.call_back(events[4])

    assert not trial.settler.call_back(events[4])
    assert [event.row for event in trial.send(stored(1, first=1000), ACCEPTED).due] == [2, 3]
    assert trial.settler.call_back(events[4]) == [events[4]]


def test_what_failed_since_the_last_answer_is_called_back_though_another_event_was_to_blame(trial: Trial) -> None:
    """No answer says that it is its own fault; catches good events that stand still after an outage."""
    poison, *late = stored(3, failures=ALONE)
    trial.send([poison], server_error(502))
    trial.others_pass()
    assert failures(trial.send([poison], server_error(502))) == [ALONE + 1]
    for event in (*late, poison):
        assert trial.send([event], server_error(502)).stands_back

    called = [[event.row for event in trial.settler.call_back(late[0])] for _ in range(3)]

    assert called == [[1], [2], []]
    assert trial.settler.call_back(stored(1, first=9)[0])


def test_what_others_delivered_is_forgotten(trial: Trial) -> None:
    """Nothing waits; catches memory that grows with outages, and a new event that is judged by another's history."""
    known, event = stored(1, failures=ALONE + MAX_SOLO_FAILURES)[0], stored(1, failures=ALONE)[0]
    trial.send([known], server_error(503))
    trial.others_pass()
    assert trial.settler.given_up

    trial.settler.forget()

    assert not trial.settler.given_up
    assert trial.send([event], server_error(503)).stands_back


def test_the_last_event_that_waits_is_to_blame_if_others_passed_after_it_failed(trial: Trial) -> None:
    """Nothing is left that could be tried beside it; catches a poison event that waits for company."""
    event = stored(1, failures=ALONE)[0]
    trial.send([event], server_error(500))
    trial.others_pass()

    tries = 0
    while True:
        tries += 1
        settled = trial.send([event], server_error(500))
        if settled.dead:
            break
        event = evolve(event, failures=settled.later[0][1])

    assert tries == MAX_SOLO_FAILURES


@by_error
@pytest.mark.parametrize("seen_by", ["this relay", "another relay"])
def test_the_last_event_is_given_up_if_others_passed(trial: Trial, error: PerkamoError, seen_by: str) -> None:
    """No dead letter, for an outage may have begun; catches drains that wait forever for one poison event."""
    *others, last = (evolve(event, failures=ALONE) for event in stored(3))
    if seen_by == "another relay":
        others, last = [], evolve(last, failures=ALONE + 1)
    else:
        trial.send([*others, last], error)
    for event in others:
        trial.send([event], ACCEPTED)

    for tries in range(1, 20):
        settled = trial.send([last], error)
        assert (settled.trouble, settled.dead) == (error, [])
        assert trial.settler.given_up == (set() if tries < MAX_SOLO_FAILURES else {last.row})


@by_error
def test_in_an_outage_nothing_is_given_up(trial: Trial, error: PerkamoError) -> None:
    """Though others passed before it; catches a drain that ends in the middle of an outage."""
    events = [evolve(event, failures=ALONE) for event in stored(2)]
    trial.others_pass()
    trial.send(events, error)

    for _ in range(20):
        for event in events:
            trial.send([event], error)

    assert trial.settler.given_up == set()


@by_error
def test_several_events_that_wait_are_to_blame_if_others_passed_after_each_had_failed(
    trial: Trial, error: PerkamoError
) -> None:
    """They fail in turn, and nothing else is left to try; catches a drain that waits for two poison events forever."""
    waiting = {event.row: event for event in stored(3, failures=ALONE)}
    for event in waiting.values():
        trial.send([event], error)
    trial.others_pass()

    for _ in range(MAX_SOLO_FAILURES):
        for row, event in list(waiting.items()):
            settled = trial.send([event], error)
            assert settled.trouble is None
            if settled.dead:
                del waiting[row]
            else:
                waiting[row] = evolve(event, failures=settled.later[0][1])

    assert set(waiting) == trial.settler.given_up
    assert len(waiting) == (0 if any(error is one for one in BREAKING) else 3)


def test_what_was_given_up_stays_so_in_the_next_relay(trial: Trial) -> None:
    """The failures are kept with the event; catches a drain that waits for the one event that never passes."""
    event = stored(1, failures=ALONE + MAX_SOLO_FAILURES)[0]

    settled = trial.send([event], server_error(502))

    assert settled.trouble is None
    assert trial.settler.given_up == {event.row}
    trial.send([event], ACCEPTED)
    assert trial.settler.given_up == set()


@pytest.mark.parametrize(
    "error",
    [
        PerkamoRateLimitError("429", status=429, outcome="rejected", retryable=True),
        PerkamoAuthenticationError("401", status=401, outcome="rejected"),
        PerkamoPermissionError("403", status=403, outcome="rejected"),
    ],
    ids=["429", "401", "403"],
)
def test_what_lies_in_no_event_is_counted_for_none(trial: Trial, error: PerkamoError) -> None:
    """A rate limit or a refused key says nothing of the events, even where others pass."""
    events = stored(3, failures=2)
    sent_at = trial.clock.time
    trial.others_pass()

    settled = trial.settler.settle(events, [error] * 3, sent_at)

    assert (failures(settled), settled.trouble, settled.is_answered) == ([2, 2, 2], error, False)
