"""Event loops: calls into them from any thread, and a task group that does not belong to one task.

asyncio is imported only when it runs, because a program on trio does not need it.
"""

from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import TracebackType

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from attrs import frozen

from perkamo.runtime.clock import Clock


@frozen
class InLoop:
    """Calls functions soon, in one event loop, from any thread. Once that loop has ended, it does nothing.

    Two for the same event loop are equal.
    """

    _soon: Callable[[Callable[[], object]], object]

    def __call__(self, function: Callable[[], object]) -> None:
        """Let the event loop call a function."""
        try:
            self._soon(function)
        except RuntimeError:  # not suppress(), which is slower: the outbox comes here with every put
            return


def caller_into_loop() -> InLoop:
    """Return an object that calls functions in the event loop that is running now."""
    return InLoop(_call_soon())


def _call_soon() -> Callable[[Callable[[], object]], object]:
    import asyncio  # noqa: PLC0415 - see above

    try:
        return asyncio.get_running_loop().call_soon_threadsafe  # also if trio runs as a guest in it
    except RuntimeError:
        from trio.lowlevel import current_trio_token  # noqa: PLC0415 - imported already if it runs

        return current_trio_token().run_sync_soon


class DetachedTaskGroup:
    """A task group in a task of its own, so that one task may enter it and another leave it.

    A task group of anyio belongs to the task that entered it. But async fixtures and dependencies often begin in one
    task and end in another. A task that fails here does not cancel the block: its error is raised at the block's end.
    """

    _tasks: TaskGroup

    def __init__(self) -> None:
        self._entered = anyio.Event()
        self._leave = anyio.Event()
        self._ended = anyio.Event()
        self._failure: Exception | None = None
        self._holder: object = None

    async def __aenter__(self) -> TaskGroup:
        self._holder = _spawn(self._hold)  # asyncio itself holds weak references to tasks only
        try:
            await self._entered.wait()
        except BaseException:
            self._leave.set()
            raise
        return self._tasks

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until the tasks have ended; after an error, or when cancelled, cancel them first."""
        self._leave.set()
        if error is not None:
            self._tasks.cancel_scope.cancel()
        try:
            await self._ended.wait()
        except BaseException:
            self._tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        if self._failure is not None:
            raise self._failure

    async def _hold(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._entered.set()
                await self._leave.wait()
        except Exception as failure:  # noqa: BLE001 - it is raised when the group is left
            self._failure = failure
        finally:
            self._ended.set()


def _spawn(function: Callable[[], Coroutine[object, object, None]]) -> object:
    """Start a task without a parent; the event loop cancels it when it ends."""
    import asyncio  # noqa: PLC0415 - see above

    loop = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.create_task(function())
    from trio.lowlevel import spawn_system_task  # noqa: PLC0415 - imported already if it runs, and not needed otherwise

    return spawn_system_task(function, context=copy_context())


class Wakeup:
    """Wakes one task from any thread."""

    def __init__(self, clock: Clock = Clock()) -> None:
        """Belong to the event loop that is running now.

        Args:
            clock: The clock of the waits.
        """
        self._clock = clock
        self._in_loop = caller_into_loop()
        self._rung = anyio.Event()

    def notify(self) -> None:
        """Wake the task, now or when it next waits."""
        if not self._rung.is_set():
            self._in_loop(self._rung.set)

    async def wait(self, seconds: float) -> None:
        """Wait for the wakeup, at most this many seconds."""
        with self._clock.limit(seconds):
            await self._rung.wait()
        self._rung = anyio.Event()
