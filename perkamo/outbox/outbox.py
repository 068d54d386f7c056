"""Durable delivery: what was put is delivered, whatever happens to the process.

At least once to the service, which applies one transaction id once (published): applied once.

All processes that use a directory keep their events in one database there. Any of them, and any that relays, delivers
whatever waits; what a process had taken when it died is taken over at once.

The gap that no outbox beside your database can close: a crash between your commit and ``put`` loses the event, and the
other order tells of things that were rolled back. Derive the transaction id from the business fact, and put again what
may be missing.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from perkamo.client import AsyncPerkamoClient
from perkamo.clock import Clock
from perkamo.errors import PerkamoConfigurationError
from perkamo.events import Event, as_event, create_transaction_id
from perkamo.outbox.directory import Directory
from perkamo.outbox.relay import Relay, relaying, space_of
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import UNBOUND, DeadLetter, OutboxStats, check_space

DEFAULT_MAX_BYTES: Final = 1 << 30
_PAGE: Final = 100


class Outbox:
    """Keeps events on disk until the service has answered for them.

    Works from any thread, event loop and forked child; what is put at the same moment shares one sync of the disk.

    Example:
        >>> outbox = Outbox("/var/lib/shop/perkamo-outbox")
        >>> async with AsyncPerkamoClient() as perkamo, outbox.relay(perkamo):
        ...     await outbox.put(Event("customer_123", "purchase.completed", "order_1092", {"amount": 12900}))
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        space: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        group_readable: bool = False,
    ) -> None:
        """Check the directory, and make it if need be.

        Args:
            directory: A directory for this outbox alone, on a local disk that outlives the process. It is made for
                this user alone; one that exists is taken only if it is empty or holds an outbox, and is not open to
                other users.
            space: A name of your own for the Space that the events belong to, such as ``"commerce-live"``. Events are
                only ever sent by an outbox of the same name, and a new key of the Space needs nothing further. Without
                a name they belong to the service and key that first accepted some of them; see ``rebind``.
            max_bytes: The most bytes of events to keep, over all processes.
            group_readable: Let the directory's group read it, for a process beside this one that looks at the counts.
                All processes that use the directory must agree.

        Raises:
            PerkamoConfigurationError: ``max_bytes`` is not positive, or ``space`` is not a name.
            PerkamoOutboxStorageError: The directory can't keep a promise; the message says why, and what to do.
        """
        if max_bytes < 1:
            raise PerkamoConfigurationError("max_bytes must be 1 or more.")
        self._name = None if space is None else check_space(space)
        self._space = self._name or UNBOUND
        self._store = SqliteStore(Directory(directory, group_readable=group_readable), max_bytes)
        self._clock = Clock()

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
            PerkamoOutboxError: It could not be kept, or ``outcome`` is ``"unknown"``; the message says why.
        """
        kept = as_event(event)
        if kept.transaction_id is None:
            kept = kept.with_transaction_id(create_transaction_id())
        await self._store.put(str(kept.transaction_id), self._space, kept.to_bytes())
        return kept

    @asynccontextmanager
    async def relay(self, client: AsyncPerkamoClient) -> AsyncGenerator[Relay]:
        """Deliver in the background for as long as the block lasts, whichever process put the events.

        It ends with the block and not before: whatever goes wrong is in the relay's ``trouble`` and in the log, and is
        tried again. What waits when the block ends stays on disk for the next relay. Events that were put before the
        service had accepted any key belong to the first one that it accepts; all others are never sent with another
        key, unless the client's ``api_key`` function returned both.

        Args:
            client: Sends the events, without its own retries: the outbox has more patience.

        Yields:
            The relay, whose ``trouble`` tells why events wait.

        Raises:
            PerkamoConfigurationError: The client's key supplier failed.
        """
        await space_of(client)
        relay = Relay(self._store, client, space=self._name, on_accepted=self._bind, clock=self._clock)
        async with relaying(relay):
            yield relay

    async def drain(self, client: AsyncPerkamoClient) -> OutboxStats:
        """Deliver everything that waits for this client's Space; wait through an outage, and for other relays.

        Args:
            client: Sends the events, without its own retries.

        Returns:
            The counts afterwards. What still waits belongs to another Space or key, or failed alone again and again
            while others passed.

        Raises:
            PerkamoError: The service refuses this client, or the directory can't be used, and time alone does not mend
                it. Everything is kept.
        """
        await space_of(client)
        relay = Relay(
            self._store, client, space=self._name, on_accepted=self._bind, until_empty=True, clock=self._clock
        )
        await relay.run()
        return await self.stats()

    async def stats(self) -> OutboxStats:
        """Count, over all processes and restarts, what became of the events.

        Returns:
            The counts. ``accepted`` is ``delivered + pending + dead + missing``, whatever happens meanwhile.
        """
        return await self._store.count()

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """Read the dead letters, oldest first; they stay where they are.

        Yields:
            One dead letter after the other.
        """
        row = 0
        while letters := await self._store.dead(row, _PAGE):
            for letter in letters:
                yield letter
            row = letters[-1].row

    async def requeue(self, transaction_id: str | None = None) -> int:
        """Let dead letters wait for delivery again, for instance after the program was corrected.

        Args:
            transaction_id: Which one; None for all.

        Returns:
            How many now wait.
        """
        return await self._store.requeue(transaction_id)

    async def rebind(self, client: AsyncPerkamoClient) -> int:
        """Let events that belong to another service or key be sent by this outbox with this client.

        For use after the Space's key was changed. Make sure that it is the same Space: events of another would earn in
        this one. Events of an outbox that was given a name for its Space stay with that name.

        Args:
            client: The client that relays from now on.

        Returns:
            How many waiting events changed hands.

        Raises:
            PerkamoConfigurationError: The client's key supplier failed.
        """
        return await self._store.rebind(self._name or await space_of(client), None)

    async def aclose(self) -> None:
        """Finish the puts that wait and close the files; needed only where an outbox ends before its process."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _bind(self, space: str) -> None:
        self._space = space
