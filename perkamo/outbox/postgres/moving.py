"""Carries what waits on a disk into a database, once."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from attrs import frozen

from perkamo.outbox.postgres.store import PostgresStore
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import Settlement, StoredEvent
from perkamo.runtime.clock import Clock

_CONFLICT: Final = "The database holds another event with this transaction id. This one was not moved."
_LOOK_AGAIN: Final = 1.0


@frozen
class Moved:
    """How many events are in the database now, and how many could not be moved."""

    moved: int
    refused: int


async def move(source: SqliteStore, target: PostgresStore, clock: Clock = Clock()) -> Moved:
    """Carry all that waits from a directory to a database; each event stays with its Space.

    An event is forgotten in the directory once it is durable in the database. After an interruption it continues where
    it was: what was carried twice is kept once. It waits for what a relay has on its way, or has put off. Dead letters
    stay. An event whose id has another event in the database becomes one.

    Args:
        source: Where the events wait; what is moved counts as delivered there.
        target: Where they go.
        clock: What the waits go by.

    Raises:
        PerkamoOutboxError: One of the two can't be used; nothing is lost.
    """
    moved = refused = 0
    while True:
        lease, spaces = await source.take_any()
        if not lease.events and not lease.waiting:
            return Moved(moved, refused)
        if not lease.events:
            await clock.sleep(min(_LOOK_AGAIN, _LOOK_AGAIN if lease.wait is None else lease.wait))
        for space, events in _by_space(lease.events, spaces):
            conflicts = set(await target.add(space, events))
            dead = [(event, _CONFLICT) for event in events if event.transaction_id in conflicts]
            gone = [event for event in events if event.transaction_id not in conflicts]
            await source.settle(lease, Settlement(space, delivered=gone, dead=dead))
            moved, refused = moved + len(gone), refused + len(dead)


def _by_space(events: Sequence[StoredEvent], spaces: Mapping[int, str]) -> list[tuple[str, list[StoredEvent]]]:
    ordered = sorted(events, key=lambda event: spaces[event.row])
    return [(space, list(some)) for space, some in groupby(ordered, key=lambda event: spaces[event.row])]
