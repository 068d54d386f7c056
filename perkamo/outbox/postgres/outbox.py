"""An outbox in the application's own PostgreSQL: an event is committed with the order that it tells of, or not at all.

Its rows are written by whatever runs the application's transaction. Relays on any number of machines deliver them, at
least once to the service, which applies one transaction id once (published): applied once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import PerkamoConfigurationError
from perkamo.events import Event, as_event
from perkamo.outbox.operations import OutboxOperations
from perkamo.outbox.postgres.connections import put_by, put_by_async
from perkamo.outbox.postgres.put import Putting
from perkamo.outbox.postgres.store import Order, PostgresStore
from perkamo.outbox.relay import Relay
from perkamo.outbox.store import check_space
from perkamo.postgres import ConnectionPool, Database, hide_dsn, quoted_schema
from perkamo.runtime.clock import Clock

CONCURRENCY: Final = 4
"""How many requests of a relay are on their way by default."""


class PostgresOutbox(OutboxOperations):
    """Keeps events in tables of the application's database until the service has answered for them.

    Putting needs no driver but the application's own. Relays, counts and commands use psycopg 3, which the extra
    ``perkamo[postgres]`` brings.

    Example:
        >>> outbox = PostgresOutbox("postgresql://shop@db/shop", space="commerce-live")
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
        name = None if space is None else check_space(space)
        if order_by not in {None, "customer"}:
            raise PerkamoConfigurationError("order_by must be 'customer' or None.")
        if order_by is not None and name is None:
            raise PerkamoConfigurationError("order_by needs a name for the Space: give space.")
        self._putting = Putting(quoted_schema(schema))
        database = None if dsn_or_pool is None else Database(dsn_or_pool)
        self._postgres = PostgresStore(database, schema, order_by, Clock())
        super().__init__(self._postgres, space=name, concurrency=CONCURRENCY)

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
        return self.put_many(connection, [event], autocommit=autocommit)[0]

    async def aput(self, connection: object, event: Event | Mapping[str, object], *, autocommit: bool = False) -> Event:
        """Do as ``put`` does, with an async driver.

        Args:
            connection: A SQLAlchemy ``AsyncSession`` or ``AsyncConnection``, an async connection of psycopg, or a
                connection of asyncpg.
            event: As for ``put``.
            autocommit: As for ``put``.

        Returns:
            As ``put``.

        Raises:
            PerkamoValidationError: It can't be sent.
            PerkamoOutboxConflictError: Another event waits under this transaction id.
            PerkamoConfigurationError: The connection can't be used, or has no transaction open.
        """
        return (await self.aput_many(connection, [event], autocommit=autocommit))[0]

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
        kept = _final(events)
        put_by(connection, self._putting.steps(self._space, kept), autocommit=autocommit)
        return kept

    async def aput_many(
        self, connection: object, events: Iterable[Event | Mapping[str, object]], *, autocommit: bool = False
    ) -> Sequence[Event]:
        """Do as ``put_many`` does, with an async driver.

        Args:
            connection: As for ``aput``.
            events: As for ``put_many``.
            autocommit: As for ``put``.

        Returns:
            The events as they are kept.

        Raises:
            PerkamoValidationError: One can't be sent. None was put.
            PerkamoOutboxConflictError: As for ``put_many``.
            PerkamoConfigurationError: As for ``put``.
        """
        kept = _final(events)
        await put_by_async(connection, self._putting.steps(self._space, kept), autocommit=autocommit)
        return kept

    async def check(self) -> Sequence[str]:
        """Say what is missing in the database, a sentence each.

        Returns:
            Nothing where all is well.

        Raises:
            PerkamoConfigurationError: The outbox was made without a DSN or pool.
            PerkamoOutboxStorageError: The database can't be reached.
        """
        return await self._postgres.missing()

    def _relay(self, client: AsyncPerkamoClient, concurrency: int | None, *, until_empty: bool) -> Relay:
        _ = (
            self._postgres.database
        )  # without one this is an error here, and not the trouble of a relay that waits forever
        return super()._relay(client, concurrency, until_empty=until_empty)


def _final(events: Iterable[Event | Mapping[str, object]]) -> list[Event]:
    """Return events with transaction ids."""
    kept = [as_event(event) for event in events]
    return [one if one.transaction_id is not None else one.with_transaction_id(create_transaction_id()) for one in kept]
