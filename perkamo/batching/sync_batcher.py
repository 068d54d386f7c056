# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""Sends emits that wait at the same time in one request, and gives each caller its own result.

GENERATED from batching/batcher.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
"""

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

from perkamo.batching.batcher import Batcher
from perkamo.batching.split import MAX_REQUEST_EVENTS
from perkamo.batching.sync_sending import sending
from perkamo.events import Context, Event
from perkamo.models import EventIngestResponse
from perkamo.sync.portal import run, wrap_async_context_manager
from perkamo.sync_client import PerkamoClient


class SyncBatcher:
    """Sends the events of many tasks in as few requests as possible.

    Nothing is kept on disk: an event may be lost if the process ends before its emit has returned. For events that must
    survive, use ``SyncOutbox``.

    Example:
        >>> with PerkamoClient() as perkamo, SyncBatcher(perkamo) as batcher:
        ...     result = batcher.emit("customer_123", "purchase.completed", {"amount": 12900})
    """

    def __init__(
        self,
        client: PerkamoClient,
        *,
        max_delay: float = 0.01,
        max_events: int = MAX_REQUEST_EVENTS,
        max_pending: int = 10000,
    ) -> None:
        """Set up a batcher; nothing is sent and no task runs before ``with``.

        Args:
            client: Sends the requests, with its own retries. If these fail, and one of the events may be the cause, the
                request is split. The client must stay open longer than the batcher.
            max_delay: Seconds, 0 to 60, for which an emit waits for others.
            max_events: The most events of one request, 1 to 100.
            max_pending: The most emits that wait or are being sent, 1 or more. Further ones wait for their turn.

        Raises:
            PerkamoConfigurationError: A limit is out of its range.
        """
        self._async = Batcher(sending(client), max_delay=max_delay, max_events=max_events, max_pending=max_pending)
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    def __enter__(self) -> Self:
        self._entered = wrap_async_context_manager(self._async)
        self._entered.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send the emits that wait; if the block was cancelled, end them with an error."""
        self._entered.__exit__(kind, error, traceback)

    def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Send one activity event together with the events that others emit at the same time.

        Args:
            user_id: As for ``client.emit``.
            event: As for ``client.emit``.
            context: As for ``client.emit``.
            transaction_id: As for ``client.emit``.
            occurred_at: As for ``client.emit``.

        Returns:
            The result of this event.

        Raises:
            PerkamoValidationError: An argument can't be sent. Nothing was sent.
            PerkamoClosedError: The batcher is not open.
            PerkamoError: The event was refused, or its request failed; see ``.outcome``.
        """
        return run(self._async.emit, user_id, event, context, transaction_id=transaction_id, occurred_at=occurred_at)

    def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Send one ``Event``; see ``emit``.

        Args:
            event: The event; without a transaction id, ``tx_<uuid4>`` is made.

        Returns:
            The result of this event.

        Raises:
            PerkamoError: As ``emit`` does.
        """
        return run(self._async.emit_event, event)
