"""One call from a thread into the event loop, which the thread may be interrupted in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Generic, TypeVar

import anyio

from perkamo.sync.loop_thread import GLANCE, LoopThread

T = TypeVar("T")

_UNWINDING: Final = 0.05
"""Seconds that a cancelled call may take to unwind before the interrupt continues without it."""


class LoopCall(Generic[T]):
    """A task in the loop, and a lock that the calling thread sleeps on until it has ended.

    Args:
        thread: The loop.
        function: The coroutine function.
    """

    __slots__ = ("_begun", "_done", "_error", "_function", "_given_up", "_scope", "_thread", "_value")

    _value: T

    def __init__(self, thread: LoopThread, function: Callable[[], Awaitable[T]]) -> None:
        self._thread = thread
        self._function = function
        self._done = threading.Lock()
        self._done.acquire()
        self._scope: anyio.CancelScope | None = None
        self._begun = False
        self._given_up = False
        self._error: BaseException | None = None

    def run(self) -> T:
        """Begin, wait, and return what the function returns or raise what it raises.

        Raises:
            PerkamoClosedError: The interpreter exits; the outcome says whether the function was called.
            PerkamoError: The process was forked meanwhile, and this is the child.
        """
        try:
            self.begin()
            self.wait()
        except BaseException:
            self.give_up()
            raise
        return self.result()

    def begin(self) -> None:
        """Start the task, without waiting."""
        self._thread.start_soon(self._run)

    def wait(self, seconds: float = inf) -> bool:
        """Sleep until the task has ended, and return True, or for this long. Interrupts of every kind go through.

        Raises:
            PerkamoError: The loop has ended before it, or this is a forked child.
        """
        return self.wait_for(self._done, seconds)

    def wait_for(self, lock: threading.Lock, seconds: float = inf) -> bool:
        """Sleep until the task releases a lock; see ``wait``."""
        while not lock.acquire(timeout=min(GLANCE, seconds)):
            if not self._thread.is_alive and not lock.acquire(blocking=False):
                raise self._thread.ended_error("unknown" if self._begun else "not_sent")
            seconds -= GLANCE
            if seconds <= 0:
                return False
        return True

    def result(self) -> T:
        """Return what the function returned, or raise what it raised.

        Raises:
            PerkamoClosedError: The interpreter's exit came before the function was called, or cancelled it.
        """
        if not self._begun:
            raise self._thread.ended_error("not_sent")
        error, self._error = self._error, None
        if error is None:
            return self._value
        cut_off = self._thread.ending and isinstance(error, asyncio.CancelledError)
        try:
            raise self._thread.ended_error("unknown") if cut_off else error
        finally:
            del error  # no cycle of error, traceback and frame

    def give_up(self) -> None:
        """Cancel the task and see it unwind, so that the request has left the wire when the caller continues."""
        self._given_up = True  # for a task that has not begun
        if self._thread.is_alive:
            self._thread.call_soon(self._cancel)
            self.wait(_UNWINDING)

    async def _run(self) -> None:
        if not (self._given_up or self._thread.ending):
            self._begun = True
            with anyio.CancelScope() as self._scope:
                try:
                    self._value = await self._function()
                except BaseException as error:  # noqa: BLE001 - it belongs to the calling thread
                    self._error = error
        self._done.release()

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
