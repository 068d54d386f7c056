"""The event loop behind the sync clients: one daemon thread per process, which all of them share.

It starts at the first call, is replaced in a forked child, and ends with the interpreter without holding it up. Every
call is one task in the loop, made with a copy of the caller's context; the calling thread sleeps on a lock until it is
done. An interrupt (Ctrl-C, or an exception set on the thread) cancels the task before it goes on to the caller.

What must begin and end in one task, such as a task group that a context manager opens, is *held*: a task of its own
enters the context manager, waits, and leaves it.
"""

import asyncio
import atexit
import inspect
import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context, copy_context
from types import TracebackType
from typing import Final, Generic, ParamSpec, TypeVar

from perkamo.errors import PerkamoAsyncUsageWarning, PerkamoClosedError, PerkamoError

P = ParamSpec("P")
T = TypeVar("T")

_GLANCE: Final = 0.04
"""Seconds; a sleeping thread other than the main one notices an exception that was set on it no later than this."""

_UNWINDING: Final = 0.05
"""Seconds that a cancelled call may take to unwind before the interrupt goes on without it."""

_ENDING: Final = 0.25
"""Seconds that the interpreter's exit waits for calls under way to be cancelled."""


def run(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run one coroutine function in the loop, wait for it, and return what it returns or raise what it raises.

    Args:
        function: The coroutine function.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Raises:
        PerkamoError: It was called in the loop's own thread, where waiting would never end.
        PerkamoClosedError: The interpreter is exiting, and the loop has ended.
    """
    portal = _current()
    if portal.thread.ident == threading.get_ident():
        raise PerkamoError(
            "A sync call was made inside the event loop that serves it, such as in an async api_key function. "
            "Nothing was sent; await the same call on AsyncPerkamoClient.",
            outcome="not_sent",
        )
    _warn_in_event_loop(function)

    async def call() -> T:
        return await function(*args, **kwargs)

    return _Call(portal, call, _callers_context()).result()


def iterate(iterator: AsyncIterator[T]) -> Iterator[T]:
    """Yield what an async iterator yields, one step of the loop at a time, and close it at the end.

    Args:
        iterator: It must hold no task group or cancel scope between two steps, each of which is a task of its own.
    """
    try:
        while True:
            try:
                item = run(iterator.__anext__)
            except StopAsyncIteration:
                return
            yield item
    finally:
        close: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
        if close is not None:
            run(close)


class Held(Generic[T]):
    """An async context manager that was entered, in a task that will also leave it.

    Attributes:
        value: What entering it returned.
    """

    value: T

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._manager = manager
        self._leave = asyncio.Event()
        self._ending: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] = (None, None, None)
        self._swallowed = False
        self._life: asyncio.Task[None] | None = None
        run(self._enter)

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Leave the context manager; return whether it swallowed the exception."""
        self._ending = (kind, error, traceback)
        run(self._finish)
        return self._swallowed

    async def _enter(self) -> None:
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(entered))
        try:
            await entered
        except asyncio.CancelledError:
            self._life.cancel()
            raise

    async def _live(self, entered: "asyncio.Future[None]") -> None:
        try:
            self.value = await self._manager.__aenter__()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who waits for it
            if not entered.done():
                entered.set_exception(error)
            return
        entered.set_result(None)
        await self._leave.wait()
        self._swallowed = bool(await self._manager.__aexit__(*self._ending))

    async def _finish(self) -> None:
        self._leave.set()
        if self._life is not None:
            await self._life


def later(function: Callable[[], Coroutine[object, object, object]]) -> None:
    """Run a coroutine function in the loop some time, wait for nothing: for finalizers, which must never wait.

    Args:
        function: The coroutine function. What it raises is dropped.
    """
    portal = _portal
    if portal is None or portal.pid != os.getpid() or portal.loop.is_closed():
        return

    async def quietly() -> None:
        with suppress(Exception):
            await function()

    with suppress(RuntimeError):  # the loop has just ended
        portal.loop.call_soon_threadsafe(lambda: portal.keep(portal.loop.create_task(quietly())))


