# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""Durable delivery: what was put is delivered, whatever happens to the process.

GENERATED from outbox/outbox.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
"""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from perkamo.batching.sync_sending import sending
from perkamo.events import Event
from perkamo.outbox.outbox import DEFAULT_MAX_BYTES, DeadLetter, Outbox, OutboxStats
from perkamo.outbox.relay import Relay
from perkamo.sync.portal import iterate, run, wrap_async_context_manager
from perkamo.sync_client import PerkamoClient


class SyncOutbox:
    """Keeps events on disk until the service has answered for them.

    Works from any thread, event loop and forked child; all that a process puts goes through one thread into one file.

    Example:
        >>> outbox = SyncOutbox("/var/lib/shop/perkamo-outbox")
        >>> with PerkamoClient() as perkamo, outbox.relay(perkamo):
        ...     outbox.put(Event("customer_123", "purchase.completed", "order_1092", {"amount": 12900}))
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
        self._async = Outbox(directory, max_bytes=max_bytes)
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    def put(self, event: Event | Mapping[str, object]) -> Event:
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
        return run(self._async.put, event)

    @contextmanager
    def relay(self, client: PerkamoClient) -> Generator[Relay]:
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
        with wrap_async_context_manager(self._async.relay(sending(client))) as value:
            yield value

    def drain(self, client: PerkamoClient) -> OutboxStats:
        """Deliver everything that this process put and that no live process holds; wait through an outage.

        Args:
            client: Sends the events, without its own retries.

        Returns:
            The counts afterwards. What still waits is held by other processes, or belongs to another Space key.

        Raises:
            PerkamoError: The service refuses this client, and time alone does not mend it. Everything is kept.
        """
        return run(self._async.drain, sending(client))

    def stats(self) -> OutboxStats:
        """Count, over all processes and restarts, what became of the events.

        Returns:
            The counts. ``accepted`` is ``delivered + pending + dead``, whatever happens meanwhile.
        """
        return run(self._async.stats)

    def dead(self) -> Iterator[DeadLetter]:
        """Read the dead letters, file by file and oldest first; they stay where they are.

        A process that uses its file lends it for that. Those of one that hangs or stands still can't be read from here.

        Yields:
            One dead letter after the other.
        """
        return iterate(self._async.dead())

    def requeue(self, transaction_id: str | None = None) -> int:
        """Let dead letters wait for delivery again, for instance after the program was corrected.

        Args:
            transaction_id: Which one; None for all.

        Returns:
            How many now wait. Those in the file of a process that hangs or stands still are left.
        """
        return run(self._async.requeue, transaction_id)

    def rebind(self, client: PerkamoClient) -> int:
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
        return run(self._async.rebind, sending(client))

    def close(self) -> None:
        """Finish the puts that wait and give the file back; needed only where an outbox ends before its process."""
        run(self._async.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
