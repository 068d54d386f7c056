"""SIGTERM, with which a service manager or a container asks a process to end.

As process 1 of a container, a program without a handler ignores the signal and is killed when the grace period is over.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came. It ends a command as Ctrl-C does, with another exit code."""


@contextmanager
def on_sigterm(act: Callable[[], object]) -> Generator[None]:
    """Call a function at SIGTERM while the block lasts.

    It does nothing if the process ignores the signal, or outside the main thread, because only the main thread may set
    handlers.

    Args:
        act: Called in the main thread, between any two of its steps.
    """

    def handle(_: int, __: "FrameType | None") -> None:
        act()

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if is_main else signal.SIG_IGN
    if before in (signal.SIG_IGN, None):  # None: a handler that was not set by Python
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    """Raise the exception that ends the command: the handler if no event loop runs."""
    raise TerminatedError
