"""Threads of the operating system, also in a process where gevent has replaced threads by greenlets.

Under gevent, a ``threading.Thread`` is a greenlet of the thread that starts it. An event loop in it would count as
running in that whole thread, and ``asyncio.run`` would fail there from then on. So a service thread is started here.
Within it, the patched standard library works as usual, on a hub of its own. Greenlets of other threads may wait for it
with locks, events and futures that were made after the patch, always with a timeout: gevent raises ``LoopExit`` if a
greenlet waits without one and nothing else could wake its hub.
"""

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TypeAlias

Join: TypeAlias = Callable[[float], bool]
"""Waits for a thread to end, at most this many seconds, and returns whether it has ended."""


def is_gevent() -> bool:
    """Return whether gevent has replaced the threads of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def start_thread(function: Callable[[], object], name: str) -> Join:
    """Run a function in a daemon thread of the operating system.

    Args:
        function: It must handle its own errors.
        name: The thread's name; without effect under gevent.

    Returns:
        A function that waits for the thread to end, at most this many seconds, and returns whether it has ended.

    Raises:
        RuntimeError: There are too many threads, or the interpreter is exiting.
    """
    if is_gevent():
        return _start_under_gevent(function)
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()

    def join(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return join


def _start_under_gevent(function: Callable[[], object]) -> Join:
    ended = threading.Event()

    def run() -> None:
        try:
            function()
        finally:
            ended.set()

    import_module("gevent.monkey").get_original("_thread", "start_new_thread")(run, ())
    return ended.wait
