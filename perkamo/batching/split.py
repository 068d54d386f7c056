"""Events that travel in one request, and what each of them is told."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Final, TypeAlias

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoApiError, PerkamoError, PerkamoValidationError
from perkamo.events import MAX_BATCH_EVENTS, Event
from perkamo.models import EventIngestResponse

MAX_REQUEST_EVENTS: Final[int] = MAX_BATCH_EVENTS
MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Assumed: the service's own limit is unpublished. A 413 halves a request further."""
_REFUSED_STATUSES: Final = frozenset({400, 413, 422})

EventResult: TypeAlias = EventIngestResponse | PerkamoError


def is_refusal(error: PerkamoError) -> bool:
    """Tell whether the error lies in some event of the request: the others may pass without it."""
    if isinstance(error, PerkamoApiError):
        return error.status in _REFUSED_STATUSES
    return isinstance(error, PerkamoValidationError)


async def send_batch(
    client: AsyncPerkamoClient,
    events: Sequence[Event],
    *,
    halve: Callable[[PerkamoError], bool] = is_refusal,
    continue_on_error: bool = True,
) -> list[EventResult]:
    """Send events in one request, and halve what is refused until the rejected events are alone.

    One rejected event among a hundred takes at most fifteen requests.

    Args:
        client: Sends the requests, with its own retries.
        events: 1 to 100 events with transaction ids.
        halve: Tells for which errors a request is halved.
        continue_on_error: Send the other parts after a part failed for another reason. If not, they get the same
            error.

    Returns:
        What each event is told, in order: its result, or its own copy of the error.
    """
    told: list[EventResult] = []
    parts = [events]
    stopped: PerkamoError | None = None
    while parts:
        part = parts.pop()
        try:
            if stopped is not None:
                raise stopped
            answer = await client.batch(part)
        except PerkamoError as error:
            if len(part) > 1 and error is not stopped and halve(error):
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            if not halve(error) and not continue_on_error:
                stopped = error
            told += [copy(error) for _ in part]
        else:
            told += answer.results
    return told
