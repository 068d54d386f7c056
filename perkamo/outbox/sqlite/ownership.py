"""Who owns which file of an outbox directory, told by file locks and by no clock.

A directory holds numbered slots, each a database and a lock file. A process that keeps events claims the lowest slot
that is free and goes on in the file it finds there, so a hundred restarts use one file. Nothing is ever unlinked: there
is no moment at which one process removes what another just took, and the number of files is the number of processes
that were alive at once, plus one for the process that is emptying what a dead one left.

Whoever wants to look into a slot that another process uses holds its visit lock, until the owner has seen that and
lent the slot.

The kernel frees a lock when its holder dies, however it dies. The lock file also carries the counts of its slot, so
that others can read them while the database is open in its owner alone.
"""

import contextlib
import os
import re
import struct
import sys
import weakref
import zlib
from pathlib import Path
from typing import Final, cast

from attrs import define, frozen

from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.sqlite.storage import SET_ASIDE, check_file_system, read_mounts, refusing

_SLOT: Final = re.compile(r"events-(\d{4,9})\.sqlite3\.lock")
_RECORD: Final = struct.Struct("<?5q")
_CHECKSUM: Final = struct.Struct("<I")
_RECORD_SIZE: Final = _RECORD.size + _CHECKSUM.size


@frozen
class Counts:
    """What became of the events that one file took; ``accepted`` is always ``delivered + pending + dead``.

    Attributes:
        accepted: Events taken since the file was made.
        delivered: Events the service answered for.
        pending: Events that wait.
        dead: Events the service refused, kept with the reason.
        size: Bytes of the events that wait or are dead.
    """

    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    size: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Sum two files."""
        return Counts(
            self.accepted + other.accepted,
            self.delivered + other.delivered,
            self.pending + other.pending,
            self.dead + other.dead,
            self.size + other.size,
        )


@frozen
class Published:
    """What the owner of a slot last told about it.

    Attributes:
        counts: The counts as of its last commit.
        closed: Whether the owner gave the slot back in good order. If not, and nobody holds it, the file knows more.
    """

    counts: Counts
    closed: bool


_CLAIMS: "weakref.WeakSet[Claim]" = weakref.WeakSet()


@define(eq=False)
class Claim:
    """The right to use one slot, held until ``release``, or until this process ends in any way."""

    slot: int
    path: Path
    lock_path: Path
    _descriptor: int

    def __attrs_post_init__(self) -> None:
        _CLAIMS.add(self)

    def publish(self, counts: Counts, *, closed: bool = False) -> None:
        """Let others read the counts. A failure is theirs to bear: the file itself is right."""
        record = _RECORD.pack(closed, counts.accepted, counts.delivered, counts.pending, counts.dead, counts.size)
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), 0)

    def was_closed(self) -> bool:
        """Tell whether the last owner gave the slot back in good order."""
        published = _parse(os.pread(self._descriptor, _RECORD_SIZE, 0))
        return published is not None and published.closed

    def is_wanted(self) -> bool:
        """Tell whether somebody waits for the slot, or looks into it."""
        return _is_locked(_lock_path(_visit_path(self.path)))

    def restore(self) -> None:
        """Make the lock file again if somebody removed it, so that nobody else claims the slot."""
        if _same_file(self._descriptor, self.lock_path):
            return
        descriptor = _lock(self.lock_path)
        if descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = descriptor

    def release(self) -> None:
        """Give the slot back. Twice is as good as once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _forget_claims_in_child() -> None:
    # A lock belongs to the open file, which fork shares: a child that kept it would keep a dead parent's slot locked.
    # Closing does not unlock it for the parent; LOCK_UN would.
    for claim in list(_CLAIMS):
        claim.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_claims_in_child)


class SpoolDirectory:
    """The directory of an outbox: checked once, then a source of claims."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make the directory if need be (mode 0700) and refuse one that can't keep a promise.

        Args:
            path: A directory on a local disk, for this outbox alone.

        Raises:
            PerkamoOutboxStorageError: It is read-only, open to others, or on a network file system; or the platform
                has no file locks.
        """
        self.path: Path = Path(path).absolute()
        with refusing(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
            check_file_system(self.path.resolve(), read_mounts())

    def slots(self) -> list[int]:
        """Return the numbers of all slots, lowest first."""
        with refusing(self.path):
            names = [path.name for path in self.path.iterdir()]
        return sorted(int(match[1]) for match in map(_SLOT.fullmatch, names) if match)

    def claim(self, slot: int) -> Claim | None:
        """Claim one slot, which is made if need be; None if another process, or this one, has it."""
        path = self._database(slot)
        lock_path = _lock_path(path)
        with refusing(self.path):
            descriptor = _lock(lock_path)
        return None if descriptor is None else Claim(slot, path, lock_path, descriptor)

    def claim_adoption(self) -> Claim | None:
        """Claim the right to empty slots that dead processes left; one process at a time has it."""
        path = self.path / "adoption"
        with refusing(self.path):
            descriptor = _lock(_lock_path(path))
        return None if descriptor is None else Claim(-1, path, _lock_path(path), descriptor)

    def claim_visit(self, slot: int) -> Claim | None:
        """Claim the right to ask a slot's owner for it; one process at a time has it."""
        path = _visit_path(self._database(slot))
        with refusing(self.path):
            descriptor = _lock(_lock_path(path))
        return None if descriptor is None else Claim(-1, path, _lock_path(path), descriptor)

    def published(self, slot: int) -> Published | None:
        """Return what the owner of a slot last told, or None where nothing readable was told."""
        for _ in range(3):  # a record that is being written right now reads well the next time
            with contextlib.suppress(OSError):
                published = _parse(_lock_path(self._database(slot)).read_bytes())
                if published is not None:
                    return published
        return None

    def set_aside(self) -> list[Path]:
        """Return the damaged or foreign files that were moved out of the way."""
        return sorted(path for path in self.path.glob(f"*{SET_ASIDE}*") if not path.name.endswith("-wal"))

    def _database(self, slot: int) -> Path:
        return self.path / f"events-{slot:04}.sqlite3"


def _parse(data: bytes) -> Published | None:
    record, checksum = data[: _RECORD.size], data[_RECORD.size :]
    if checksum != _CHECKSUM.pack(zlib.crc32(record)) or len(data) != _RECORD_SIZE:
        return None
    closed, *numbers = cast("tuple[bool, int, int, int, int, int]", _RECORD.unpack(record))
    return Published(Counts(*numbers), closed)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _visit_path(database: Path) -> Path:
    return database.with_name(f"{database.name}.visit")


if sys.platform == "win32":

    def _lock(path: Path) -> int | None:
        del path
        raise PerkamoOutboxStorageError("The outbox needs POSIX file locks, which Windows lacks. Nothing was kept.")

    def _is_locked(path: Path) -> bool:
        del path
        return False

else:
    import fcntl

    def _lock(path: Path) -> int | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _is_locked(path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
