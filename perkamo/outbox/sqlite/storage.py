"""What disks and file systems do to an outbox: refuse, fill up, forget, and lose files under their names."""

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Final

from perkamo.outbox.errors import PerkamoOutboxCorruptError, PerkamoOutboxFullError, PerkamoOutboxStorageError

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs",
    }
)  # fmt: skip
FORGETFUL_FILE_SYSTEMS: Final = frozenset({"overlay", "ramfs", "tmpfs"})

SET_ASIDE: Final = ".corrupt-"
_LOGGER: Final = logging.getLogger("perkamo.outbox")


class SlotUnavailableError(Exception):
    """The slot can't be used by this process, and another can: its database is newer than us, or somebody reads it."""


@contextlib.contextmanager
def translated() -> Generator[None]:
    """Turn what SQLite and the system refuse into errors of the outbox."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}:
            raise PerkamoOutboxFullError("The disk of the outbox is full. The event was not kept.") from error
        if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise PerkamoOutboxCorruptError("The file is damaged or no database.") from error
        if code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise SlotUnavailableError from error
        raise PerkamoOutboxStorageError(f"The outbox file can't be used: {error}. The event was not kept.") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise PerkamoOutboxFullError("The disk of the outbox is full. The event was not kept.") from error
        raise PerkamoOutboxStorageError(
            f"The outbox file can't be used: {error.strerror}. The event was not kept."
        ) from error


@contextlib.contextmanager
def refusing(path: Path) -> Generator[None]:
    """Turn the system's refusal into ours, with its reason."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise PerkamoOutboxFullError("The disk of the outbox is full. The event was not kept.") from error
        raise PerkamoOutboxStorageError(
            f"The outbox directory {path} can't be used: {error.strerror}. Nothing was kept. It needs a directory "
            "of its own, owned by this user, on a local disk."
        ) from error


def check_file_system(path: Path, mounts: str) -> None:
    """Refuse a network file system, where locks and syncs promise nothing, and warn of one that forgets.

    Args:
        path: The resolved directory.
        mounts: The text of ``/proc/self/mountinfo``; empty where the platform has none.

    Raises:
        PerkamoOutboxStorageError: The directory is on a network file system.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4].replace("\\040", " ")
        if len(place) >= len(best) and path.is_relative_to(place):
            best, kind = place, after.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise PerkamoOutboxStorageError(
            f"The outbox directory is on a network file system ({kind}), where locks and syncs are not to be trusted. "
            "Nothing was kept. Choose a directory on a local disk."
        )
    if kind in FORGETFUL_FILE_SYSTEMS:
        _LOGGER.warning("The outbox directory is on %s: its events are lost when the machine or container goes", kind)


def read_mounts() -> str:
    """Return what the kernel tells of mounts; nothing where it tells nothing."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def move_aside(path: Path) -> Path:
    """Move a damaged or foreign database, and its log, out of the way, and return its new place."""
    number = 1
    while (target := path.with_name(f"{path.name}{SET_ASIDE}{number}")).exists():
        number += 1
    if log(path).exists():
        log(path).rename(log(target))
    path.rename(target)
    _LOGGER.error("A file of the outbox was damaged or foreign; it was moved to %s for you to look at", target)
    return target


def inode(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from every other, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def log(path: Path) -> Path:
    """Return where the write-ahead log of a database is."""
    return path.with_name(f"{path.name}-wal")


def rescued(path: Path) -> Path:
    """Return where a complete copy of a database that lost its name waits to take the name."""
    return path.with_name(f"{path.name}.rescued")


def install_rescued(path: Path) -> None:
    """Let the complete copy take the name. After a kill in the middle, doing it again finishes it."""
    log(path).unlink(missing_ok=True)  # the log of the lost file would be replayed into this one
    rescued(path).rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
