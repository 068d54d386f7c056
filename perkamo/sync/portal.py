"""The event loop behind the sync clients: one daemon thread per process, which all of them share.

It starts at the first call, is replaced in a forked child, and ends with the interpreter without holding it up. Every
call is one task in the loop, made with a copy of the caller's context; the calling thread sleeps on a lock until it is
done. An interrupt (Ctrl-C, or an exception set on the thread) cancels the task before it goes on to the caller. At the
interpreter's exit, when the loop has ended or no thread starts any more, a call gets a loop of its own.

- ``run`` makes one call.
- ``iterate`` steps through an async iterator, each step being a call.
- ``Held`` is for what must begin and end in one task, such as a context manager that opens a task group: a task of its
  own enters the context manager, stays, and leaves it.
"""

import asyncio
import atexit
import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from math import inf
from types import TracebackType
from typing import Final, Generic, NoReturn, ParamSpec, TypeVar

from perkamo.errors import PerkamoClosedError, PerkamoError, WriteOutcome
from perkamo.sync.async_usage import dotted_name, warn_in_event_loop
from perkamo.sync.stay import Stay

P = ParamSpec("P")
T = TypeVar("T")

_GLANCE: Final = 0.04
"""Seconds after which a sleeping thread notices an exception set on it. A signal wakes the main one at once."""

_UNWINDING: Final = 0.05
"""Seconds that a cancelled call may take to unwind before the interrupt goes on without it."""

_CLOSING: Final = 1.0
"""Seconds that an iterator's end waits for the async one to close. It may be a finalizer, which must never hang."""

_ENDING: Final = 0.25
"""Seconds that the interpreter's exit waits for calls under way to be cancelled."""


def run(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run one coroutine function in the loop, wait for it, and return what it returns or raise what it raises.

    Args:
        function: The coroutine function.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Raises:
        PerkamoError: It was called in the loop's own thread, where waiting would never end; or the loop can't start.
        PerkamoClosedError: The interpreter exited meanwhile.
    """
    portal = _ready(function, "await")
    if portal is None:
        return _run_at_exit(partial(function, *args, **kwargs))
    return _wait(portal, partial(function, *args, **kwargs))


def iterate(iterator: AsyncIterator[T]) -> Iterator[T]:
    """Yield what an async iterator yields, one call at a time, and close it at the end.

    Args:
        iterator: It must hold no task group or cancel scope between two steps, each of which is a task of its own.

    Raises:
        PerkamoError: As ``run``, or it was begun in another process, or the interpreter is exiting.
    """
    keyword = "async for ... in"
    portal = _ready(iterator, keyword) or _too_late()
    try:
        while True:
            _ready(iterator, keyword)  # no step is made in the loop's own thread
            try:
                item = _wait(portal, iterator.__anext__)
            except StopAsyncIteration:
                return
            yield item
    finally:
        close: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
        if close is not None:
            portal.finish(close)


def later(function: Callable[[], Awaitable[object]]) -> None:
    """Run a coroutine function in the loop some time, wait for nothing: for finalizers, which must never wait.

    Args:
        function: The coroutine function. What it raises is dropped; nothing happens where no loop runs.
    """
    if _portal is not None:
        _portal.submit(function)


class Held(Generic[T]):
    """An async context manager that was entered, in a task that will also leave it.

    Attributes:
        value: What entering it returned.
    """

    value: T
    _entered = False

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._portal = _ready(manager, "async with") or _too_late()
        self._manager = manager
        self._stay = Stay(manager)
        self.value = _wait(self._portal, self._stay.begin)
        self._entered = True

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Leave the context manager; return whether it swallowed the exception.

        In a forked child, what the parent entered is the parent's, and nothing happens.
        """
        if self._portal.pid == os.getpid():
            _ready(self._manager, "async with")
            self._entered = False
            return _wait(self._portal, partial(self._stay.end, (kind, error, traceback)))
        return False

    def __del__(self) -> None:
        """Leave what nobody can leave any more, and complain."""
        if self._entered and self._portal.lives():
            self._portal.submit(partial(self._stay.end, (None, None, None)))
            name = dotted_name(self._manager)
            warnings.warn(f"{name} was entered and never left; use it with 'with'", ResourceWarning, stacklevel=2)


class _Call(Generic[T]):
    """One call: a task in the loop, and a lock that the calling thread sleeps on."""

    __slots__ = ("_done", "_error", "_function", "_given_up", "_portal", "_task", "_value")

    _value: T

    def __init__(self, portal: "_Portal", function: Callable[[], Awaitable[T]]) -> None:
        self._portal = portal
        self._function = function
        self._done = threading.Lock()
        self._done.acquire()
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        if not self._portal.lives():
            raise self._ended("not_sent")
        try:
            self._portal.loop.call_soon_threadsafe(self._start, context=_callers_context())
        except RuntimeError:
            raise self._ended("not_sent") from None

    def wait(self, seconds: float = inf) -> bool:
        """Sleep until it is done, and return True, or for so long."""
        while not self._done.acquire(timeout=_GLANCE):
            if not self._portal.lives() and not self._done.acquire(blocking=False):
                raise self._ended("unknown")
            seconds -= _GLANCE
            if seconds <= 0:
                return False
        return True

    def result(self) -> T:
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise self._ended("unknown") if isinstance(error, asyncio.CancelledError) and self._portal.ending else error
        finally:
            del error  # no cycle of error, traceback and frame

    def give_up(self) -> None:
        """Cancel the task and see it unwind, so that the request has left the wire when the caller goes on."""
        self._given_up = True
        if not self._portal.lives():
            return
        with suppress(RuntimeError):
            self._portal.loop.call_soon_threadsafe(self._cancel)
            self._done.acquire(timeout=_UNWINDING)

    def _start(self) -> None:
        if self._given_up:
            self._done.release()
            return
        self._portal.calls.add(self)
        self._task = self._portal.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._value = await self._function()
        except BaseException as error:  # noqa: BLE001 - it belongs to the calling thread
            self._error = error
        finally:
            self._portal.calls.discard(self)
            self._done.release()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, outcome: WriteOutcome) -> PerkamoError:
        if self._portal.pid == os.getpid():
            return _ended(outcome)
        return PerkamoError("This was begun before the process was forked, and goes on in its parent.", outcome=outcome)


