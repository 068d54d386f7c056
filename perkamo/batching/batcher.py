"""Sends emits that wait at the same time in one request, and gives each caller its own result."""

import os
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from perkamo.batching.split import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_EVENTS,
    EventResult,
    classify_result,
    may_break_at_one_event,
    send_batch,
    send_undecided,
)
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import PerkamoClosedError, PerkamoConfigurationError, PerkamoError, WriteOutcome
from perkamo.events import Context, Event, as_event
from perkamo.models import EventIngestResponse
from perkamo.request.retry import RetryPolicy
from perkamo.runtime.event_loop import DetachedTaskGroup

MAX_DELAY: Final = 60.0


class Batcher:
    """Sends the events of many tasks in as few requests as possible.

    Nothing is kept on disk: an event may be lost if the process ends before its emit has returned. For events that must
    survive, use ``Outbox``.

    Example:
        >>> async with AsyncPerkamoClient() as perkamo, Batcher(perkamo) as batcher:
        ...     result = await batcher.emit("customer_123", "purchase.completed", {"amount": 12900})
    """

    def __init__(
        self,
        client: AsyncPerkamoClient,
        *,
        max_delay: float = 0.01,
        max_events: int = MAX_REQUEST_EVENTS,
        max_pending: int = 10_000,
    ) -> None:
        """Set up a batcher; nothing is sent and no task runs before ``async with``.

        Args:
            client: Sends the requests, with its own retries. If these fail, and one of the events may be the cause, the
                request is split. The client must stay open longer than the batcher.
            max_delay: Seconds, 0 to 60, for which an emit waits for others.
            max_events: The most events of one request, 1 to 100.
            max_pending: The most emits that wait or are being sent, 1 or more. Further ones wait for their turn.

        Raises:
            PerkamoConfigurationError: A limit is out of its range.
        """
        if not 0 <= max_delay <= MAX_DELAY:
            raise PerkamoConfigurationError(f"max_delay must be 0 to {MAX_DELAY:g} seconds.")
        if not 1 <= max_events <= MAX_REQUEST_EVENTS:
            raise PerkamoConfigurationError(f"max_events must be 1 to {MAX_REQUEST_EVENTS}.")
        if max_pending < 1:
            raise PerkamoConfigurationError("max_pending must be 1 or more.")
        self._client = client
        self._max_delay = max_delay
        self._max_events = max_events
        self._max_pending = max_pending
        self._group: DetachedTaskGroup
        self._tasks: TaskGroup | None = None
        self._places: anyio.Semaphore | None = None
        self._gathering: Batch | None = None
        self._inside = 0
        self._pid = 0
        self._empty: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise PerkamoConfigurationError("This batcher is already in use; make another one.")
        self._group = DetachedTaskGroup()
        self._tasks = await self._group.__aenter__()
        self._pid = os.getpid()
        self._places = anyio.Semaphore(self._max_pending, fast_acquire=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send the emits that wait; if the block was cancelled, end them with an error."""
        tasks = self._tasks
        if tasks is None:
            return
        self._empty = anyio.Event()
        try:
            if error is not None and not isinstance(error, Exception):
                tasks.cancel_scope.cancel()
            elif self._inside:
                if self._gathering is not None:
                    self._gathering.full.set()
                await self._empty.wait()
        except BaseException:
            tasks.cancel_scope.cancel()
            raise
        finally:
            await self._group.__aexit__(None, None, None)

    async def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Send one activity event together with the events that others emit at the same time.

        Args:
            user_id: As for ``client.emit``.
            event: As for ``client.emit``.
            context: As for ``client.emit``.
            transaction_id: As for ``client.emit``.
            occurred_at: As for ``client.emit``.

        Returns:
            The result of this event.

        Raises:
            PerkamoValidationError: An argument can't be sent. Nothing was sent.
            PerkamoClosedError: The batcher is not open.
            PerkamoError: The event was refused, or its request failed; see ``.outcome``.
        """
        transaction_id = create_transaction_id() if transaction_id is None else transaction_id
        return await self.emit_event(Event(user_id, event, transaction_id, context, occurred_at))

    async def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Send one ``Event``; see ``emit``.

        Args:
            event: The event; without a transaction id, ``tx_<uuid4>`` is made.

        Returns:
            The result of this event.

        Raises:
            PerkamoError: As ``emit`` does.
        """
        event = as_event(event)
        if event.transaction_id is None:
            event = event.with_transaction_id(create_transaction_id())
        if self._places is None or self._tasks is None or self._empty is not None or self._pid != os.getpid():
            raise _closed("not_sent")  # also in a forked child: the tasks that would send are in the parent
        self._inside += 1
        try:
            async with self._places:
                return await self._wait_for_result(PendingEmit(event), self._tasks)
        finally:
            self._inside -= 1
            if self._empty is not None and not self._inside:
                self._empty.set()

    async def _wait_for_result(self, emit: "PendingEmit", tasks: TaskGroup) -> EventIngestResponse:
        batch = self._add(emit, tasks)
        try:
            await emit.has_result.wait()
        except BaseException:
            batch.remove(emit)
            raise
        return emit.result()

    def _add(self, emit: "PendingEmit", tasks: TaskGroup) -> "Batch":
        batch = self._gathering
        if batch is not None and batch.size + emit.size > MAX_REQUEST_BYTES:
            batch.full.set()
            batch = None
        if batch is None:
            batch = self._gathering = Batch()
            tasks.start_soon(self._send_batch, batch)
        batch.add(emit)
        if len(batch.emits) >= self._max_events or self._empty is not None:
            batch.full.set()
            self._gathering = None
        return batch

    async def _send_batch(self, batch: "Batch") -> None:
        results: list[EventResult] = []
        emits: list[PendingEmit] = []
        try:
            with anyio.move_on_after(self._max_delay):
                await batch.full.wait()
            if self._gathering is batch:
                self._gathering = None
            emits = batch.take_all()
            if emits:
                events = [emit.event for emit in emits]
                results = await self._send(events)
                for emit, result in zip(emits, results, strict=True):
                    if classify_result(result) != "undecided":
                        emit.set_result(result)
                await send_undecided(self._client, events, results)
        except Exception as error:  # noqa: BLE001 - a bug in one request must not end the other callers' requests
            for emit in emits:
                emit.set_result(error)
        finally:
            for emit, answer in zip(emits, results, strict=False):
                emit.set_result(answer)
            for emit in emits or batch.emits:
                emit.set_result(_closed("unknown" if emits else "not_sent"))

    async def _send(self, events: list[Event]) -> list[EventResult]:
        """Send one request. It is split if it fails repeatedly, because one event may be the cause."""
        results = await send_batch(self._client, events)
        if len(events) > 1 and all(_failed_repeatedly(result) for result in results):
            once = self._client.with_options(retry=RetryPolicy.none())
            again = await send_batch(once, events, halve=may_break_at_one_event, continue_on_error=False)
            if any(classify_result(result) == "accepted" for result in again):
                return again
        return results


def _failed_repeatedly(result: EventResult) -> bool:
    if not isinstance(result, PerkamoError) or classify_result(result) != "failed":
        return False
    return result.attempts > 1 and may_break_at_one_event(result)


class PendingEmit:
    """One emit that waits for its result."""

    __slots__ = ("_result", "event", "has_result", "size")

    def __init__(self, event: Event) -> None:
        self.event: Event = event
        self.size: int = len(event.to_bytes())
        self.has_result: anyio.Event = anyio.Event()
        self._result: EventIngestResponse | Exception | None = None

    def set_result(self, result: EventIngestResponse | Exception) -> None:
        """Set the result; only the first one counts."""
        if self._result is None:
            self._result = result
            self.has_result.set()

    def result(self) -> EventIngestResponse:
        """Return the result, or raise it if it is an error."""
        if isinstance(self._result, EventIngestResponse):
            return self._result
        raise self._result if self._result is not None else _closed("unknown")


class Batch:
    """The emits of the next request."""

    __slots__ = ("emits", "full", "size")

    def __init__(self) -> None:
        self.full: anyio.Event = anyio.Event()
        self.emits: list[PendingEmit] = []
        self.size: int = 0

    def add(self, emit: PendingEmit) -> None:
        """Add an emit to this batch."""
        self.emits.append(emit)
        self.size += emit.size

    def remove(self, emit: PendingEmit) -> None:
        """Remove an emit whose caller was cancelled, unless it is being sent."""
        if emit in self.emits:
            self.emits.remove(emit)
            self.size -= emit.size

    def take_all(self) -> list[PendingEmit]:
        """Return the emits, and mark them as being sent."""
        emits, self.emits = self.emits, []
        return emits


def _closed(outcome: WriteOutcome) -> PerkamoError:
    what = "was not sent" if outcome == "not_sent" else "may have been sent; sending it again is safe"
    return PerkamoClosedError(f"The batcher is closed. The event {what}.", outcome=outcome)
