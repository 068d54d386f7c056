"""Events that go with the database session of a request."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import Depends, params

from perkamo.events import Event
from perkamo.outbox.postgres.outbox import PostgresOutbox


class PerkamoOutbox:
    """Puts events in the request's own session: they are committed with the order, or not at all."""

    def __init__(self, outbox: PostgresOutbox, session: object) -> None:
        """Keep both; see ``perkamo_outbox``."""
        self._outbox = outbox
        self._session = session

    async def put(self, event: Event | Mapping[str, object]) -> Event:
        """Keep an event if the session's transaction commits; see ``PostgresOutbox.aput``.

        Args:
            event: The event. Without a transaction id, ``tx_<uuid4>`` is made.

        Returns:
            The event as it is kept, with its final transaction id.

        Raises:
            PerkamoValidationError: It can't be sent.
            PerkamoOutboxConflictError: Another event waits under this transaction id.
            PerkamoConfigurationError: The session can't be used.
        """
        return await self._outbox.aput(self._session, event)


def perkamo_outbox(
    outbox: PostgresOutbox, get_session: Callable[..., object] | params.Depends
) -> Callable[..., Awaitable[PerkamoOutbox]]:
    """Return a dependency that puts events in the session of the request.

        session = Depends(get_session, scope="function")  # commits before the answer is sent
        OutboxDep = Annotated[PerkamoOutbox, Depends(perkamo_outbox(PostgresOutbox(), session))]

    ``perkamo outbox relay postgresql://…``, as a service of its own, delivers what was committed.

    Args:
        outbox: The outbox; one that only puts needs no DSN.
        get_session: The application's own dependency for a session, such as SQLAlchemy's ``AsyncSession``: exactly what
            the handler asks for, so that both get the same session. Where the handler's ``Depends`` has options, such
            as ``scope="function"``, give that ``Depends``: with other options FastAPI opens another session.
    """
    in_request: params.Depends = get_session if isinstance(get_session, params.Depends) else Depends(get_session)

    async def put_in_session(session: Annotated[object, in_request]) -> PerkamoOutbox:
        return PerkamoOutbox(outbox, session)

    return put_in_session
