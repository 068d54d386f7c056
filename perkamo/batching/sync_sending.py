# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""The async client with which coroutines deliver the events of a sync client."""

from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Self

from anyio.to_thread import run_sync

from perkamo.client import AsyncPerkamoClient
from perkamo.events import Event
from perkamo.models import BatchIngestResponse
from perkamo.request.options import copied
from perkamo.request.retry import RetryPolicy
from perkamo.sync_client import PerkamoClient


def sending(client: PerkamoClient) -> AsyncPerkamoClient:
    """Return the client that coroutines send with: the async one inside, or one that calls a subclass's ``batch``.

    Args:
        client: The sync client.
    """
    return client._async if client.__class__.batch is PerkamoClient.batch else _SubclassClient(client)


class _SubclassClient(AsyncPerkamoClient):
    """Sends with a subclass's own sync ``batch``, in a worker thread."""

    def __init__(self, client: PerkamoClient) -> None:
        self._exchange = client._async._exchange
        self._streams = client._async._streams
        self._owns_connections = False
        self._sync = client

    async def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
        """Send as the subclass does."""
        return await run_sync(self._sync.batch, events)

    def with_options(
        self, *, timeout: float | EllipsisType | None = ..., retry: RetryPolicy | EllipsisType = ...
    ) -> Self:
        """Return a view over a view of the sync client."""
        view = super().with_options(timeout=timeout, retry=retry)
        return copied(view, _sync=self._sync.with_options(timeout=timeout, retry=retry))
