"""How a sandbox handles threads and forked processes."""

import os
from contextlib import suppress
from threading import RLock
from types import TracebackType
from typing import Protocol
from weakref import WeakSet


class SandboxError(RuntimeError):
    """The sandbox cannot do what was asked. The message says why and what to do."""


class ProcessLock:
    """A reentrant lock that knows which process it belongs to.

    A forked child has a copy of the state, which does not change while the parent continues serving. Reading or arming
    that copy would be a silent mistake, and its lock may have been held during the fork. Before a socket is served, a
    copy may be used like the original.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._pid = os.getpid()
        self.served = False

    def __enter__(self) -> None:
        """Acquire the lock; raises SandboxError in a forked child of the process that serves."""
        if os.getpid() != self._pid:
            if self.served:
                raise SandboxError(
                    "this is a forked copy of a running sandbox: its state is in the parent. Call it by its base_url"
                )
            self._lock, self._pid = RLock(), os.getpid()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._lock.release()


class HoldsSockets(Protocol):
    """A server whose sockets must not stay open in a forked child."""

    def descriptors(self) -> list[int]:
        """Return the file descriptors of its sockets."""
        ...


servers: "WeakSet[HoldsSockets]" = WeakSet()
"""The running servers of this process."""


def _replace_sockets() -> None:
    """Replace a forked child's copies of the sockets: otherwise the child would keep open what the parent closes.

    They are replaced and not closed: the child's copies of the socket objects may close their number later, when it
    belongs to another file.
    """
    inherited = [number for server in list(servers) for number in server.descriptors()]
    if not inherited:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in inherited:
        with suppress(OSError):
            os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_sockets)
