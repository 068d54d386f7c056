"""How delivery of each Space stands, by what a store has noted of it."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

from attrs import frozen

from perkamo.outbox.store import UNBOUND, SpaceStats

MINUTE: Final = 60

StatsOfSpaces: TypeAlias = tuple[SpaceStats, ...]
"""How delivery of each Space stands."""


@frozen
class SpaceRow:
    """What a store notes of a Space; moments are in milliseconds of the wall clock, or seconds since the machine began.

    Attributes:
        space: Its name.
        delivered_at: When the service last answered for an event.
        error: Why a relay could deliver nothing when it last could not.
        error_at: When that was.
        paused_until: Until when the service wants no request; since the machine began.
        retry_at: When a relay tries again, since the machine began; None while events pass.
    """

    space: str
    delivered_at: int | None = None
    error: str | None = None
    error_at: int | None = None
    paused_until: float = 0.0
    retry_at: float | None = None


def to_stats(  # noqa: PLR0917 - all that a store has read, in one step
    noted: Iterable[SpaceRow],
    waiting: Mapping[str, int],
    put_at: Mapping[str, int],
    delivered: Mapping[str, int],
    boot_time: float,
    wall_time: float,
    longest: float,
) -> StatsOfSpaces:
    """Return how each Space stands that has events waiting or had some sent.

    Args:
        noted: What was noted of Spaces that had some sent.
        waiting: How many events wait, by Space.
        put_at: When the oldest of these was put, in milliseconds of the wall clock.
        delivered: How many events were delivered in the last minute, by Space.
        boot_time: Seconds since the machine was started.
        wall_time: Unix seconds.
        longest: A pause that would last longer than this many seconds was noted before the machine was started again.
    """
    rows = {space: SpaceRow(space) for space in waiting} | {row.space: row for row in noted}
    found: list[SpaceStats] = []
    for space, row in sorted(rows.items()):
        until = max(row.paused_until, row.retry_at or 0.0) - boot_time
        is_paused = row.retry_at is not None and bool(waiting.get(space) or waiting.get(UNBOUND))
        found.append(
            SpaceStats(
                space=space,
                pending=waiting.get(space, 0),
                oldest_age=max(0.0, wall_time - put_at[space] / 1000) if space in put_at else None,
                last_delivery=_moment(row.delivered_at),
                delivered_last_minute=delivered.get(space, 0),
                last_error=row.error,
                last_error_at=_moment(row.error_at),
                paused=row.error if is_paused else None,
                paused_until=_moment(1000 * (wall_time + until)) if is_paused and 0 < until <= longest else None,
            )
        )
    return tuple(found)


def _moment(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
