"""What the tests of the store in PostgreSQL share."""

from collections.abc import Sequence
from functools import partial

from perkamo.outbox.postgres.store import PostgresStore
from perkamo.outbox.settling import SIZES
from perkamo.outbox.store import StoredEvent
from perkamo.runtime.clock import Clock

MINE = "key:mine"
take_all = partial(PostgresStore.take, spaces=[MINE], sizes=SIZES, max_bytes=1 << 20, seconds=60.0)


class OwnTime(Clock):
    """A clock that a test moves, for the pace of this side; leases go by the database's."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        """Return the test's time."""
        return self.seconds


def ids(events: Sequence[StoredEvent]) -> list[str]:
    """Return the transaction ids of events."""
    return [event.transaction_id for event in events]
