"""What can go wrong between an event and its store.

Nothing here is about the service: an event that was put is kept whatever the service says. ``outcome`` says whether
the event of this very call was kept: ``"not_sent"`` says that it was not, ``"unknown"`` that nobody can tell; putting
the same event again keeps it once.
"""

import errno
from pathlib import Path

from perkamo.errors import PerkamoError, WriteOutcome

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

MISSING = (
    "%d events that were acknowledged are missing from the outbox %s: its files were deleted, truncated or "
    "overwritten. Put the events again, or restore a copy of the files beside the present ones"
)
"""Logged with a number and a directory when events are gone that nobody delivered."""


class PerkamoOutboxError(PerkamoError):
    """The outbox could not do what it was asked; nothing was sent for this call."""

    def __init__(self, message: str, *, retryable: bool = False, outcome: WriteOutcome = "not_sent") -> None:
        """Say what happened and what to do next; never what the event held."""
        super().__init__(message, outcome=outcome, retryable=retryable)


class PerkamoOutboxFullError(PerkamoOutboxError):
    """The outbox holds ``max_bytes`` already, or the disk is full. It takes events again once some were delivered."""

    def __init__(self, message: str) -> None:
        """Name the limit that was reached."""
        super().__init__(message, retryable=True)


class PerkamoOutboxConflictError(PerkamoOutboxError):
    """The outbox holds another event under the same transaction id; only one of them could ever be applied."""


class PerkamoOutboxStorageError(PerkamoOutboxError):
    """The directory can't keep a promise: read-only, open to others, on a network file system, or failing."""


class PerkamoOutboxCorruptError(PerkamoOutboxStorageError):
    """The database was damaged or foreign. It is set aside, never deleted; what can be read goes into a fresh one."""


def disk_full() -> PerkamoOutboxFullError:
    """Return the error for a full disk."""
    return PerkamoOutboxFullError("The disk of the outbox is full. Nothing was kept; try again once it has room.")


def outbox_full() -> PerkamoOutboxFullError:
    """Return the error for an outbox that holds all that it may."""
    return PerkamoOutboxFullError(
        "The outbox is full. The event was not kept. Deliver what waits, or allow it more bytes (max_bytes)."
    )


def conflict() -> PerkamoOutboxConflictError:
    """Return the error for an event under a transaction id that another one has."""
    return PerkamoOutboxConflictError(
        "The outbox holds another event with this transaction id. This one was not kept. Give each event an id of "
        "its own, and keep an event's id, content and occurred_at when you put it again."
    )


def damaged() -> PerkamoOutboxCorruptError:
    """Return the error for a database that can't be read."""
    return PerkamoOutboxCorruptError(
        "The database of the outbox is damaged or foreign. Nothing was kept; try again.", retryable=True
    )


def newer(version: int, known: int) -> PerkamoOutboxStorageError:
    """Return the error for a database whose format this version does not know."""
    return PerkamoOutboxStorageError(
        f"The outbox was written by a newer perkamo (format {version}; this one knows up to {known}). "
        "Nothing was changed and nothing was kept. Use that version, or a newer one."
    )


def locked(path: Path, seconds: float) -> PerkamoOutboxStorageError:
    """Return the error for a lock that another process holds for too long."""
    return PerkamoOutboxStorageError(
        f"Another process has held the lock of the outbox {path} for {seconds:g} s: it hangs or was stopped. "
        "Nothing was kept; try again.",
        retryable=True,
    )


def unknown() -> PerkamoOutboxStorageError:
    """Return the error for a sync that failed."""
    return PerkamoOutboxStorageError(
        "The disk failed, and it is not known whether the event was kept. Put the same event again: it is kept once.",
        retryable=True,
        outcome="unknown",
    )


def unusable(path: Path, reason: object, *, retryable: bool) -> PerkamoOutboxStorageError:
    """Return the error for a directory that does not work."""
    return PerkamoOutboxStorageError(
        f"The outbox {path} can't be used: {reason}. Nothing was kept. It needs a directory of its own on a local "
        "disk, in which this user owns all files.",
        retryable=retryable,
    )


def of_system(error: OSError, path: Path) -> PerkamoOutboxError:
    """Return the error that stands for one of the operating system's."""
    if error.errno in _NO_SPACE:
        return disk_full()
    return unusable(path, error.strerror, retryable=error.errno not in _NOT_ALLOWED)
