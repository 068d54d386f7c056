"""Durable delivery: what was put is delivered, whatever happens to the process.

At least once to the service, which applies one transaction id once (published): applied once.

Every process that puts events keeps them in a file of its own in the outbox's directory. A process that also relays
delivers its own events and those that others left behind: by ending in any way, or by putting without relaying, for
then its file is given back every two seconds.

The gap that no outbox beside your database can close: a crash between your commit and ``put`` loses the event, and the
other order tells of things that were rolled back. Derive the transaction id from the business fact, and put again what
may be missing.
"""

import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import anyio.to_thread
from attrs import field, frozen

from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.serializable import Serializable
from perkamo.errors import PerkamoConfigurationError
from perkamo.events import Event, as_event, create_transaction_id
from perkamo.outbox.relay import Relay, Wakeup
from perkamo.outbox.sqlite.ownership import Counts, SpoolDirectory
from perkamo.outbox.sqlite.slots import Adopted, Slots
from perkamo.outbox.sqlite.spool import SpoolFile, StoredEvent
from perkamo.outbox.sqlite.storage import SlotUnavailableError
from perkamo.outbox.sqlite.writer import Writer, ask

DEFAULT_MAX_BYTES: Final = 1 << 30
_LOOK_AGAIN: Final = 1.0
_FINISH_SECONDS: Final = 5.0
_PAGE: Final = 100
_T = TypeVar("_T")


@frozen
class OutboxStats(Serializable):
    """What became of every event that the directory's files ever took; ``accepted`` is the sum of the next three.

    Attributes:
        accepted: Events taken.
        delivered: Events the service answered for.
        pending: Events that wait.
        dead: Events the service refused, kept with the reason.
        size: Bytes of the events that wait or are dead.
        files: Files in use.
        set_aside: Damaged or foreign files that were moved out of the way, for you to look at.
    """

    accepted: int
    delivered: int
    pending: int
    dead: int
    size: int
    files: int
    set_aside: int


@frozen
class DeadLetter(Serializable):
    """An event that the service refused.

    Attributes:
        transaction_id: The event's transaction id.
        body: The event's bytes, as they were sent; ``Event.from_bytes`` reads them.
        reason: Why it was refused.
    """

    transaction_id: str = field(repr=False)
    body: bytes = field(repr=False)
    reason: str


