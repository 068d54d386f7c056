"""The event loop behind the sync clients, which anyio runs in a daemon thread, and the way into it.

The way in is not anyio's ``from_thread.run`` or ``BlockingPortal``, whose waits have no end of their own. In them a
forked child hangs, an exception set on the thread goes unnoticed, gevent raises ``LoopExit``, and a finalizer waits for
a loop that may wait for it; ``tests/sync/test_anyio_portal.py`` says whether that still is so. Measured side by side, a
call without work in it takes 44 µs of processor time here, 50 by ``from_thread.run`` and 100 by
``BlockingPortal.call``.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Final

import anyio

from perkamo.errors import PerkamoClosedError, PerkamoError, WriteOutcome
from perkamo.runtime.event_loop import InLoop, caller_into_loop
from perkamo.runtime.thread_loop import EventLoop
from perkamo.runtime.threads import is_gevent, start_thread

GLANCE: Final = 0.04
"""Seconds after which a waiting thread notices an exception set on it. A signal wakes the main one at once."""

_STARTING: Final = 60.0
"""Seconds that the loop has to start. It needs modules that another thread may be importing in that very moment."""

_ENDING: Final = 0.5
"""Seconds that the interpreter's exit waits for calls under way to be cancelled."""


class LoopThread:
    """An event loop in a thread of its own.

    Attributes:
        ending: Whether calls under way are being cancelled, because the interpreter exits.
        has_started: Whether calls can be made without waiting for the loop first.
        pid: The process it belongs to.

    Raises:
        RuntimeError: The thread can't start.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _in_loop: InLoop
    _stop: anyio.Event

    def __init__(self) -> None:
        self.ending: bool = False
        self.has_started: bool = False
        self.pid: int = os.getpid()
        self._has_ended = False
        self._gevent = is_gevent()
        self._ident: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps none from being collected
        self._started: Future[None] = Future()
        self._join = start_thread(self._run, "perkamo-portal")

    @property
    def is_serving(self) -> bool:
        """Whether new calls may be made: not in a forked child, and not where gevent has replaced threads since."""
        return not self.ending and self.pid == os.getpid() and self._gevent is is_gevent()

    @property
    def is_alive(self) -> bool:
        """Whether calls under way will ever be answered, in this process."""
        return self.pid == os.getpid() and not self._has_ended

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this loop, where waiting for it would never end, or in its thread beforehand."""
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented, and raises nothing
        return (running is not None and running is self._loop) or threading.get_ident() == self._ident

    def wait_until_started(self) -> None:
        """Wait for the loop.

        Raises:
            OSError: There are too many open files.
            PerkamoError: The process was forked meanwhile, and this is the child; or the loop does not start, such as
                where a finalizer calls while its thread imports what the loop needs.
        """
        left = _STARTING
        while not self.has_started:
            try:
                self._started.result(GLANCE)
            except TimeoutError:
                if self.pid != os.getpid():
                    raise self.ended_error("not_sent") from None
                left -= GLANCE
                if left <= 0:
                    raise PerkamoError(
                        "The event loop behind the sync clients did not start in time. Nothing was sent; try again.",
                        outcome="not_sent",
                        retryable=True,
                    ) from None

    def start_soon(self, function: Callable[[], Coroutine[object, object, None]]) -> None:
        """Start a task in the loop, with a copy of the caller's context.

        Never waits, as no finalizer may; nothing happens where it is too late.

        Args:
            function: The task's coroutine function. It must see to its own errors.
        """
        self.call_soon(partial(self._start, function))

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop. Never waits; nothing happens where it is too late, or in a forked child."""
        if self.pid == os.getpid():
            self._in_loop(function)

    def stop(self) -> None:
        """Cancel what is under way and end the loop; give up waiting where something refuses to end."""
        with suppress(TimeoutError, OSError):  # the latter where it never started
            self._started.result(_ENDING)
            self._in_loop(self._stop.set)
            self._join(_ENDING)

    def ended_error(self, outcome: WriteOutcome) -> PerkamoError:
        """Return the error of a call that can't be made or finished any more."""
        if self.pid == os.getpid():
            return exit_error(outcome)
        return PerkamoError(
            "This was started before the process was forked, and continues in the parent process.", outcome=outcome
        )

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            Context().run(partial(anyio.run, self._serve, backend_options={"loop_factory": _Loop}))
        except Exception as error:
            if self.has_started:
                raise
            self._started.set_exception(error)
        finally:
            self.ending = self._has_ended = True

    async def _serve(self) -> None:
        self._in_loop = caller_into_loop()
        self._stop = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self.has_started = True
        self._started.set_result(None)
        await self._stop.wait()
        self.ending = True  # anyio.run ends now, and cancels what is left

    def _start(self, function: Callable[[], Coroutine[object, object, None]]) -> None:
        loop = self._loop
        if self.ending or loop is None:
            return
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None:  # the context is a copy of the caller's, who may run on trio
            sniffio.current_async_library_cvar.set("asyncio")
        task = loop.create_task(function())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Loop(EventLoop):
    """An event loop that continues where a task of the caller's making raises what would end asyncio's."""

    def run_forever(self) -> None:
        """Run until it is stopped."""
        while True:
            with suppress(SystemExit, KeyboardInterrupt):
                super().run_forever()
                return

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        """Wait for the executor's threads, unless the interpreter is exiting: Python 3.12 starts no thread then."""
        with suppress(RuntimeError):
            await super().shutdown_default_executor(*timeout)


def exit_error(outcome: WriteOutcome) -> PerkamoClosedError:
    """Return the error of a call that the interpreter's exit prevented or cut off."""
    sent = "Nothing was sent" if outcome == "not_sent" else "This call was cancelled, and may have been applied"
    return PerkamoClosedError(
        f"The interpreter is exiting. {sent}. Make the last calls before that.",
        outcome=outcome,
    )
