"""Durable delivery: what was put is delivered, whatever happens to the process.

At least once to the service, which applies one transaction id once (published): applied once.

All processes that use a directory keep their events in one database there. Any of them, and any that relays, delivers
whatever waits; what a process had taken when it died is taken over at once.

The gap that no outbox beside your database can close: a crash between your commit and ``put`` loses the event, and the
other order tells of things that were rolled back. Derive the transaction id from the business fact, and put again what
may be missing.
"""

import os
from collections.abc import Mapping
from typing import Final

from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import PerkamoConfigurationError
from perkamo.events import Event, as_event
from perkamo.hooks import Hooks
from perkamo.outbox.directory import Directory
from perkamo.outbox.operations import OutboxOperations
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import check_space

DEFAULT_MAX_BYTES: Final = 1 << 30
_INSTALLED: Final = Hooks()


class Outbox(OutboxOperations):
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
            group_readable: Let the directory's group read it: a user of the group who may not write gets the counts
                from ``stats``, and nothing about each Space. All processes that use the directory must agree.

        Raises:
            PerkamoConfigurationError: ``max_bytes`` is not positive, or ``space`` is not a name.
            PerkamoOutboxStorageError: The directory can't keep a promise; the message says why, and what to do.
        """
        if max_bytes < 1:
            raise PerkamoConfigurationError("max_bytes must be 1 or more.")
        name = None if space is None else check_space(space)
        self._sqlite = SqliteStore(Directory(directory, group_readable=group_readable), max_bytes)
        super().__init__(self._sqlite, space=name, concurrency=1)

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
            PerkamoOutboxFullError: ``max_bytes`` are used, or the disk is full.
            PerkamoOutboxError: It could not be kept, or ``outcome`` is ``"unknown"``; the message says why.
        """
        kept = as_event(event)
        if kept.transaction_id is None:
            kept = kept.with_transaction_id(create_transaction_id())
        await self._sqlite.put(str(kept.transaction_id), self._space, kept.to_bytes(), _INSTALLED.trace_context())
        return kept
