"""What a file system must promise to an outbox on it."""

import logging
from pathlib import Path
from typing import Final

from perkamo.outbox.errors import PerkamoOutboxStorageError

_NETWORK: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs",
    }
)  # fmt: skip
FORGETFUL: Final = frozenset({"overlay", "ramfs", "tmpfs"})
"""Kinds of file system that end with the machine or the container."""
_LOGGER: Final = logging.getLogger("perkamo.outbox")


def check_file_system(path: Path, mounts: str) -> None:
    """Refuse a network file system, where locks and syncs promise nothing, and warn of one that forgets.

    Args:
        path: The resolved directory.
        mounts: The text of ``/proc/self/mountinfo``; empty where the platform has none.

    Raises:
        PerkamoOutboxStorageError: The directory is on a network file system.
    """
    kind = kind_of(path, mounts)
    if kind in _NETWORK:
        raise PerkamoOutboxStorageError(
            f"The outbox directory is on a network file system ({kind}), where locks and syncs cannot be trusted. "
            "Nothing was kept. Choose a directory on a local disk."
        )
    if kind in FORGETFUL:
        _LOGGER.warning("The outbox directory is on %s: its events are lost when the machine or container goes", kind)


def kind_of(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path is on, such as ``ext4``; nothing where that is not known.

    Args:
        path: A resolved path.
        mounts: As for ``check_file_system``.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4].replace("\\040", " ")
        if len(place) >= len(best) and path.is_relative_to(place):
            best, kind = place, after.split()[0]
    return kind


def read_mounts() -> str:
    """Return the kernel's list of mounts; nothing if it has none."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
