"""A database with short words for what a test does in it."""

from pathlib import Path
from typing import Final

from perkamo.outbox.directory import Directory
from perkamo.outbox.record import Counts
from perkamo.outbox.sqlite.database import Database
from perkamo.outbox.store import UNBOUND, DeadLetter, Lease, Settlement

HERE: Final = "key:here"
THERE: Final = "key:there"
ROOM: Final = 1 << 30
SIZES: Final = (100, 100, 2, 1)


class Box:
    """An outbox's database, opened by this test's process."""

    def __init__(self, path: Path) -> None:
        self.database = Database(Directory(path))
        self.dead_users: set[str] = set()

    def put(self, *ids: str, space: str = UNBOUND, body: bytes = b"{}", room: int = ROOM) -> None:
        """Put events in one commit."""
        with self.database.transaction() as tables:
            for one in ids:
                tables.put(one, space, body, room)

    def take(self, *spaces: str, max_bytes: int = ROOM, seconds: float = 60.0) -> Lease:
        """Lease events."""
        with self.database.transaction() as tables:
            return tables.take(spaces or (HERE,), SIZES, max_bytes, seconds, self.dead_users.__contains__)

    def settle(self, lease: Lease, settlement: Settlement) -> None:
        """Settle leased events."""
        with self.database.transaction() as tables:
            tables.settle(lease, settlement)

    def deliver(self, lease: Lease) -> None:
        """Settle all events of a lease as delivered."""
        self.settle(lease, Settlement(HERE, accepted=True, delivered=lease.events))

    def refuse(self, lease: Lease) -> None:
        """Make dead letters of all events of a lease."""
        self.settle(lease, Settlement(HERE, dead=[(event, f"no {event.transaction_id}") for event in lease.events]))

    def put_off(self, lease: Lease, failures: int, seconds: float, *, accepted: bool = False) -> None:
        """Let all events of a lease wait."""
        later = [(event, failures, seconds) for event in lease.events]
        self.settle(lease, Settlement(HERE, accepted=accepted, later=later))

    def dead(self) -> list[DeadLetter]:
        """Return the dead letters."""
        with self.database.transaction() as tables:
            return tables.dead(0, 1000)

    def waiting(self) -> list[str]:
        """Return the ids of all events that wait, oldest first."""
        with self.database.transaction() as tables:
            rows = tables.connection.execute("SELECT transaction_id FROM events WHERE reason IS NULL ORDER BY id")
            return [transaction_id for (transaction_id,) in rows]

    def rows(self) -> list[int]:
        """Count the rows that wait, and those that are dead."""
        with self.database.transaction() as tables:
            query = "SELECT coalesce(sum(reason IS NULL), 0), coalesce(sum(reason IS NOT NULL), 0) FROM events"
            return list(tables.connection.execute(query).fetchone())

    @property
    def counts(self) -> Counts:
        """The counts."""
        with self.database.transaction() as tables:
            return tables.counts


def ids(lease: Lease) -> list[str]:
    """Return the ids of leased events, in order."""
    return [event.transaction_id for event in lease.events]