class _Portal:
    """The loop and its thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ending = False
        self.calls: set[object] = set()
        self.loop = asyncio.SelectorEventLoop()  # not a policy's, which may want a thread of its own, as GUI loops do
        self.thread = threading.Thread(target=self._serve, name="perkamo-portal", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def lives(self) -> bool:
        """Tell whether its calls will ever be answered, in this process."""
        return self.thread.is_alive() and self.pid == os.getpid()

    def submit(self, function: Callable[[], Awaitable[object]]) -> _Call[object] | None:
        """Begin a call that nobody need wait for; None where that is too late."""
        call = _Call(self, function)
        try:
            call.begin()
        except PerkamoError:
            return None
        return call

    def finish(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run what ends something, and wait a moment for it, except where a wait would be in vain or for ever."""
        call = self.submit(function)
        if call is not None and self.thread.ident != threading.get_ident() and call.wait(_CLOSING):
            call.result()

    def stop(self) -> None:
        """Cancel what is under way and end the loop; give up waiting where something refuses to end."""
        self.ending = True
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(2 * _ENDING)

    def _serve(self) -> None:
        try:
            while not self.ending:
                # A task of the caller's making that raises one of these ends nothing but itself.
                with suppress(SystemExit, KeyboardInterrupt):
                    self.loop.run_forever()
        finally:
            self.ending = True
            self.loop.run_until_complete(self._wind_up())
            self.loop.close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ENDING):
                if tasks:
                    await asyncio.wait(tasks)
                await self.loop.shutdown_asyncgens()


_portal: _Portal | None = None
_lock = threading.RLock()
"""One that a finalizer may take again, which the garbage collector runs in the midst of anything."""

_of_parents: list[_Portal] = []
"""Portals that a fork left behind. Their threads do not exist here; dropping one would touch what is the parent's."""

_exiting = False


def _ready(subject: object, keyword: str) -> _Portal | None:
    """Return this process's portal, for a call that may be made here; warn where it should not be. None at exit."""
    portal = _portal
    if portal is None or not portal.lives():
        portal = _start()
    if portal is not None and portal.thread.ident == threading.get_ident():
        raise PerkamoError(
            "A sync call was made inside the event loop that serves it, such as in an async api_key function. "
            "Nothing was sent; await the same call on AsyncPerkamoClient.",
            outcome="not_sent",
        )
    warn_in_event_loop(subject, keyword, None if portal is None else portal.loop)
    return portal


def _start() -> _Portal | None:
    global _portal  # noqa: PLW0603 - one per process
    if _portal is not None and _portal.pid != os.getpid():
        _in_forked_child()
    if _exiting:
        return None
    with _lock:
        if _portal is None or not _portal.lives():
            try:
                _portal = _Portal()
            except (OSError, RuntimeError) as error:  # out of files or threads, or no thread starts any more at exit
                if not threading.main_thread().is_alive():
                    return None
                raise PerkamoError(
                    f"The event loop behind the sync clients can't start: {error}. Nothing was sent.",
                    outcome="not_sent",
                    retryable=True,
                ) from error
        return _portal


def _wait(portal: _Portal, function: Callable[[], Awaitable[T]]) -> T:
    call = _Call(portal, function)
    try:
        call.begin()
        call.wait()
    except BaseException:
        call.give_up()
        raise
    return call.result()


def _run_at_exit(function: Callable[[], Awaitable[T]]) -> T:
    async def call() -> T:
        return await function()

    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and raises nothing
        _too_late()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(call(), context=_callers_context())


def _in_forked_child() -> None:
    """Begin anew: the parent's thread is not here, and its lock may be held for ever by a thread that is not here."""
    global _portal, _lock  # noqa: PLW0603 - one per process
    if _portal is not None:
        _of_parents.append(_portal)
    _portal = None
    _lock = threading.RLock()


def _at_exit() -> None:
    global _exiting  # noqa: PLW0603 - the end of the process
    _exiting = True
    if _portal is not None and _portal.pid == os.getpid():
        _portal.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
atexit.register(_at_exit)


def _too_late() -> NoReturn:
    raise _ended("not_sent")


def _ended(outcome: WriteOutcome) -> PerkamoClosedError:
    sent = "Nothing was sent" if outcome == "not_sent" else "This call was cancelled, and may have been applied"
    return PerkamoClosedError(
        f"The interpreter is exiting. {sent}. Make the last calls before that.",
        outcome=outcome,
    )


def _callers_context() -> Context:
    """Copy the caller's context, without the note of sniffio that the caller runs on trio: the call does not."""
    context = copy_context()
    # Not there at all, or not yet, where another thread is importing it.
    note: ContextVar[str | None] | None = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if note is not None and context.get(note) is not None:
        context.run(note.set, None)
    return context
