"""What can go wrong between an event and the disk.

Nothing here is about the service: an event that was put is kept whatever the service says. Each of these errors means
that the event of this very call was not kept, and nothing was sent for it.
"""

from perkamo.errors import PerkamoError


class PerkamoOutboxError(PerkamoError):
    """The outbox could not do what it was asked; nothing was kept and nothing was sent for this call."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        """Say what happened and what to do next; never what the event held."""
        super().__init__(message, outcome="not_sent", retryable=retryable)


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
    """A file of the outbox was damaged or foreign. It was set aside, never deleted; a fresh one takes its place."""