class Outbox:
    """Keeps events on disk until the service has answered for them.

    Works from any thread, event loop and forked child; all that a process puts goes through one thread into one file.

    Example:
        >>> outbox = Outbox("/var/lib/shop/perkamo-outbox")
        >>> async with AsyncPerkamoClient() as perkamo, outbox.relay(perkamo):
        ...     await outbox.put(Event("customer_123", "purchase.completed", "order_1092", {"amount": 12900}))
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Check the directory, and make it if need be.

        Args:
            directory: A directory for this outbox alone, on a local disk that outlives the process.
            max_bytes: The most bytes of events to keep, over all processes; of other processes' share this one learns
                within a second.

        Raises:
            PerkamoConfigurationError: ``max_bytes`` is not positive.
            PerkamoOutboxStorageError: The directory can't keep a promise; the message says why.
        """
        if max_bytes < 1:
            raise PerkamoConfigurationError("max_bytes must be 1 or more.")
        self._slots = Slots(SpoolDirectory(directory))
        self._max_bytes = max_bytes
        self._space: bytes | None = None
        self._begin()

    async def put(self, event: Event | Mapping[str, object]) -> Event:
        """Keep an event; when this returns, it is on disk and survives a kill and a loss of power.

        Putting the same event again, with the same id, content and ``occurred_at``, keeps it once.

        Args:
            event: The event. Without a transaction id, ``tx_<uuid4>`` is made, and a put that you make again after an
                error would earn twice: give the business's own id.

        Returns:
            The event as it is kept, with its final transaction id.

        Raises:
            PerkamoValidationError: It can't be sent.
            PerkamoOutboxConflictError: Another event waits under this transaction id.
            PerkamoOutboxFullError: There is no room, or the disk is full.
            PerkamoOutboxError: It could not be kept; the message says why.
        """
        kept = as_event(event)
        if kept.transaction_id is None:
            kept = kept.with_transaction_id(create_transaction_id())
        transaction_id, body = str(kept.transaction_id), kept.to_bytes()
        writer = self._writer_here()
        space, room = self._space, self._max_bytes - self._size_of_others()
        await ask(writer, lambda file: file.put(transaction_id, space, body, room))
        for wakeup in tuple(self._wakeups):
            wakeup.notify()
        return kept

    @asynccontextmanager
    async def relay(self, client: AsyncPerkamoClient) -> AsyncGenerator[Relay]:
        """Deliver in the background for as long as the block lasts: this process's events and those left by others.

        What waits when the block ends stays on disk for the next relay. Events that were put while no client was known
        belong to the first one that relays them, and all others to the service and Space key of their time: they are
        never sent with another.

        Args:
            client: Sends the events, without its own retries: the outbox has more patience.

        Yields:
            The relay, whose ``trouble`` tells why events wait.

        Raises:
            PerkamoConfigurationError: The client's key supplier failed.
        """
        writer = self._writer_here()
        self._space = bytes.fromhex(await client.space_fingerprint())
        relay = Relay(client)
        self._wakeups.add(relay.wakeup)
        writer.keepers += 1
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._relay_own, writer, relay)
                tasks.start_soon(self._relay_left_behind, relay)
                try:
                    yield relay
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001 - raised below, where no task group wraps it up
                    failure = error
                relay.stop()
                tasks.cancel_scope.deadline = anyio.current_time() + _FINISH_SECONDS
        finally:
            writer.keepers -= 1
            self._wakeups.discard(relay.wakeup)
        if failure is not None:
            raise failure

    async def drain(self, client: AsyncPerkamoClient) -> OutboxStats:
        """Deliver everything that this process put and that no live process holds; wait through an outage.

        Args:
            client: Sends the events, without its own retries.

        Returns:
            The counts afterwards. What still waits is held by other processes, or belongs to another Space key.

        Raises:
            PerkamoError: The service refuses this client, and time alone does not mend it. Everything is kept.
        """
        writer = self._writer_here()
        self._space = bytes.fromhex(await client.space_fingerprint())
        relay = Relay(client, raises=True)
        unwanted: dict[int, Counts] = {}
        writer.keepers += 1
        try:
            while True:
                while _pending(writer) and await _deliver(relay, writer):
                    pass
                try:
                    adopted = await anyio.to_thread.run_sync(self._slots.adopt, unwanted)
                except SlotUnavailableError:
                    await anyio.sleep(_LOOK_AGAIN / 10)
                    continue
                if adopted is None:
                    return await self.stats()
                async with _adopted(adopted, relay, unwanted):
                    while await _deliver(relay, adopted.writer):
                        pass
        finally:
            writer.keepers -= 1

    async def stats(self) -> OutboxStats:
        """Count, over all processes and restarts, what became of the events.

        Returns:
            The counts. ``accepted`` is ``delivered + pending + dead``, whatever happens meanwhile.
        """
        held = self._writer_here().held
        counts = await anyio.to_thread.run_sync(self._slots.counts, {} if held is None else dict([held]))
        total = sum(counts, Counts())
        return OutboxStats(
            accepted=total.accepted,
            delivered=total.delivered,
            pending=total.pending,
            dead=total.dead,
            size=total.size,
            files=len(counts),
            set_aside=len(self._slots.directory.set_aside()),
        )

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """Read the dead letters, file by file and oldest first; they stay where they are.

        A process that uses its file lends it for that. Those of one that hangs or stands still can't be read from here.

        Yields:
            One dead letter after the other.
        """
        for slot in self._slots.directory.slots():
            row = 0
            none: list[StoredEvent] = []
            page = partial(SpoolFile.dead, limit=_PAGE)
            while letters := await self._in_slot(slot, partial(page, after=row), none, only_dead=True):
                for letter in letters:
                    yield DeadLetter(letter.transaction_id, letter.body, str(letter.reason))
                row = letters[-1].row

    async def requeue(self, transaction_id: str | None = None) -> int:
        """Let dead letters wait for delivery again, for instance after the program was corrected.

        Args:
            transaction_id: Which one; None for all.

        Returns:
            How many now wait. Those in the file of a process that hangs or stands still are left.
        """
        return await self._in_all_slots(partial(SpoolFile.requeue, transaction_id=transaction_id), only_dead=True)

    async def rebind(self, client: AsyncPerkamoClient) -> int:
        """Let events that belong to another service or Space key be sent with this client's.

        For use after the Space's key was changed. Make sure that it is the same Space: events of another would earn in
        this one.

        Args:
            client: The client that relays from now on.

        Returns:
            How many events changed hands. Those in the file of a process that hangs or stands still are left.

        Raises:
            PerkamoConfigurationError: The client's key supplier failed.
        """
        space = bytes.fromhex(await client.space_fingerprint())
        return await self._in_all_slots(partial(SpoolFile.rebind, space=space), only_dead=False)

    async def aclose(self) -> None:
        """Finish the puts that wait and give the file back; needed only where an outbox ends before its process."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._writer_here().close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._writer = Writer(self._slots.open_lowest)
        self._wakeups: set[Wakeup] = set()
        self._others = (0.0, 0)

    def _writer_here(self) -> Writer:
        """Return this process's writer: a forked child must not touch its parent's thread and file."""
        if os.getpid() != self._pid:
            self._begin()
        return self._writer

    def _size_of_others(self) -> int:
        looked_at, size = self._others
        if not looked_at or time.monotonic() - looked_at > _LOOK_AGAIN:
            held = self._writer.held
            own = None if held is None else held[0]
            slots = (slot for slot in self._slots.directory.slots() if slot != own)
            size = sum(self._slots.published(slot).counts.size for slot in slots)
            self._others = (time.monotonic(), size)
        return size

    async def _in_all_slots(self, action: Callable[[SpoolFile], int], *, only_dead: bool) -> int:
        total = 0
        for slot in self._slots.directory.slots():
            total += await self._in_slot(slot, action, 0, only_dead=only_dead)
        for wakeup in tuple(self._wakeups):
            wakeup.notify()
        return total

    async def _in_slot(self, slot: int, action: Callable[[SpoolFile], _T], otherwise: _T, *, only_dead: bool) -> _T:
        """Do something in a slot, unless there is nothing to do it to, or another process keeps it."""
        held = self._writer_here().held
        if held is not None and held[0] == slot:
            return await ask(self._writer, action)
        published = self._slots.published(slot)
        counts = published.counts
        if published.closed and not counts.dead and (only_dead or not counts.pending):
            return otherwise
        try:
            return await anyio.to_thread.run_sync(self._slots.visit, slot, action)
        except SlotUnavailableError:
            return otherwise

    async def _relay_own(self, writer: Writer, relay: Relay) -> None:
        while not relay.stopping:
            await relay.wait_for_backoff()
            if relay.stopping:
                break
            if not (_pending(writer) and await relay.deliver_some(writer)):
                await relay.wakeup.wait(_LOOK_AGAIN)

    async def _relay_left_behind(self, relay: Relay) -> None:
        unwanted: dict[int, Counts] = {}
        while not relay.stopping:
            await relay.wait_for_backoff()
            if relay.stopping:
                break
            adopted: Adopted | None = None
            with suppress(SlotUnavailableError):
                adopted = await anyio.to_thread.run_sync(self._slots.adopt, unwanted)
            if adopted is not None:
                async with _adopted(adopted, relay, unwanted):
                    while not relay.stopping and await relay.deliver_some(adopted.writer) and relay.trouble is None:
                        pass
            else:
                await relay.sleep(_LOOK_AGAIN * random.uniform(1, 2))  # noqa: S311 - spreads processes out, guards nothing


def _pending(writer: Writer) -> bool:
    held = writer.held
    return held is not None and held[1].pending > 0


async def _deliver(relay: Relay, writer: Writer) -> int:
    """Deliver some, patiently; give up where patience does not help."""
    await relay.wait_for_backoff()
    more = await relay.deliver_some(writer)
    if relay.trouble is not None and not relay.trouble.retryable:
        raise relay.trouble
    return more


@asynccontextmanager
async def _adopted(adopted: Adopted, relay: Relay, unwanted: dict[int, Counts]) -> AsyncGenerator[None]:
    """Give the slot back, and remember what is in it that is not for this relay."""
    try:
        yield
    finally:
        held = adopted.writer.held
        if held is not None and relay.trouble is None:
            unwanted[adopted.slot] = held[1]
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(adopted.close)
