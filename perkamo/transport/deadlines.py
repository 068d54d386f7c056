"""Ends waits that take too long, on asyncio: one timer for all sockets of an event loop.

A cancel scope for each wait would cost more than the rest of the wait. On trio, which has no callbacks, the sockets use
cancel scopes.
"""

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import ref

from perkamo.runtime.clock import Clock

if TYPE_CHECKING:
    import asyncio

FOREVER: Final = float("inf")
"""A deadline that never passes."""

_NO_STEPS: Final[Mapping[str, float | None]] = {}


class Timeouts:
    """The time limits of one exchange, which begins now.

    Args:
        extensions: The extensions of its request: ``timeout`` has the seconds for each step (``pool``, ``connect``,
            ``write`` and ``read``), ``total`` those for all steps together, including the body of the answer.
        clock: The clock that they use.
    """

    __slots__ = ("_clock", "_end", "_steps")

    def __init__(self, extensions: Mapping[str, Any], clock: Clock) -> None:
        self._steps: Mapping[str, float | None] = extensions.get("timeout", _NO_STEPS)
        self._clock = clock
        total: float | None = extensions.get("total")
        self._end = FOREVER if total is None else clock.now() + total

    def until(self, step: str) -> float:
        """Return the deadline of a step that begins now."""
        seconds = self._steps.get(step)
        return self._end if seconds is None else min(self._end, self._clock.now() + seconds)


class Waiting(Protocol):
    """Something that waits, and whose wait can be ended."""

    def expire(self) -> None:
        """End the wait, unless it has just ended."""


class Deadlines:
    """The deadlines of an event loop's sockets.

    Args:
        clock: The clock that they use.
    """

    __slots__ = ("_clock", "_timer", "_waits", "_when")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[Waiting, float] = {}
        self._when = FOREVER
        self._timer: Callable[[], asyncio.TimerHandle | None] | None = None

    def begin(self, waiting: Waiting, deadline: float) -> None:
        """End a wait at its deadline, unless ``end`` is called before."""
        self._waits[waiting] = deadline
        if deadline < self._when:
            self._set(deadline)

    def end(self, waiting: Waiting) -> None:
        """Forget a wait that is over."""
        self._waits.pop(waiting, None)

    def close(self) -> None:
        """Cancel the timer. Waits that are still under way must be ended in another way."""
        timer = None if self._timer is None else self._timer()
        if timer is not None:
            timer.cancel()
        self._timer, self._when = None, FOREVER

    def _set(self, when: float) -> None:
        import asyncio  # noqa: PLC0415 - as in sockets

        self.close()
        seconds = max(0.0, when - self._clock.now())
        # An empty context: otherwise the timer would keep the context of the first call alive.
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, context=Context())
        self._timer, self._when = _weak(timer), when

    def _expire(self) -> None:
        self._timer, self._when = None, FOREVER
        now = self._clock.now()
        for waiting in [waiting for waiting, deadline in self._waits.items() if deadline <= now]:
            del self._waits[waiting]
            waiting.expire()
        if self._waits:
            self._set(min(self._waits.values()))


def _weak(timer: "asyncio.TimerHandle") -> Callable[[], "asyncio.TimerHandle | None"]:
    """Refer to a timer without keeping it alive: it holds its loop, and a pool must not keep its own loop alive.

    Some event loops' timers have no weak references (rloop's). Such a timer is kept until it has run.
    """
    try:
        return ref(timer)
    except TypeError:
        return lambda: timer
