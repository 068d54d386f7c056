"""Events that go with a transaction of Django's."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final

from django.db import transaction

from perkamo.encoding.ids import create_transaction_id
from perkamo.events import Context, Event, as_event
from perkamo.integrations.django.process import client, database_outbox, file_outbox, putting_outbox
from perkamo.outbox.postgres.sync_outbox import SyncPostgresOutbox
from perkamo.outbox.relay import Relay
from perkamo.outbox.store import DeadLetter, OutboxStats, WaitingEvent
from perkamo.outbox.sync_outbox import SyncOutbox

_POSTGRESQL: Final = "postgresql"


class DjangoOutbox:
    """Keeps events that belong to a transaction, until the service has answered for them.

    In PostgreSQL an event is a row, which the transaction commits or rolls back with all else. With any other database,
    it is put on disk when the transaction commits, and not at all when it is rolled back. Run
    ``manage.py perkamo_relay`` as a service of its own to have them delivered.

    The gap of other databases: a process that is killed, or a disk that is full, after the commit and before the event
    is on disk loses the event. Derive the transaction id from the order, and put again what may be missing.
    """

    def put(self, event: Event | Mapping[str, object], *, using: str | None = None) -> Event:
        """Keep an event if the current transaction commits; at once where there is none.

        Args:
            event: The event, checked here. Without a transaction id, ``tx_<uuid4>`` is made; give the business's own
                id, such as the order's.
            using: The database of the transaction; the default one when None.

        Returns:
            The event as it will be kept, with its final transaction id.

        Raises:
            PerkamoValidationError: It can't be sent.
            PerkamoOutboxConflictError: Another event waits under this transaction id. Not with PostgreSQL, this and the
                next may also be raised by the commit, with the transaction committed.
            PerkamoOutboxError: It can't be kept.
            PerkamoConfigurationError: There is no directory for the outbox.
        """
        kept = as_event(event)
        if kept.transaction_id is None:
            kept = kept.with_transaction_id(create_transaction_id())
        connection = transaction.get_connection(using)
        if connection.vendor == _POSTGRESQL:
            return putting_outbox.get().put(connection, kept, autocommit=True)
        store = file_outbox.get()  # an unusable directory is an error before the commit
        transaction.on_commit(partial(store.put, kept), using)
        return kept

    def relay(self, *, using: str | None = None) -> AbstractContextManager[Relay]:
        """Deliver in the background for as long as the block lasts; see ``SyncOutbox.relay``.

        Args:
            using: Of which database; the default one when None. Those that are not PostgreSQL share one directory.
        """
        return _store(using).relay(client)

    def drain(self, *, using: str | None = None) -> OutboxStats:
        """Deliver everything that waits; see ``SyncOutbox.drain``.

        Args:
            using: As for ``relay``.
        """
        return _store(using).drain(client)

    def stats(self, *, using: str | None = None) -> OutboxStats:
        """Count the outcome of the events.

        Args:
            using: As for ``relay``.
        """
        return _store(using).stats()

    def waiting(self, limit: int | None = None, *, using: str | None = None) -> list[WaitingEvent]:
        """Return the events that wait, oldest first.

        Args:
            limit: How many at most; all of them when None.
            using: As for ``relay``.
        """
        return list(islice(_store(using).waiting(), limit))

    def dead(self, limit: int | None = None, *, using: str | None = None) -> list[DeadLetter]:
        """Return the events that the service refused, oldest first, with the reason.

        Args:
            limit: How many at most; all of them when None.
            using: As for ``relay``.
        """
        return list(islice(_store(using).dead(), limit))

    def requeue(self, transaction_id: str | None = None, *, using: str | None = None) -> int:
        """Queue one dead letter, or all of them, for delivery again.

        Args:
            transaction_id: Which one; None for all.
            using: As for ``relay``.

        Returns:
            How many now wait.
        """
        return _store(using).requeue(transaction_id)


def _store(using: str | None) -> SyncOutbox | SyncPostgresOutbox:
    connection = transaction.get_connection(using)
    return database_outbox(connection) if connection.vendor == _POSTGRESQL else file_outbox.get()


outbox: Final = DjangoOutbox()
"""The process's outbox."""


def emit_on_commit(
    user_id: str,
    event: str,
    context: Context | None = None,
    *,
    transaction_id: str | None = None,
    occurred_at: datetime | str | None = None,
    using: str | None = None,
) -> Event:
    """Send an event when the current transaction commits, and not at all when it is rolled back; at once without one.

    For an application without an outbox. The event is lost if the process is killed between commit and answer, unless
    whoever made the request makes it again: derive the transaction id from the order, so that both count once.
    Nothing is sent within a ``django.test.TestCase``, which never commits: use
    ``self.captureOnCommitCallbacks(execute=True)``.

    Args:
        user_id: The application's own id of the customer, 1 to 256 characters.
        event: The event key, such as ``purchase.completed``.
        context: Business facts.
        transaction_id: The id that counts once; ``tx_<uuid4>`` when not given.
        occurred_at: When it happened; now when not given.
        using: The database of the transaction; the default one when None.

    Returns:
        The event as it will be sent, with its final transaction id.

    Raises:
        PerkamoValidationError: Something can't be sent; nothing will be.
        PerkamoError: At the commit: the call failed. The transaction is committed then; of several events of one
            transaction, those after it are not sent.
    """
    built = Event(user_id, event, transaction_id or create_transaction_id(), context, occurred_at)
    transaction.on_commit(partial(client.emit_event, built), using)
    return built
