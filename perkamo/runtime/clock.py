"""Time and chance as a value: code that waits, times out or needs randomness gets a clock; a test passes its own."""

import random
import sys
import time
from collections.abc import Callable
from functools import partial

import anyio


def _monotonic() -> Callable[[], float]:
    """Return the system's monotonic clock, which tools that freeze time do not replace, unlike ``time.monotonic``."""
    if sys.platform == "win32":
        return time.monotonic
    return partial(time.clock_gettime, time.CLOCK_MONOTONIC)


_has_boot_time = hasattr(time, "CLOCK_BOOTTIME")
boot_time: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if _has_boot_time else _monotonic()
"""Return seconds since the machine was started, the same in all its processes; nobody can set them."""


class Clock:
    """The clock, the waits and the randomness of a client. It keeps running when a test tool freezes time."""

    _read = staticmethod(_monotonic())  # not a name of the module, which such a tool would replace

    def now(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self._read()

    def limit(self, seconds: float | None) -> anyio.CancelScope:
        """Return a scope that is cancelled after this many seconds, or never if ``seconds`` is None."""
        return anyio.move_on_after(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    def randomness(self) -> float:
        """Return a random number from 0 to 1."""
        return random.random()  # noqa: S311 - jitter is not a secret
