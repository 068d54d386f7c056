"""The store on a local disk, for the event loops that use it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from attrs import asdict, evolve

from perkamo.outbox.directory import Directory
from perkamo.outbox.errors import PerkamoOutboxError
from perkamo.outbox.sqlite.database import Database
from perkamo.outbox.sqlite.tables import LONGEST_LEASE, Tables
from perkamo.outbox.store import DeadLetter, Lease, OutboxStats, Settlement, WaitingEvent
from perkamo.outbox.writer import Writer
from perkamo.runtime.event_loop import Wakeup

_AT_ONCE = 5_000
"""How many rows one transaction changes at most where an operator changes them all; others wait for it."""
_MOVED = 900
"""How many events are carried to another store at a time; SQLite before 3.32 takes no more than 999 parameters."""
_ROW_BYTES = 8192
"""About how many bytes of pages a row costs in addition to its own."""


class SqliteStore:
    """See ``Store``."""

    def __init__(self, directory: Directory, max_bytes: int) -> None:
        self._directory, self._is_dead = directory, directory.is_dead
        self._max_bytes = max_bytes
        self._writer = Writer[Tables](Database(directory))

    async def put(self, transaction_id: str, space: str, body: bytes, trace_context: str | None = None) -> None:
        """Keep an event durably, and beside it the trace context of the code that puts it; see ``Outbox.put``."""
        event = (transaction_id, space, body, self._max_bytes, trace_context)
        await self._writer.do(lambda tables: tables.put(*event), _ROW_BYTES + len(body))
        self._writer.notify()

    async def take(self, spaces: Sequence[str], sizes: Sequence[int], max_bytes: int, seconds: float) -> Lease:
        """See ``Store.take``."""
        return await self._writer.do(lambda tables: tables.take(spaces, sizes, max_bytes, seconds, self._is_dead))

    async def take_any(self) -> tuple[Lease, dict[int, str]]:
        """Lease events of all Spaces, for another store; return the lease, and the Space of each row."""
        return await self._writer.do(lambda tables: tables.take_any(_MOVED, LONGEST_LEASE, self._is_dead))

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """See ``Store.settle``."""
        await self._writer.do(lambda tables: tables.settle(lease, settlement), in_company=True)

    async def count(self) -> OutboxStats:
        """See ``Store.count``."""
        try:  # evolve(), because what shares the transaction changes the counts after this was done
            counts, spaces = await self._writer.do(lambda tables: (evolve(tables.counts), tables.spaces()))
        except PerkamoOutboxError as error:
            counts, spaces = self._directory.read_counts(error), ()
        files, set_aside = len(self._directory.databases()), len(self._directory.set_aside())
        stats = OutboxStats(accepted=counts.accepted, **asdict(counts), files=files, set_aside=set_aside)
        return stats.with_spaces(spaces)

    async def waiting(self, after: int, limit: int) -> Sequence[WaitingEvent]:
        """See ``Store.waiting``."""
        return await self._writer.do(lambda tables: tables.waiting(after, limit))

    async def dead(self, after: int, limit: int) -> Sequence[DeadLetter]:
        """See ``Store.dead``."""
        return await self._writer.do(lambda tables: tables.dead(after, limit))

    async def requeue(self, transaction_id: str | None) -> int:
        """See ``Store.requeue``."""
        return await self._all(lambda tables: tables.requeue(transaction_id, _AT_ONCE))

    async def rebind(self, space: str, former: str | None) -> int:
        """See ``Store.rebind``."""
        return await self._all(lambda tables: tables.rebind(space, former, _AT_ONCE))

    def watch(self) -> AbstractContextManager[Wakeup]:
        """See ``Store.watch``."""
        return self._writer.watch()

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        await self._writer.aclose()

    async def _all(self, some: Callable[[Tables], int]) -> int:
        total = number = await self._writer.do(some)
        while number == _AT_ONCE:
            number = await self._writer.do(some)
            total += number
        self._writer.notify()
        return total
