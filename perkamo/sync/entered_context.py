"""An async context manager as a sync one: one task enters it, waits, and leaves it, as cancel scopes want it."""

import os
import threading
import warnings
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio

from perkamo.sync.async_usage import dotted_name
from perkamo.sync.call import LoopCall
from perkamo.sync.loop_thread import LoopThread

T = TypeVar("T")


class EnteredContext(AbstractContextManager[T, bool]):
    """Enters an async context manager, and leaves it in the same task.

    As anyio's ``wrap_async_context_manager``, but open to interrupts, which cancel the step under way; and what the
    manager raises never reaches the loop, which some errors would end.

    Args:
        thread: The loop to do it in.
        manager: What to enter and leave.
    """

    _entered = False

    def __init__(self, thread: LoopThread, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._thread = thread
        self._manager = manager
        self._task = _Task(manager)
        self._call = LoopCall(thread, self._task.run)

    def __enter__(self) -> T:
        try:
            self._call.begin()
            self._call.wait_for(self._task.entered)
        except BaseException:
            self._call.give_up()
            raise
        if self._task.has_ended:
            self._call.wait()
            self._call.result()  # raises what prevented it
        self._entered = True
        return self._task.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Leave the context manager; return whether it swallowed the exception.

        In a forked child, what the parent entered is the parent's, and nothing happens. Nor does it where a generator
        that holds it is collected at the interpreter's exit: the loop's end has left the context manager.
        """
        if self._thread.pid != os.getpid() or (kind is GeneratorExit and self._thread.ending):
            self._entered = False
            return False
        self._entered = False
        self._task.error = error
        try:
            self._thread.call_soon(self._task.leave.set)
            self._call.wait()
        except BaseException:
            self._call.give_up()
            raise
        return self._call.result()

    def __del__(self) -> None:
        """Leave what nobody can leave any more, and complain."""
        if self._entered and self._thread.is_serving:
            self._thread.call_soon(self._task.leave.set)
            name = dotted_name(self._manager)
            warnings.warn(f"{name} was entered and never left; use it with 'with'", ResourceWarning, stacklevel=2)


class _Task(Generic[T]):
    """The task; it does not know the object above, or that would never be collected.

    Attributes:
        entered: Released when the manager has been entered, or refused to be.
        has_ended: Whether the task waits for nothing any more.
        leave: To be set when the manager is to be left.
        error: What ended the block.
    """

    value: T
    leave: anyio.Event

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._manager = manager
        self.entered = threading.Lock()
        self.entered.acquire()
        self.has_ended = False
        self.error: BaseException | None = None

    async def run(self) -> bool:
        """Enter, wait, and leave, with the error of the block; return whether the manager swallowed it."""
        self.leave = anyio.Event()
        try:
            async with self._manager as self.value:
                self.entered.release()
                await self.leave.wait()
                if self.error is None:
                    return False
                raise self.error  # noqa: TRY301 - in here the manager sees it
        except BaseException as raised:
            if raised is not self.error:
                raise
            return False
        finally:
            self.error = None
            self.has_ended = True
            if self.entered.locked():
                self.entered.release()
        return True
