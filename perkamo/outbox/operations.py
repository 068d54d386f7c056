"""What every outbox does with the events in it, whichever store it has."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoConfigurationError
from perkamo.outbox.relay import FINISH_SECONDS, Relay, relaying, space_of
from perkamo.outbox.store import UNBOUND, DeadLetter, OutboxStats, Store, WaitingEvent
from perkamo.runtime.clock import Clock

_PAGE: Final = 100


class OutboxOperations:
    """Delivers what waits, counts it, and sees to the dead letters. Every outbox does this, whichever store it has."""

    def __init__(self, store: Store, *, space: str | None, concurrency: int) -> None:
        """Prepare; subclasses say how a user makes one.

        Args:
            store: Where the events wait.
            space: The name of their Space, checked, or None.
            concurrency: How many requests a relay has on their way by default.
        """
        self._name = space
        self._space = self._name or UNBOUND
        self._store = store
        self._concurrency = concurrency
        self._clock = Clock()

    @asynccontextmanager
    async def relay(
        self, client: AsyncPerkamoClient, *, concurrency: int | None = None, grace: float = FINISH_SECONDS
    ) -> AsyncGenerator[Relay]:
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
        await space_of(client)
        async with relaying(self._relay(client, concurrency, until_empty=False), grace) as relay:
            yield relay

    async def drain(self, client: AsyncPerkamoClient, *, concurrency: int | None = None) -> OutboxStats:
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
        await space_of(client)
        await self._relay(client, concurrency, until_empty=True).run()
        return await self.stats()

    async def stats(self) -> OutboxStats:
        """Count, over all processes and restarts, the outcome of the events.

        Returns:
            The counts. ``accepted`` is ``delivered + pending + dead + missing``, whatever happens meanwhile.
        """
        return await self._store.count()

    async def waiting(self) -> AsyncIterator[WaitingEvent]:
        """Read the events that wait, oldest first; what is delivered meanwhile may be among them.

        Yields:
            One event after the other.
        """
        row = 0
        while events := await self._store.waiting(row, _PAGE):
            for event in events:
                yield event
            row = events[-1].row

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
        """Queue dead letters for delivery again, for instance after the program was corrected.

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
        """Finish what was asked for, and close files and connections; needed only before the process's own end."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _relay(self, client: AsyncPerkamoClient, concurrency: int | None, *, until_empty: bool) -> Relay:
        if concurrency is not None and concurrency < 1:
            raise PerkamoConfigurationError("concurrency must be 1 or more.")
        return Relay(
            self._store,
            client,
            space=self._name,
            on_accepted=self._bind,
            until_empty=until_empty,
            concurrency=self._concurrency if concurrency is None else concurrency,
            clock=self._clock,
        )

    def _bind(self, space: str) -> None:
        self._space = space
