"""Emits that wait at the same moment travel as one request, and each caller is told its own result."""

import os
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from perkamo.batching.split import MAX_REQUEST_BYTES, MAX_REQUEST_EVENTS, Told, send_together
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoClosedError, PerkamoConfigurationError, PerkamoError, WriteOutcome
from perkamo.events import Context, Event, as_event, create_transaction_id
from perkamo.models import EventIngestResponse

MAX_DELAY: Final = 60.0


class Batcher:
    """Sends what many tasks emit in as few requests as possible.

    Nothing is kept on disk: an emit that was not answered when the process ends may be lost, and its caller knows,
    because its call never returned. See ``Outbox`` for events that must survive.

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
            client: Sends the requests, with its own retries. It must stay open for longer than the batcher.
            max_delay: Seconds, 0 to 60, for which an emit waits for company.
            max_events: The most events of one request, 1 to 100.
            max_pending: The most emits that wait or are on their way, from 1 on. Further ones wait for their turn.

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
        self._tasks: TaskGroup | None = None
        self._places: anyio.Semaphore | None = None
        self._gathering: _Load | None = None
        self._inside = 0
        self._pid = 0
        self._empty: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise PerkamoConfigurationError("This batcher is in use already; make another one.")
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        self._pid = os.getpid()
        self._places = anyio.Semaphore(self._max_pending, fast_acquire=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send what waits; when the block was cancelled, tell those who wait that it ended."""
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
            await tasks.__aexit__(None, None, None)

    async def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Send one activity event together with those that others emit at the same time.

        Args:
            user_id: As for ``client.emit``.
            event: As for ``client.emit``.
            context: As for ``client.emit``.
            transaction_id: As for ``client.emit``.
            occurred_at: As for ``client.emit``.

        Returns:
            What this event did.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoClosedError: The batcher is not open.
            PerkamoError: The event was refused, or the request that carried it failed; ``.outcome`` tells.
        """
        transaction_id = create_transaction_id() if transaction_id is None else transaction_id
        return await self.emit_event(Event(user_id, event, transaction_id, context, occurred_at))

    async def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Send one event that was built before; see ``emit``.

        Args:
            event: The event; without a transaction id, ``tx_<uuid4>`` is made.

        Returns:
            What this event did.

        Raises:
            PerkamoError: As ``emit`` does.
        """
        event = as_event(event)
        if event.transaction_id is None:
            event = event.with_transaction_id(create_transaction_id())
        if self._places is None or self._tasks is None or self._empty is not None or self._pid != os.getpid():
            raise _closed("not_sent")  # in a forked child, too: the tasks that would send are in the parent
        self._inside += 1
        try:
            async with self._places:
                return await self._ride(_Passenger(event), self._tasks)
        finally:
            self._inside -= 1
            if self._empty is not None and not self._inside:
                self._empty.set()

    async def _ride(self, passenger: "_Passenger", tasks: TaskGroup) -> EventIngestResponse:
        load = self._board(passenger, tasks)
        try:
            await passenger.arrived.wait()
        except BaseException:
            load.leave(passenger)
            raise
        return passenger.result()

    def _board(self, passenger: "_Passenger", tasks: TaskGroup) -> "_Load":
        load = self._gathering
        if load is not None and load.size + passenger.size > MAX_REQUEST_BYTES:
            load.full.set()
            load = None
        if load is None:
            load = self._gathering = _Load()
            tasks.start_soon(self._carry, load)
        load.board(passenger)
        if len(load.passengers) >= self._max_events or self._empty is not None:
            load.full.set()
            self._gathering = None
        return load

    async def _carry(self, load: "_Load") -> None:
        told: list[Told] = []
        passengers: list[_Passenger] = []
        try:
            with anyio.move_on_after(self._max_delay):
                await load.full.wait()
            if self._gathering is load:
                self._gathering = None
            passengers = load.depart()
            if passengers:
                told = await send_together(self._client, [passenger.event for passenger in passengers])
        except Exception as error:  # noqa: BLE001 - a bug below us must not end the other callers' requests
            for passenger in passengers:
                passenger.arrive(error)
        finally:
            for passenger, answer in zip(passengers, told, strict=False):
                passenger.arrive(answer)
            for passenger in passengers or load.passengers:
                passenger.arrive(_closed("unknown" if passengers else "not_sent"))


class _Passenger:
    """One emit that waits to be told."""

    __slots__ = ("_told", "arrived", "event", "size")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.size = len(event.to_bytes())
        self.arrived = anyio.Event()
        self._told: EventIngestResponse | Exception | None = None

    def arrive(self, told: EventIngestResponse | Exception) -> None:
        """Take the first answer; later ones come too late."""
        if self._told is None:
            self._told = told
            self.arrived.set()

    def result(self) -> EventIngestResponse:
        if isinstance(self._told, EventIngestResponse):
            return self._told
        raise self._told if self._told is not None else _closed("unknown")


class _Load:
    """The emits that will travel together."""

    __slots__ = ("full", "passengers", "size")

    def __init__(self) -> None:
        self.full = anyio.Event()
        self.passengers: list[_Passenger] = []
        self.size = 0

    def board(self, passenger: _Passenger) -> None:
        self.passengers.append(passenger)
        self.size += passenger.size

    def leave(self, passenger: _Passenger) -> None:
        """Take back an emit whose caller was cancelled, unless it is on its way."""
        if passenger in self.passengers:
            self.passengers.remove(passenger)
            self.size -= passenger.size

    def depart(self) -> list[_Passenger]:
        passengers, self.passengers = self.passengers, []
        return passengers


def _closed(outcome: WriteOutcome) -> PerkamoError:
    what = "was not sent" if outcome == "not_sent" else "may have been sent; sending it again is safe"
    return PerkamoClosedError(f"The batcher is closed. The event {what}.", outcome=outcome)
