"""What stands beside the database, in the lock's file: what it holds, and which files it consists of.

So it is noticed when something outside deletes, truncates or overwrites them.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from attrs import asdict, define, field, frozen


@define
class Counts:
    """The outcome of all events that were ever put."""

    delivered: int = 0
    pending: int = 0
    dead: int = 0
    missing: int = 0
    size: int = 0

    @property
    def accepted(self) -> int:
        """How many there were."""
        return self.delivered + self.pending + self.dead + self.missing

    def find_missing(self, last: "Counts") -> None:
        """Count as missing what these last said that waited, and know nothing of."""
        gap = max(0, last.accepted - self.accepted)
        gone = min(gap, last.pending + last.dead)
        self.missing += gone
        self.delivered += gap - gone


@frozen
class Record:
    """The name of the database in use, what tells its files from all others, its counts, and whose these include."""

    name: str = ""
    files: list[int] = field(factory=list)
    counts: Counts = field(factory=Counts)
    predecessors: list[str] = field(factory=list)

    def to_bytes(self) -> bytes:
        """Return what to write; it is as long as any that was written before."""
        return json.dumps([self.name, self.files, asdict(self.counts), self.predecessors]).ljust(700).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Record":
        """Read what was written; of what was damaged nothing is known."""
        try:
            name, files, counts, *more = json.loads(data)
            return cls(name, files, Counts(**counts), *more)
        except (ValueError, TypeError):
            return cls()


def identify(path: Path | None) -> list[int]:
    """Return what tells a database, its log and its index from all other files."""
    files: list[int] = []
    with suppress(OSError):
        files.extend(os.stat(f"{path}{suffix}").st_ino for suffix in ("", "-wal", "-shm"))  # noqa: PTH116 - for speed
    return files
