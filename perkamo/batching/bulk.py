"""Sends a stream of events and returns a stream of outcomes, in memory that does not grow with the stream."""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import ClassVar, Final, Self, TypeAlias

import anyio
from attrs import field, frozen

from perkamo.batching.pacing import Pace
from perkamo.batching.split import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_EVENTS,
    EventResult,
    classify_result,
    may_be_one_event,
    may_break_at_one_event,
    send_batch,
    send_undecided,
)
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import PerkamoConfigurationError, PerkamoError, PerkamoValidationError
from perkamo.events import Event, as_event
from perkamo.models import EventIngestResponse
from perkamo.request.retry import RetryPolicy
from perkamo.runtime.clock import Clock

Given: TypeAlias = Event | Mapping[str, object]
"""An event, or a mapping with the wire's field names."""

ATTEMPTS: Final = 8
"""How often a request is made before its events are reported as failed."""
REQUESTS_PER_ROUND: Final = 4
MAX_CONCURRENCY: Final = 64


@frozen
class Outcome:
    """The outcome of one event of the stream: exactly one of ``result`` and ``error``.

    Attributes:
        event: The event as it was sent, with its transaction id, or what was given if it could not be sent.
        result: What the event did, or None.
        error: Why there is no result, or None. With ``.retryable``, give the same event again later.
        position: The position of the event in the stream, from 0.
    """

    event: Given = field(repr=False)
    result: EventIngestResponse | None
    error: PerkamoError | None
    position: int


def emit_many(
    client: AsyncPerkamoClient,
    events: AsyncIterable[Given] | Iterable[Given],
    *,
    concurrency: int = 4,
    ordered: bool = True,
) -> AsyncIterator[Outcome]:
    """Send a stream of events, of any length, in as few requests as possible.

    The stream is read and sent in rounds, with a few requests for each unit of ``concurrency``. The next round is read
    when all outcomes of the last one were taken; nothing runs in between. When the service asks to wait, the whole
    stream waits. Stopping early is safe: events without an outcome may have been sent, and sending them again earns
    nothing more.

    Args:
        client: Sends the requests. A request is made up to eight times here, instead of the client's own retries. The
            last time it is split, if one of its events may be the cause of the failure.
        events: Events, or mappings with the wire's field names. An event without a transaction id gets ``tx_<uuid4>``;
            sending the stream again would then earn again.
        concurrency: The most requests at the same time, 1 to 64.
        ordered: Whether outcomes come in the order of the stream; otherwise, within a round, in the order of answers.

    Returns:
        An iterator over one outcome for each event. Errors of events are reported, never raised. If the stream itself
        raises, the events that were read before are sent and reported first; then the stream's error is raised.

    Raises:
        PerkamoConfigurationError: ``concurrency`` is out of its range.
    """
    return Outcomes(events, Pipe(client, concurrency, ordered=ordered))


class Outcomes:
    """The iterator that ``emit_many`` returns. It is not a generator, which would have to be closed when left early."""

    def __init__(self, events: AsyncIterable[Given] | Iterable[Given], pipe: "Pipe") -> None:
        self._later = aiter(events) if isinstance(events, AsyncIterable) else None
        self._now = iter(()) if isinstance(events, AsyncIterable) else iter(events)
        self._pipe = pipe
        self._outcomes: deque[Outcome] = deque()
        self._is_over = False
        self._broken: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while not self._outcomes:
            if self._is_over:
                broken, self._broken = self._broken, None
                raise broken or StopAsyncIteration
            try:
                await self._fill()
            except Exception as error:  # noqa: BLE001 - the stream's own error, raised after the outcomes of what was read before
                self._broken, self._is_over = error, True
            self._outcomes.extend(await self._pipe.flush())
        return self._outcomes.popleft()

    async def _fill(self) -> None:
        if self._later is not None:
            async for event in self._later:
                self._pipe.add(event)
                if self._pipe.is_full:
                    return
        else:
            for event in self._now:
                self._pipe.add(event)
                if self._pipe.is_full:
                    return
        self._is_over = True


