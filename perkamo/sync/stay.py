"""A stay in an async context manager: a task that enters it, waits, and leaves it.

Cancel scopes and task groups must be left in the task that entered them, and the calls that enter and leave an object
from synchronous code are tasks of their own.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Ending: TypeAlias = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Stay(Generic[T]):
    """A stay in an async context manager, for those who enter and leave it from different tasks.

    Args:
        manager: What to enter and leave.
    """

    _task: asyncio.Task[None]
    _value: T

    def __init__(self, manager: AbstractAsyncContextManager[T, bool | None]) -> None:
        self._manager = manager
        self._entered = asyncio.Event()
        self._over = asyncio.Event()
        self._ending: Ending = (None, None, None)
        self._swallowed = False
        self._failure: BaseException | None = None

    async def begin(self) -> T:
        """Enter, and return what entering returns; cancelled, it leaves again. Only this object keeps the task."""
        self._task = asyncio.create_task(self._live())
        await self._see(self._entered.wait())
        return self._value

    async def end(self, ending: Ending) -> bool:
        """Leave, with the exception that ended the block, if one did; return whether it was swallowed."""
        self._ending = ending
        self._over.set()
        await self._see(asyncio.wait([self._task]))
        return self._swallowed

    async def _live(self) -> None:
        try:
            self._value = await self._manager.__aenter__()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who waits for it
            self._failure = error
            return
        finally:
            self._entered.set()
        try:
            await self._over.wait()
        except asyncio.CancelledError as error:
            self._ending = (type(error), error, error.__traceback__)
        try:
            self._swallowed = bool(await self._manager.__aexit__(*self._ending))
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt of the caller's would end the loop's thread
            self._failure = error
        finally:
            self._ending = (None, None, None)

    async def _see(self, event: Awaitable[object]) -> None:
        """Wait for an event of the stay; raise what went wrong in it. Cancelled, end the stay."""
        try:
            await event
            if self._failure is not None:
                raise self._failure
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        finally:
            self._failure = None  # no cycle of error, traceback and frame
