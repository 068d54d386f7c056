"""The event loop of a thread of ours."""

import asyncio

from perkamo.runtime.clock import Clock


class EventLoop(asyncio.SelectorEventLoop):
    """The event loop of a thread of ours. Its clock keeps running when a test tool freezes time.

    It does not come from the event loop policy, whose loops may need a special thread, as those of GUI toolkits do.
    """

    _clock = Clock()
    _is_built = False

    def __init__(self) -> None:
        super().__init__()
        self._is_built = True

    def __del__(self) -> None:
        if self._is_built:  # asyncio's own __del__ fails if no file could be opened any more
            super().__del__()

    def time(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self._clock.now()
