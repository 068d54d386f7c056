"""Locks on files. Processes share them, and the kernel releases them when their holder dies, even if it is killed."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from perkamo.runtime.clock import Clock

HAS_FILE_LOCKS: Final = sys.platform != "win32"
_FIRST_PAUSE: Final = 0.00005
_LONGEST_PAUSE: Final = 0.001
_now, _sleep = Clock().now, time.sleep


class FileLock:
    """A lock that one thread of one process holds at a time. The file may contain a few bytes.

    Args:
        path: The file. It is created if it is missing, and created again if somebody removes it.
        open_file: Opens it for reading and writing, and returns its descriptor.
        patience: Seconds to wait for the lock.

    Raises:
        TimeoutError: On entering: another process held it for longer than that.
    """

    def __init__(self, path: Path, open_file: Callable[[Path], int], patience: float) -> None:
        self._path = path
        self._open_file = open_file
        self._patience = patience
        self._descriptor = -1

    def __enter__(self) -> None:
        deadline, pause = _now() + self._patience, _FIRST_PAUSE
        while True:
            if self._descriptor < 0:
                self._descriptor = self._open_file(self._path)
            if hold(self._descriptor):
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                        return
                self.forget()  # somebody removed it, and others would lock the new one
            elif _now() > deadline:
                raise TimeoutError
            else:
                _sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        unlock(self._descriptor)

    def read(self) -> bytes:
        """Return the content of the file; only within the lock."""
        return os.pread(self._descriptor, 4096, 0)

    def write(self, data: bytes) -> None:
        """Overwrite the beginning of the file; only within the lock."""
        os.pwrite(self._descriptor, data, 0)

    def forget(self) -> None:
        """Close the file. In a forked child this leaves the parent's lock as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_free(path: Path) -> bool:
    """Return whether a lock's file exists and nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return hold(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def hold(descriptor: int) -> bool:
        """Try to lock a file until it is closed; return whether that succeeded."""
        raise OSError(f"Windows does not have these file locks: {descriptor}")

    def unlock(descriptor: int) -> None:
        """Unlock a file."""
        raise OSError(f"Windows does not have these file locks: {descriptor}")

else:
    import fcntl

    def hold(descriptor: int) -> bool:
        """Try to lock a file until it is closed; return whether that succeeded."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Unlock a file."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
