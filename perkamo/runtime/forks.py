"""Guards that a fork waits for.

A forked child has one thread and a copy of all memory. A lock that another thread held stays locked in it, and a change
that another thread was making stays incomplete. So a fork waits until no thread is inside a ``ForkGuard``.

If C code forks, as in uWSGI, Python calls no hooks. In such a child, the hooks run when this module is first used.
"""

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

_guards: "weakref.WeakSet[ForkGuard]" = weakref.WeakSet()
_entered: "list[ForkGuard]" = []
_noticing = threading.Lock()
_pid = os.getpid()


def notice_fork() -> None:
    """Do in a forked child what the hooks do, if they were not called."""
    if _pid != os.getpid():
        with _noticing:
            if _pid != os.getpid():
                _begin_in_child()


class ForkGuard:
    """A lock that no child inherits while a thread holds it. The same thread may take it again."""

    def __init__(
        self, before: Callable[[], object] | None = None, in_child: Callable[[], object] | None = None
    ) -> None:
        """Make the guard.

        Args:
            before: Called before each fork, inside the guard, to close what a child must not inherit.
            in_child: Called in each forked child.
        """
        self._lock = threading.RLock()
        self._before = before
        self._in_child = in_child
        _guards.add(self)

    def __enter__(self) -> None:
        notice_fork()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def enter_before_fork(self) -> None:
        """Wait until no thread is inside, and let none in."""
        self._lock.acquire()
        _entered.append(self)
        if self._before is not None:
            self._before()

    def begin_in_child(self) -> None:
        """Make a new lock, which no thread of the parent holds."""
        self._lock = threading.RLock()
        if self._in_child is not None:
            self._in_child()


def _before() -> None:
    for guard in list(_guards):
        guard.enter_before_fork()


def _after_in_parent() -> None:
    while _entered:
        _entered.pop().__exit__(None, None, None)


def _after_in_child() -> None:
    global _noticing  # noqa: PLW0603 - another thread of the parent may have held it
    _noticing = threading.Lock()
    _begin_in_child()


def _begin_in_child() -> None:
    global _pid  # noqa: PLW0603 - the process is one
    _entered.clear()
    for guard in list(_guards):
        guard.begin_in_child()
    _pid = os.getpid()  # last: other threads wait until all have begun


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
