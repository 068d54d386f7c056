"""What a sandbox has to know about threads and forked processes."""

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

    A forked child holds a dead copy of the state while the parent continues serving: reading or arming that copy would
    mislead without a word, and its lock may have been held at the moment of the fork. Before a socket is served, a copy
    is as good as the original.
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
    """Something whose sockets must not live on in a forked child."""

    def descriptors(self) -> list[int]:
        """Return the file descriptors of its sockets."""
        ...


servers: "WeakSet[HoldsSockets]" = WeakSet()
"""The running servers of this process."""


def _let_go_of_sockets() -> None:
    """Replace a forked child's copies of the sockets: else what the parent closes would stay open through the child.

    Not closed but replaced: the socket objects, which the child has copies of too, may close their number later, when
    it stands for something else.
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
    os.register_at_fork(after_in_child=_let_go_of_sockets)
