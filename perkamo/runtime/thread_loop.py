"""The event loop of a thread of ours."""

import asyncio

from perkamo.runtime.clock import Clock


class EventLoop(asyncio.SelectorEventLoop):
    """The event loop of a thread of ours. Its clock keeps running where a test tool has frozen time.

    Of this class and not a policy's, which may want a thread of its own, as those of GUI toolkits do.
    """

    _clock = Clock()
    _is_built = False

    def __init__(self) -> None:
        super().__init__()
        self._is_built = True

    def __del__(self) -> None:
        if self._is_built:  # asyncio's own fails where no file could be opened any more
            super().__del__()

    def time(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self._clock.now()
