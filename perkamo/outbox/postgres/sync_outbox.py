# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""An outbox in the application's own PostgreSQL: an event is committed with the order that it tells of, or not at all.

GENERATED from outbox/postgres/outbox.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from perkamo.batching.sync_sending import sending
from perkamo.events import Event
from perkamo.outbox.postgres.outbox import PostgresOutbox
from perkamo.outbox.postgres.store import Order
from perkamo.outbox.relay import FINISH_SECONDS, Relay
from perkamo.outbox.store import DeadLetter, OutboxStats, WaitingEvent
from perkamo.postgres import ConnectionPool, hide_dsn
from perkamo.sync.portal import iterate, run, wrap_async_context_manager
from perkamo.sync_client import PerkamoClient


class SyncPostgresOutbox:
    """Keeps events in tables of the application's database until the service has answered for them.

    Putting needs no driver but the application's own. Relays, counts and commands use psycopg 3, which the extra
    ``perkamo[postgres]`` brings.

    Example:
        >>> outbox = SyncPostgresOutbox("postgresql://shop@db/shop", space="commerce-live")
        >>> with Session(engine) as session, session.begin():
        ...     session.add(order)
        ...     outbox.put(session, Event("customer_123", "purchase.completed", "order_1092", {"amount": 12900}))
    """

    def __init__(
        self,
        dsn_or_pool: str | ConnectionPool | None = None,
        *,
        schema: str = "perkamo",
        space: str | None = None,
        order_by: Order = None,
    ) -> None:
        """Prepare; no connection is made before one is needed.

        Args:
            dsn_or_pool: How relays, counts and commands reach the database: ``postgresql://…``, or a
                ``psycopg_pool.ConnectionPool``, which is used without prepared statements. None where this process
                only puts.
            schema: The schema of the tables, see ``outbox_schema``.
            space: A name of your own for the Space that the events belong to, such as ``"commerce-live"``. Events are
                only ever sent by an outbox of the same name, and a new key of the Space needs nothing further. Without
                a name they belong to the service and key that first accepted some of them; see ``rebind``.
            order_by: ``"customer"``: a relay sends at most one event of each customer at a time, in the order in which
                they were put; while one waits for another try, the customer's later ones wait with it. An earlier
                transaction that commits later can't be waited for. It needs ``space`` and an index of its own.

        Raises:
            PerkamoConfigurationError: psycopg 3 is not installed, the DSN can't be read, or a name can't be one.
        """
        dsn_or_pool = hide_dsn(dsn_or_pool)
        self._async = PostgresOutbox(dsn_or_pool, schema=schema, space=space, order_by=order_by)
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    def put(self, connection: object, event: Event | Mapping[str, object], *, autocommit: bool = False) -> Event:
        """Keep an event in the transaction that is open on a connection; it is delivered once that has committed.

        Putting the same event again, with the same id, content and ``occurred_at``, keeps it once. A put of the same
        id in another open transaction is waited for. Nothing that goes wrong here but your driver's own errors breaks
        the transaction.

        Args:
            connection: What runs your transaction: a SQLAlchemy ``Session`` or ``Connection``, Django's
                ``connection``, or a connection of psycopg or psycopg2.
            event: The event. Without a transaction id, ``tx_<uuid4>`` is made.
            autocommit: Allow a connection without an open transaction; the event is kept at once, by itself.

        Returns:
            The event as it is kept, with its final transaction id.

        Raises:
            PerkamoValidationError: It can't be sent.
            PerkamoOutboxConflictError: Another event waits under this transaction id.
            PerkamoConfigurationError: The connection can't be used, or has no transaction open.
        """
        return self._async.put(connection, event, autocommit=autocommit)

    def put_many(
        self, connection: object, events: Iterable[Event | Mapping[str, object]], *, autocommit: bool = False
    ) -> Sequence[Event]:
        """Keep events as ``put`` does, with one statement.

        Args:
            connection: As for ``put``.
            events: The events, of which all are checked before any is put. Where order matters, they are delivered in
                this one.
            autocommit: As for ``put``.

        Returns:
            The events as they are kept.

        Raises:
            PerkamoValidationError: One can't be sent. None was put.
            PerkamoOutboxConflictError: Another event waits under one of the transaction ids. Others of the list may
                have been put: roll back.
            PerkamoConfigurationError: As for ``put``.
        """
        return self._async.put_many(connection, events, autocommit=autocommit)

    def check(self) -> Sequence[str]:
        """Say what is missing in the database, a sentence each.

        Returns:
            Nothing where all is well.

        Raises:
            PerkamoConfigurationError: The outbox was made without a DSN or pool.
            PerkamoOutboxStorageError: The database can't be reached.
        """
        return run(self._async.check)

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
