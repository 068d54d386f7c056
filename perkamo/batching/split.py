"""Events that are sent in one request, and the result of each.

``classify_result`` alone decides what a result means: everything that delivers events uses it.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Final, Literal, TypeAlias, cast

from perkamo.batching.pacing import Pace
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoApiError,
    PerkamoConflictError,
    PerkamoError,
    PerkamoEventError,
    PerkamoResponseError,
    PerkamoValidationError,
)
from perkamo.events import MAX_BATCH_EVENTS, EncodedEvent, Event
from perkamo.models import BatchIngestResponse, EventIngestResponse
from perkamo.request.retry import REJECTED_STATUSES
from perkamo.runtime.clock import Clock

MAX_REQUEST_EVENTS: Final[int] = MAX_BATCH_EVENTS
MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Assumed: the service's own limit is unpublished. A request that gets a 413 is split."""
_HOPELESS: Final = 2
"""How many events may fail alone, while none succeeds, until the service is taken as the cause."""

SOLO_ATTEMPTS: Final = 3
"""How often an event is sent alone, if the service did not accept it in a batch for a reason that may pass."""

_OWN_BATCH: Final = AsyncPerkamoClient.batch

EventResult: TypeAlias = EventIngestResponse | PerkamoError
"""The result of one event, which the service accepted, or why there is none; see ``classify_result``."""

Verdict: TypeAlias = Literal["accepted", "rejected", "undecided", "failed"]


def classify_result(result: EventResult) -> Verdict:
    """Decide what to do with an event, from the type and the attributes of its result, never from a text.

    Returns:
        ``"accepted"``: the event counts; it is delivered. So is a ``PerkamoEventError`` with ``accepted``.
        ``"rejected"``: the same event will be refused again. Don't send it again; keep it with ``str(error)``.
        ``"undecided"``: it was not accepted. The cause is this event, and it may pass or is unknown. Other events must
        not wait for it: send it alone, a limited number of times, then treat it as rejected.
        ``"failed"``: the request failed for a cause that is not in any event; ``error.retryable`` says whether it may
        succeed later.
    """
    match result:
        case EventIngestResponse():
            return "accepted"
        case PerkamoEventError():
            if result.accepted:
                return "accepted"
            return "rejected" if result.outcome == "rejected" else "undecided"
        case PerkamoConflictError():
            return "undecided"
        case _:
            return "rejected" if is_refusal(result) else "failed"


def is_refusal(error: PerkamoError) -> bool:
    """Return whether an event of the request caused the error: the others may be accepted without it."""
    if isinstance(error, PerkamoApiError):
        return error.status in REJECTED_STATUSES
    return isinstance(error, PerkamoValidationError)


def may_be_one_event(error: PerkamoError) -> bool:
    """Return whether an event of the request may have caused the error: a refusal, a conflict, an unreadable answer."""
    return is_refusal(error) or isinstance(error, PerkamoConflictError | PerkamoResponseError)


def may_break_at_one_event(error: PerkamoError) -> bool:
    """Return whether an event of the request may have made the service fail, for example by a crash.

    An outage looks the same: split only requests that have failed repeatedly.
    """
    if isinstance(error, PerkamoApiError) and error.retry_after_seconds is not None:
        return False
    return may_be_one_event(error) or (error.retryable and error.outcome == "unknown")


