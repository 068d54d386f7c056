"""Clocks that tests give to what waits and draws lots."""

import anyio
import anyio.lowlevel
from attrs import evolve

from perkamo import AsyncPerkamoClient
from perkamo.runtime.clock import Clock


class NotedWaits(Clock):
    """A clock whose waits are noted and not made.

    Args:
        drawn: What takes the place of every random number.

    Attributes:
        asked: Every wait so far, in seconds.
    """

    def __init__(self, drawn: float | None = None) -> None:
        self.asked: list[float] = []
        self._drawn = drawn

    async def sleep(self, seconds: float) -> None:
        """Note the wait."""
        self.asked.append(seconds)
        await anyio.lowlevel.checkpoint()

    def randomness(self) -> float:
        """Return what the test chose, or a random number."""
        return super().randomness() if self._drawn is None else self._drawn


def by_clock(client: AsyncPerkamoClient, clock: Clock) -> AsyncPerkamoClient:
    """Let a client's calls go by a clock, and return it."""
    client._exchange = evolve(client._exchange, clock=clock)
    return client