def _callers_context() -> Context:
    """Copy the caller's context, without the note of sniffio that the caller runs on trio: the call does not."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None and context.get(sniffio.current_async_library_cvar) is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


class _Call(Generic[T]):
    """One call: a task in the loop, and a lock that the calling thread sleeps on."""

    def __init__(
        self, portal: "_Portal", function: Callable[[], Coroutine[object, object, T]], context: Context
    ) -> None:
        self._portal = portal
        self._function = function
        self._done = threading.Lock()
        self._done.acquire()
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._results: list[T] = []
        self._error: BaseException | None = None
        try:
            portal.loop.call_soon_threadsafe(self._start, context=context)
        except RuntimeError:
            raise _ended() from None

    def result(self) -> T:
        try:
            while not self._done.acquire(timeout=_GLANCE):
                self._portal.check_alive()
        except BaseException:
            self._give_up()
            raise
        error, self._error = self._error, None
        if error is None:
            return self._results.pop()
        try:
            raise _ended() if isinstance(error, asyncio.CancelledError) else error
        finally:
            del error  # no cycle of error, traceback and frame

    def _start(self) -> None:
        if self._given_up:
            self._done.release()
            return
        self._task = self._portal.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._results.append(await self._function())
        except BaseException as error:  # noqa: BLE001 - it belongs to the calling thread
            self._error = error
        finally:
            self._done.release()

    def _give_up(self) -> None:
        """Cancel the task and see it unwind, so that the request has left the wire when the caller goes on."""
        self._given_up = True
        with suppress(RuntimeError):
            self._portal.loop.call_soon_threadsafe(self._cancel)
            self._done.acquire(timeout=_UNWINDING)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _Portal:
    """The loop and its thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._kept: set[asyncio.Task[None]] = set()
        self.thread = threading.Thread(target=self._serve, name="perkamo-portal", daemon=True)
        self.thread.start()

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Hold on to a task that nobody waits for: the loop itself has weak references only."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def check_alive(self) -> None:
        """Raise where the thread has ended, and nobody would ever answer."""
        if not self.thread.is_alive():
            raise _ended()

    def stop(self) -> None:
        """Cancel what is under way and end the loop; give up waiting where something refuses to end."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_ENDING)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_ENDING))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()


_portal: _Portal | None = None
_lock = threading.Lock()
_ending = False
_of_parents: list[_Portal] = []
"""Portals that a fork left behind. Their threads do not exist here; dropping one would wait for its thread for ever."""


def _current() -> _Portal:
    global _portal  # noqa: PLW0603 - one per process
    portal = _portal
    if portal is not None and portal.pid == os.getpid() and portal.thread.is_alive():
        return portal
    if _ending:
        raise _ended()
    with _lock:
        if _portal is None or not _portal.thread.is_alive():
            try:
                _portal = _Portal()
            except RuntimeError:  # no thread can be started while the interpreter exits
                raise _ended() from None
        return _portal


def _in_forked_child() -> None:
    """Begin anew: the parent's thread is not here, and its lock may be held for ever by a thread that is not here."""
    global _portal, _lock  # noqa: PLW0603 - one per process
    if _portal is not None:
        _of_parents.append(_portal)
    _portal = None
    _lock = threading.Lock()


def _at_exit() -> None:
    global _ending  # noqa: PLW0603 - the end of the process
    _ending = True
    if _portal is not None and _portal.pid == os.getpid():
        _portal.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)


def _ended() -> PerkamoClosedError:
    return PerkamoClosedError(
        "The interpreter is exiting and takes no more calls. Make the last ones before that.", outcome="not_sent"
    )


_warned: set[tuple[str, int]] = set()


def _warn_in_event_loop(function: Callable[..., object]) -> None:
    """Say once per line of the caller that an event loop stands still while a sync call waits."""
    if not _in_event_loop():
        return
    caller = inspect.currentframe()
    for _ in range(3):  # run, the generated method, the caller
        caller = caller and caller.f_back
    place = ("", 0) if caller is None else (caller.f_code.co_filename, caller.f_lineno)
    if place in _warned:
        return
    _warned.add(place)
    name: str = getattr(function, "__name__", "…")
    warnings.warn(
        f"A sync client was called inside a running event loop, which stands still until {name}() is done. "
        f"Write 'await client.{name}(...)' on the async class.",
        PerkamoAsyncUsageWarning,
        stacklevel=4,
    )


def _in_event_loop() -> bool:
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and raises nothing
        return True
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
