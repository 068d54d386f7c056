"""The directory of an outbox: whether it may be used, its one lock, who uses it, and which databases are in it.

Whoever opens, writes, checkpoints or closes the database holds the lock meanwhile, so that no two processes ever do so
at once: SQLite before 3.51.3 can damage a file when two connections do. Each process also holds a lock file of its own
while it has the database open.
"""

import os
import secrets
import stat
from contextlib import nullcontext, suppress
from pathlib import Path
from shutil import copyfile
from typing import Final

from perkamo.outbox.errors import PerkamoOutboxError, PerkamoOutboxFullError, PerkamoOutboxStorageError, of_system
from perkamo.outbox.file_system import check_file_system, read_mounts
from perkamo.outbox.record import Counts, Record
from perkamo.runtime.file_locks import HAS_FILE_LOCKS, FileLock, hold, is_free

LOCK_PATIENCE: Final = 10.0
"""Seconds for which a call waits while another process holds the lock."""
_LOCK, _SET_ASIDE = "outbox.lock", ".damaged-"
_OURS: Final = (_LOCK, "outbox-", "process-", "lost+found")


class Directory:
    """A directory that was checked, and made if need be."""

    def __init__(self, path: str | os.PathLike[str], *, group_readable: bool = False) -> None:
        """Refuse a directory that is not for the outbox alone, is open to others, or can't keep a promise."""
        if not HAS_FILE_LOCKS:
            raise PerkamoOutboxStorageError("The outbox needs POSIX file locks, which Windows lacks. Nothing was kept.")
        self.path: Path = Path(path).absolute()
        self.lock: FileLock = FileLock(self.path / _LOCK, self._open, LOCK_PATIENCE)
        self.user: str = ""
        self._user_lock = -1
        self._mode = 0o640 if group_readable else 0o600
        allowed = 0o750 if group_readable else 0o700
        try:
            if not self._make(allowed):
                self._check(allowed)
            disk = os.statvfs(self.path)
        except OSError as error:
            raise of_system(error, self.path) from error
        check_file_system(self.path.resolve(), read_mounts())
        self.log_bytes: int = max(1 << 18, min(1 << 22, disk.f_blocks * disk.f_frsize >> 5))
        """How long the database's log may grow; on a small disk it is short."""

    def has_room(self) -> bool:
        """Return whether the disk has more room than it takes to deliver and remove what waits."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize > 2 * self.log_bytes

    def read_counts(self, error: PerkamoOutboxError) -> Counts:
        """Return the counts that were noted last, for who can't open the database, as this error says.

        Raises:
            PerkamoOutboxError: That error, unless this user may not write, or the disk is full; or none were noted.
        """
        is_full = isinstance(error, PerkamoOutboxFullError)
        if not is_full and os.access(self.path, os.W_OK):
            raise error
        try:
            record = Record.from_bytes((self.path / _LOCK).read_bytes())
        except OSError as unreadable:
            raise of_system(unreadable, self.path) from unreadable
        if is_full and not record.name:
            raise error
        return record.counts

    def join(self) -> tuple[bool, list[str]]:
        """Become a user of the database; return whether there are others, and those who died as one."""
        others = {path.name: is_free(path) for path in self.path.glob("process-*.lock")}
        self.user = f"process-{secrets.token_hex(8)}.lock"
        self._user_lock = self._open(self.path / self.user)
        hold(self._user_lock)
        return not all(others.values()), [name for name, is_dead in others.items() if is_dead]

    def leave(self) -> None:
        """Be a user of the database no longer."""
        if self._user_lock >= 0:
            self.remove(self.user)
            os.close(self._user_lock)
            self._user_lock = -1

    def is_dead(self, user: str) -> bool:
        """Return whether a user of the database has died."""
        return user != self.user and is_free(self.path / user)

    def begin_in_child(self) -> None:
        """In a forked child: let go of the parent's files. Closing them leaves its locks as they are."""
        self.lock.forget()
        if self._user_lock >= 0:
            os.close(self._user_lock)
            self._user_lock = -1

    def remove(self, *names: str) -> None:
        """Remove files that nobody uses."""
        for name in names:
            with suppress(OSError):
                (self.path / name).unlink()

    def new_database(self) -> Path:
        """Make an empty file for a database, under a name that was never used before."""
        path = self.path / f"outbox-{secrets.token_hex(4)}.sqlite3"
        os.close(self._open(path, os.O_EXCL))  # closing a file that SQLite has open would drop SQLite's locks
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)
        return path

    def databases(self) -> list[Path]:
        """Return the databases, the one that was written last first."""
        return sorted(self.path.glob("outbox-*.sqlite3"), key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def set_aside(self) -> list[Path]:
        """Return the damaged or foreign files that were moved out of the way."""
        return sorted(path for path in self.path.glob(f"*{_SET_ASIDE}*") if not path.name.endswith("-wal"))

    def move_aside(self, path: Path) -> Path:
        """Move a damaged database and its log out of the way; return its new place."""
        target = path.with_name(f"{path.name}{_SET_ASIDE}{secrets.token_hex(2)}")
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}-wal").rename(f"{target}-wal")
        return path.rename(target)

    def _open(self, path: Path, flags: int = 0) -> int:
        """Open a file, or make it: with the directory's owner, whoever runs this, and with our mode."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, self._mode)
        status, directory = os.fstat(descriptor), self.path.stat()
        with suppress(PermissionError):
            if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (directory.st_uid, directory.st_gid):
                os.fchown(descriptor, directory.st_uid, directory.st_gid)
            if stat.S_IMODE(status.st_mode) != self._mode:
                os.fchmod(descriptor, self._mode)
        return descriptor

    def _make(self, mode: int) -> bool:
        """Make the directory; tell whether it was not there."""
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700, parents=True)
            self.path.chmod(mode)
            return True
        return False

    def _check(self, allowed: int) -> None:
        mode = self.path.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise PerkamoOutboxStorageError(f"{self.path} is not a directory. Nothing was kept.")
        remedy = "Nothing was changed and nothing was kept. Name a directory that does not exist yet"
        if stat.S_IMODE(mode) & 0o777 & ~allowed:
            raise PerkamoOutboxStorageError(
                f"The directory {self.path} is open to other users (mode {stat.S_IMODE(mode):o}), and events hold "
                f"personal data. {remedy}, or run 'chmod {allowed:o}' on it if it is for the outbox alone."
            )
        names = {path.name for path in self.path.iterdir()}
        if _LOCK not in names and not all(name.startswith(_OURS) for name in names):
            raise PerkamoOutboxStorageError(
                f"The directory {self.path} contains files of something else. {remedy}, such as 'outbox' within it."
            )


def copy_outbox(directory: Path, target: Path, patience: float = LOCK_PATIENCE) -> None:
    """Copy what is in an outbox that others may use meanwhile: they wait for as long as it takes.

    Args:
        directory: The outbox's, which may be read-only for this user.
        target: A directory, which is made.
        patience: Seconds to wait for the outbox's lock.

    Raises:
        TimeoutError: Another process has held the lock for longer than that.
        OSError: It can't be read or written.
    """
    target.mkdir(mode=0o700)
    with FileLock(directory / _LOCK, _open_to_read, patience) if (directory / _LOCK).exists() else nullcontext():
        for path in [*directory.glob("outbox-*.sqlite3"), *directory.glob("outbox-*.sqlite3-wal")]:
            copyfile(path, target / path.name)


def _open_to_read(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def holds_outbox(path: Path) -> bool:
    """Return whether a directory holds an outbox, without touching anything."""
    return (path / _LOCK).is_file() or any(path.glob("outbox-*.sqlite3"))