async def send_batch(
    client: AsyncPerkamoClient,
    events: Sequence[Event] | Sequence[EncodedEvent],
    *,
    halve: Callable[[PerkamoError], bool] = may_be_one_event,
    continue_on_error: bool = True,
) -> list[EventResult]:
    """Send events in one request; if it fails, halve it until the events that cause the failure are alone.

    One such event among a hundred takes at most fifteen requests. If single events fail for another reason than a
    refusal and none succeeds, the service is the cause: after two of them, the rest is not sent.

    Args:
        client: Sends the requests, with its own retries.
        events: 1 to 100 events with transaction ids.
        halve: Returns whether a request is halved after an error.
        continue_on_error: Whether the other parts are sent after a part failed for another reason. If not, they get
            the same error.

    Returns:
        The result of each event, in order. An event that failed alone while others succeeded has a
        ``PerkamoEventError``; one that failed with its request has a copy of the request's error.
    """
    results: list[EventResult] = []
    alone: dict[int, PerkamoError] = {}
    parts = [_for_batch_of(client, events)]
    stopped: PerkamoError | None = None
    answered = False
    while parts and stopped is None:
        part = parts.pop()
        try:
            answer = await client.batch(cast("Sequence[Event]", part))  # which takes both
            _check_count(answer, len(part))
        except PerkamoError as error:
            if len(part) > 1 and halve(error):
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            if not halve(error):
                stopped = None if continue_on_error else error
            elif classify_result(error) == "failed":
                alone[len(results)] = error
                stopped = error if len(alone) >= _HOPELESS and not answered else None
            results += [copy(error) for _ in part]
        else:
            answered = True
            results += [one if isinstance(one, EventIngestResponse) else one.to_error() for one in answer.results]
    if stopped is not None:
        results += [copy(stopped) for part in parts for _ in part]
    if answered:
        for place, cause in alone.items():
            results[place] = _of_this_event(cause)
    return results


async def send_undecided(
    client: AsyncPerkamoClient, events: Sequence[Event], results: list[EventResult], clock: Clock = Clock()
) -> None:
    """Send each undecided event alone, a few times, with waits in between.

    Args:
        client: Sends the requests.
        events: The events of one request.
        results: Their results, in order; those of undecided events are replaced.
        clock: The clock of the waits.
    """
    pace = Pace(clock)
    left = [place for place, result in enumerate(results) if classify_result(result) == "undecided"]
    for _ in range(SOLO_ATTEMPTS):
        if not left:
            return
        pace.failed()
        await pace.wait()
        for place in left:
            before = results[place]
            [result] = await send_batch(client, [events[place]])
            if isinstance(result, PerkamoError) and _lies_in_this_event(before, result):
                result = _of_this_event(result)
            results[place] = result
        left = [place for place in left if classify_result(results[place]) in {"undecided", "failed"}]


def _for_batch_of(
    client: AsyncPerkamoClient, events: Sequence[Event] | Sequence[EncodedEvent]
) -> Sequence[Event] | Sequence[EncodedEvent]:
    """Decode events for a ``batch`` that is not ours: a subclass may read or change them."""
    if getattr(client.batch, "__func__", None) is _OWN_BATCH:
        return events
    return [Event.from_bytes(one.body) if isinstance(one, EncodedEvent) else one for one in events]


def _check_count(answer: BatchIngestResponse, count: int) -> None:
    """Refuse results that do not match the events. A subclass's ``batch`` may return such; the client's own never does.

    Raises:
        PerkamoResponseError: There are more or fewer results than events.
    """
    number = len(answer.results)
    if number != count:
        raise PerkamoResponseError(
            f"batch() returned {number} results for {count} events. Some may have been applied; sending them again "
            "with the same transaction ids is safe.",
            status=answer.meta.status,
            request_id=answer.meta.request_id,
            outcome="unknown",
            attempts=answer.meta.attempts,
        )


def _lies_in_this_event(before: EventResult, error: PerkamoError) -> bool:
    """Return whether an event that was sent alone caused its failure: it failed alone before, and others passed."""
    if isinstance(error, PerkamoResponseError):
        return True
    failed_alone = isinstance(before, PerkamoError) and isinstance(before.__cause__, PerkamoError)
    return failed_alone and may_break_at_one_event(error)


def _of_this_event(cause: PerkamoError) -> PerkamoEventError:
    """Turn the error of a request into the error of the only event in it."""
    error = PerkamoEventError(str(cause), request_id=getattr(cause, "request_id", None), attempts=cause.attempts)
    error.__cause__ = cause
    return error