class Pipe:
    """Rounds of requests, one after the other, at one pace."""

    async_usage: ClassVar[str] = "'async for outcome in emit_many(...)' with an AsyncPerkamoClient"
    """What ``sync_emit_many`` warns with inside an event loop, as nobody calls this class."""

    def __init__(self, client: AsyncPerkamoClient, concurrency: int, *, ordered: bool, clock: Clock = Clock()) -> None:
        """Check ``concurrency``; see ``emit_many``."""
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise PerkamoConfigurationError(f"concurrency must be 1 to {MAX_CONCURRENCY}.")
        self._client = client.with_options(retry=RetryPolicy.none())
        self._ordered = ordered
        self._concurrency = concurrency
        self._clock = clock
        self._pace = Pace(clock)
        self._count = 0
        self._requests: list[list[tuple[int, Event]]] = []
        self._size = 0
        self._outcomes: list[Outcome] = []

    @property
    def is_full(self) -> bool:
        """Whether the round is complete. Events that can't be sent count, too: a bad stream must not fill memory."""
        rounds = self._concurrency * REQUESTS_PER_ROUND
        full = len(self._requests) == rounds and len(self._requests[-1]) == MAX_REQUEST_EVENTS
        return full or len(self._requests) > rounds or len(self._outcomes) >= rounds * MAX_REQUEST_EVENTS

    def add(self, given: Given) -> None:
        """Add an event to the round."""
        position, self._count = self._count, self._count + 1
        try:
            event = as_event(given)
            if event.transaction_id is None:
                event = event.with_transaction_id(create_transaction_id())
            size = len(event.to_bytes())
        except PerkamoValidationError as error:
            self._outcomes.append(Outcome(given, None, error, position))
            return
        is_full = not self._requests or len(self._requests[-1]) == MAX_REQUEST_EVENTS
        if is_full or self._size + size > MAX_REQUEST_BYTES:
            self._requests.append([])
            self._size = 0
        self._requests[-1].append((position, event))
        self._size += size

    async def flush(self) -> list[Outcome]:
        """Send the round and return its outcomes."""
        waiting = iter(self._requests)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._concurrency, len(self._requests))):
                tasks.start_soon(self._work, waiting)
        outcomes, self._outcomes, self._requests = self._outcomes, [], []
        return sorted(outcomes, key=lambda outcome: outcome.position) if self._ordered else outcomes

    async def _work(self, waiting: Iterable[list[tuple[int, Event]]]) -> None:
        for request in waiting:
            results = await self._send([event for _, event in request])
            for (position, event), answer in zip(request, results, strict=True):
                if isinstance(answer, PerkamoError):
                    self._outcomes.append(Outcome(event, None, answer, position))
                else:
                    self._outcomes.append(Outcome(event, answer, None, position))

    async def _send(self, events: list[Event]) -> list[EventResult]:
        """Send the events of one request; those that failed with it are sent again, and only those."""
        results: dict[int, EventResult] = {}
        left = list(range(len(events)))
        for number in range(1, ATTEMPTS + 1):
            await self._pace.wait()
            sent_at = self._clock.now()
            answers = await send_batch(
                self._client,
                [events[place] for place in left],
                halve=may_break_at_one_event if number == ATTEMPTS else may_be_one_event,
                continue_on_error=False,
            )
            results.update(zip(left, answers, strict=True))
            failed = {
                place: error
                for place in left
                if isinstance(error := results[place], PerkamoError)
                and classify_result(error) == "failed"
                and error.retryable
            }
            if not failed:
                self._pace.succeeded()
                break
            self._pace.failed(next(iter(failed.values())), sent_at)
            left = list(failed)
        settled = [results[place] for place in range(len(events))]
        await send_undecided(self._client, events, settled, self._clock)
        return settled
