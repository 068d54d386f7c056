"""A clock for tests that wait through failures."""

from perkamo import PostgresOutbox
from perkamo.outbox.operations import OutboxOperations
from perkamo.runtime.clock import Clock


class HardlyWaiting(Clock):
    """Draws lots such that a wait between two tries is a thousandth of the longest possible one."""

    def randomness(self) -> float:
        """Return nearly nothing."""
        return 0.001


def by_clock(outbox: OutboxOperations, clock: Clock) -> None:
    """Let the relays of an outbox go by a clock."""
    outbox._clock = clock


def wholly_by_clock(outbox: PostgresOutbox, clock: Clock) -> None:
    """Let its store go by the clock, too."""
    outbox._clock = outbox._postgres._clock = clock
