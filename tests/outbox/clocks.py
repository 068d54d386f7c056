"""A clock for tests that wait through failures."""

from perkamo.runtime.clock import Clock


class HardlyWaiting(Clock):
    """Draws lots such that a wait between two tries is a thousandth of the longest possible one."""

    def randomness(self) -> float:
        """Return nearly nothing."""
        return 0.001
