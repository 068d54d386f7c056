"""Warns of sync calls inside a running event loop, and says what to write instead."""

import asyncio
import inspect
import re
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Final

from perkamo.errors import PerkamoAsyncUsageWarning
from perkamo.runtime.threads import is_gevent

_OURS: Final = frozenset({"perkamo", "contextlib"})
"""Packages whose frames are between a caller's line and this module."""


class AsyncUsageWarnings:
    """Warns once per line of the caller: a handler that serves a thousand requests says it once."""

    def __init__(self) -> None:
        self._warned: set[tuple[str, int]] = set()

    def warn_in_event_loop(self, subject: object, keyword: str) -> None:
        """Warn if the calling thread runs an event loop, which is blocked while a sync call waits.

        Args:
            subject: The coroutine function, async iterator or async context manager. If it is a method of an object
                with an ``async_usage``, the warning shows that text, because users cannot call the method.
            keyword: What goes before it, such as ``"await"``.
        """
        if not _in_event_loop():
            return
        caller = inspect.currentframe()
        level = 1
        while caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] in _OURS:
            caller = caller.f_back
            level += 1
        place = ("", 0) if caller is None else (caller.f_code.co_filename, caller.f_lineno)
        if place in self._warned:
            return
        warnings.warn(
            "A sync call was made inside a running event loop, which is blocked until the call is done. "
            f"Write {_instead(subject, keyword)}.",
            PerkamoAsyncUsageWarning,
            stacklevel=level,
        )
        self._warned.add(place)


def _instead(subject: object, keyword: str) -> str:
    owner: object = getattr(subject, "__self__", None)
    usage: str | None = getattr(owner, "async_usage", None)
    if usage is not None:
        return usage
    kind, _, call = dotted_name(subject).rpartition(".")
    words: list[str] = re.findall("[A-Z][a-z]+", kind or call)
    variable = words[-1].lower() if words else "client"
    line = f"{keyword} {variable}.{call}(...)" if kind else f"{keyword} {variable}"
    return f"'{line}' on {kind or call}"


def dotted_name(subject: object) -> str:
    """Return the name of a method, or of the method that made a generator or context manager, or of a class.

    A method is named after the class of its object: the class that defines it may be a private base class.
    """
    for named in (subject, getattr(subject, "gen", None)):
        name: str | None = getattr(named, "__qualname__", None)
        if name is not None:
            frame: FrameType | None = getattr(named, "ag_frame", None)
            owner: object = getattr(named, "__self__", None) if frame is None else frame.f_locals.get("self")
            return name if owner is None else f"{type(owner).__name__}.{name.rpartition('.')[2]}"
    return type(subject).__name__


def _in_event_loop() -> bool:
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented, and raises nothing
        # Under gevent it may run in another greenlet of this thread, which is within no task then.
        return not is_gevent() or asyncio.current_task() is not None
    in_trio_run: Callable[[], bool] | None = getattr(sys.modules.get("trio.lowlevel"), "in_trio_run", None)
    return in_trio_run is not None and in_trio_run()
