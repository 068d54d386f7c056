"""How delivery stands, read from the tables within a transaction of ``database.py``."""

import sqlite3
from datetime import UTC, datetime
from typing import Final, TypeAlias

from perkamo.outbox.store import UNBOUND, SpaceStats

_Row: TypeAlias = tuple[str, int | None, str | None, int | None, float, float | None]

MINUTE: Final = 60
_WAITING: Final = "SELECT space, count(*) FROM events WHERE reason IS NULL GROUP BY space"
_OLDEST: Final = "SELECT put_at FROM events WHERE reason IS NULL AND space = ? ORDER BY id LIMIT 1"
_DELIVERED: Final = "SELECT space, sum(events) FROM deliveries WHERE second BETWEEN ? AND ? GROUP BY space"
_SPACES: Final = "SELECT space, delivered_at, error, error_at, paused_until, retry_at FROM spaces"


def read_spaces(
    connection: sqlite3.Connection, boot_time: float, wall_time: float, longest: float
) -> tuple[SpaceStats, ...]:
    """Return how each Space stands that has events waiting or had some sent.

    Args:
        connection: Where the tables are.
        boot_time: Seconds since the machine was started.
        wall_time: Unix seconds.
        longest: A pause that would last longer than so many seconds was noted before the machine was started anew.
    """
    waiting: dict[str, int] = dict(connection.execute(_WAITING).fetchall())
    delivered: dict[str, int] = dict(connection.execute(_DELIVERED, (boot_time - MINUTE, boot_time)).fetchall())
    rows: list[_Row] = connection.execute(_SPACES).fetchall()
    noted = {row[0]: row for row in rows}
    found: list[SpaceStats] = []
    for space in sorted({*waiting, *noted}):
        _, delivered_at, error, error_at, paused_until, retry_at = noted.get(
            space, (space, None, None, None, 0.0, None)
        )
        oldest = connection.execute(_OLDEST, (space,)).fetchone() if space in waiting else None
        until = max(paused_until, retry_at or 0.0)
        has_waiting = bool(waiting.get(space) or waiting.get(UNBOUND))
        found.append(
            SpaceStats(
                space=space,
                pending=waiting.get(space, 0),
                oldest_age=None if oldest is None else max(0.0, wall_time - oldest[0] / 1000),
                last_delivery=_moment(delivered_at),
                delivered_last_minute=delivered.get(space, 0),
                last_error=error,
                last_error_at=_moment(error_at),
                paused=error if retry_at is not None and has_waiting else None,
                paused_until=_moment(1000 * (wall_time + until - boot_time))
                if retry_at is not None and has_waiting and 0 < until - boot_time <= longest
                else None,
            )
        )
    return tuple(found)


def _moment(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
