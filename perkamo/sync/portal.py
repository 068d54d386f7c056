"""Runs coroutines for synchronous callers, in one event loop per process, which all of them share.

The loop starts at the first call, is replaced in a forked child, and ends with the interpreter without holding it up.
Every call is one task in it, made with a copy of the caller's context; the calling thread waits until it is done. An
interrupt (Ctrl-C, or an exception set on the thread) cancels the task before it continues to the caller. At the
interpreter's exit, when the loop has ended or no thread starts any more, a call gets a loop of its own.
"""

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Final, NoReturn, ParamSpec, TypeVar

import anyio

from perkamo.errors import PerkamoError
from perkamo.runtime.thread_loop import EventLoop
from perkamo.sync.async_usage import AsyncUsageWarnings
from perkamo.sync.call import LoopCall
from perkamo.sync.entered_context import EnteredContext
from perkamo.sync.loop_thread import LoopThread, exit_error

P = ParamSpec("P")
T = TypeVar("T")


class Portal:
    """The way of synchronous callers into an event loop.

    Args:
        closing_seconds: How long an iterator's end waits for the async one to close. It may be a finalizer, which must
            never hang.
    """

    def __init__(self, closing_seconds: float = 1.0) -> None:
        self._closing_seconds = closing_seconds
        self._usage = AsyncUsageWarnings()
        self._thread: LoopThread | None = None
        # A finalizer may take it again: the collector runs them in the middle of anything.
        self._lock = threading.RLock()
        # A fork's copies of threads that do not exist here. Dropping one would touch what is the parent's.
        self._of_parents: list[LoopThread] = []
        self._exiting = False

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one coroutine function in the loop, wait for it, and return what it returns or raise what it raises.

        Args:
            function: The coroutine function.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            PerkamoError: It was called in the loop's own thread, where waiting would never end, or there is no loop.
            PerkamoClosedError: The interpreter exited meanwhile.
        """
        thread = self._ready(function, "await")
        if thread is None:
            return _run_at_exit(partial(function, *args, **kwargs))
        return LoopCall(thread, partial(function, *args, **kwargs)).run()

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Yield what an async iterator yields, one call at a time, and close it at the end.

        Args:
            iterator: It must hold no task group or cancel scope between two steps, each of which is a task of its own.

        Raises:
            PerkamoError: As ``run``, or it was begun in another process, or the interpreter is exiting.
        """
        keyword = "async for ... in"
        thread = self._ready(iterator, keyword) or _too_late()
        try:
            while True:
                self._ready(iterator, keyword)  # no step is made in the loop's own thread
                try:
                    item = LoopCall(thread, iterator.__anext__).run()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            close: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
            if close is not None and thread.is_serving:
                closing = LoopCall(thread, close)
                closing.begin()
                if not thread.is_current and closing.wait(self._closing_seconds):
                    closing.result()

    def wrap_async_context_manager(
        self, manager: AbstractAsyncContextManager[T, bool | None]
    ) -> AbstractContextManager[T, bool]:
        """Return a sync context manager that enters and leaves an async one, in one task of the loop.

        Args:
            manager: The async context manager.

        Raises:
            PerkamoError: As ``run``, or the interpreter is exiting.
        """
        return EnteredContext(self._ready(manager, "async with") or _too_late(), manager)

    def finalize_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a coroutine function in the loop some time, wait for nothing: for finalizers, which must never wait.

        Args:
            function: The coroutine function. What it raises is dropped; nothing happens where no loop runs.
        """
        thread = self._thread
        if thread is not None and not self._exiting and thread.has_started and thread.is_serving:
            LoopCall(thread, function).begin()

    def forget_parent(self) -> None:
        """Begin again in a forked child: the parent's thread is not here, and its lock may be held forever."""
        if self._thread is not None:
            self._of_parents.append(self._thread)
        self._thread = None
        self._lock = threading.RLock()

    def stop(self) -> None:
        """End with the interpreter: cancel what is under way. A later call gets a loop of its own."""
        self._exiting = True
        if self._thread is not None and self._thread.is_serving:
            self._thread.stop()

    def _ready(self, subject: object, keyword: str) -> LoopThread | None:
        """Return this process's loop, for a call that may be made here; warn where it should not be. None at exit."""
        thread = self._thread
        if thread is None or not (thread.has_started and thread.is_serving):
            thread = self._start()
        if thread is not None and thread.is_current:
            raise PerkamoError(
                "A sync call was made inside the event loop that serves it, such as in an async api_key function. "
                "Nothing was sent; await the same call on AsyncPerkamoClient.",
                outcome="not_sent",
            )
        self._usage.warn_in_event_loop(subject, keyword)
        return thread

    def _start(self) -> LoopThread | None:
        if self._thread is not None and self._thread.pid != os.getpid():
            self.forget_parent()  # where no hook was called, as after a fork by C code
        if self._exiting:
            return None
        try:
            with self._lock:  # never held while waiting: under gevent it may be everybody's in this thread
                if self._thread is None or not self._thread.is_serving:
                    self._thread = LoopThread()
                thread = self._thread
            if not thread.is_current:
                thread.wait_until_started()
        except (OSError, RuntimeError) as error:  # out of files or threads, or no thread starts any more at exit
            if not threading.main_thread().is_alive():
                return None
            raise PerkamoError(
                f"The event loop behind the sync clients can't start: {error}. Nothing was sent.",
                outcome="not_sent",
                retryable=True,
            ) from error
        return thread


def _run_at_exit(function: Callable[[], Awaitable[T]]) -> T:
    async def call() -> T:
        return await function()

    # Once the interpreter is torn down, no other thread runs, and soon nothing can be imported any more.
    if sys.is_finalizing() or asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and raises nothing
        _too_late()
    return copy_context().run(partial(anyio.run, call, backend_options={"loop_factory": EventLoop}))


def _too_late() -> NoReturn:
    raise exit_error("not_sent")


_of_process: Final = Portal()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_of_process.forget_parent)
atexit.register(_of_process.stop)

run: Final = _of_process.run
iterate: Final = _of_process.iterate
wrap_async_context_manager: Final = _of_process.wrap_async_context_manager
finalize_soon: Final = _of_process.finalize_soon
