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
from perkamo.outbox.outbox import DEFAULT_MAX_BYTES, Outbox
from perkamo.outbox.relay import FINISH_SECONDS, Relay
from perkamo.outbox.store import DeadLetter, OutboxStats, WaitingEvent
from perkamo.sync.portal import iterate, run, wrap_async_context_manager
from perkamo.sync_client import PerkamoClient


class SyncOutbox:
    """Keeps events on disk until the service has answered for them.

    Works from any thread, event loop and forked child; what is put at the same moment shares one sync of the disk.

    Example:
        >>> outbox = SyncOutbox("/var/lib/shop/perkamo-outbox")
        >>> with PerkamoClient() as perkamo, outbox.relay(perkamo):
        ...     outbox.put(Event("customer_123", "purchase.completed", "order_1092", {"amount": 12900}))
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
        self._async = Outbox(directory, space=space, max_bytes=max_bytes, group_readable=group_readable)
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
            PerkamoOutboxFullError: ``max_bytes`` are used, or the disk is full.
            PerkamoOutboxError: It could not be kept, or ``outcome`` is ``"unknown"``; the message says why.
        """
        return run(self._async.put, event)

    @contextmanager
    def relay(
        self, client: PerkamoClient, *, concurrency: int | None = None, grace: float = FINISH_SECONDS
    ) -> Generator[Relay]:
        """Deliver in the background for as long as the block lasts, whichever process put the events.

        It ends with the block and not before: whatever goes wrong is in the relay's ``trouble`` and in the log, and is
        tried again. What waits when the block ends is kept for the next relay. Events that were put before the
        service had accepted any key belong to the first one that it accepts; all others are never sent with another
        key, unless the client's ``api_key`` function returned both.

        Args:
            client: Sends the events, without its own retries: the outbox has more patience.
            concurrency: How many requests may be on their way, 1 or more; with 1, events are sent in the order in
                which they were put while none fails. By default 1 from a directory.
            grace: Seconds for which the end of the block waits for the answers to requests that are on their way; an
                event without an answer by then waits for the next relay.

        Yields:
            The relay, whose ``trouble`` says why events wait.

        Raises:
            PerkamoConfigurationError: The client's key supplier failed, or ``concurrency`` is below 1.
        """
        with wrap_async_context_manager(
            self._async.relay(sending(client), concurrency=concurrency, grace=grace)
        ) as value:
            yield value

    def drain(self, client: PerkamoClient, *, concurrency: int | None = None) -> OutboxStats:
        """Deliver everything that waits for this client's Space; wait through an outage, and for other relays.

        Where no event passes at all, one that never will can't be distinguished from an outage, and this waits until it
        is cancelled: bound it with ``anyio.fail_after``; where the code is synchronous, run ``perkamo outbox relay``
        with ``--until-empty`` under the system's ``timeout``. Everything is kept.

        Args:
            client: Sends the events, without its own retries.
            concurrency: As for ``relay``.

        Returns:
            The counts afterwards. What still waits belongs to another Space or key, or failed alone again and again
            while others passed.

        Raises:
            PerkamoConfigurationError: As for ``relay``.
            PerkamoError: The service refuses this client, or the store can't be used, and time alone does not repair
                it. Everything is kept.
        """
        return run(self._async.drain, sending(client), concurrency=concurrency)

    def stats(self) -> OutboxStats:
        """Count, over all processes and restarts, the outcome of the events.

        Returns:
            The counts. ``accepted`` is ``delivered + pending + dead + missing``, whatever happens meanwhile.
        """
        return run(self._async.stats)

    def waiting(self) -> Iterator[WaitingEvent]:
        """Read the events that wait, oldest first; what is delivered meanwhile may be among them.

        Yields:
            One event after the other.
        """
        return iterate(self._async.waiting())

    def dead(self) -> Iterator[DeadLetter]:
        """Read the dead letters, oldest first; they stay where they are.

        Yields:
            One dead letter after the other.
        """
        return iterate(self._async.dead())

    def requeue(self, transaction_id: str | None = None) -> int:
        """Queue dead letters for delivery again, for instance after the program was corrected.

        Args:
            transaction_id: Which one; None for all.

        Returns:
            How many now wait.
        """
        return run(self._async.requeue, transaction_id)

    def rebind(self, client: PerkamoClient) -> int:
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
        return run(self._async.rebind, sending(client))

    def close(self) -> None:
        """Finish what was asked for, and close files and connections; needed only before the process's own end."""
        run(self._async.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
