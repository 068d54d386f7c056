"""What stands beside the database, in the lock's file: what it holds, and which files it consists of.

So it is noticed when something outside deletes, truncates or overwrites them.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import asdict, astuple, define, field, frozen

LARGEST_COUNT: Final = 1 << 62
"""No count is as large; what is, is damaged, and its sum with another might not fit into a column."""


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

    def of_successor(self) -> "Counts":
        """Return the counts of a database in the place of one that is gone: all that waited is missing until found."""
        return Counts(delivered=self.delivered, missing=self.missing + self.pending + self.dead)

    def find_again(self, number: int, most: int, delivered_since: int) -> None:
        """Count as not missing what was found again in a lost database, and waits now.

        Args:
            number: How many events were found.
            most: How many of them were missing at most; the others had been delivered.
            delivered_since: How many were delivered since that database was read before: what was found then and
                delivered is found once more in a copy, and must not hide what is missing.
        """
        recovered = max(0, min(number - delivered_since, self.missing, most))
        self.missing -= recovered
        self.delivered -= min(number - recovered, self.delivered)


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
        with suppress(ValueError, TypeError, RecursionError):
            name, files, counts, *more = json.loads(data)
            record = cls(name, files, Counts(**counts), *more)
            if record._is_sound():
                return record
        return cls()

    def _is_sound(self) -> bool:
        """Whether all of it is of its type: JSON lets pass more, which would fail where it is used."""
        are_right = [type(part) for part in (self.name, self.files, self.predecessors)] == [str, list, list]
        counts = astuple(self.counts)
        are_right &= all(type(number) is int for number in [*self.files, *counts])
        are_right &= all(type(name) is str for name in self.predecessors)
        return are_right and all(-LARGEST_COUNT < count < LARGEST_COUNT for count in counts)


def mark_read(predecessors: Sequence[str], name: str, delivered: int) -> tuple[list[str], int | None]:
    """Mark the database of this name as read, where it is a predecessor.

    Args:
        predecessors: Their names, each with ``+`` and how many events had been delivered when it was read first.
        name: What is read now.
        delivered: How many events are delivered now.

    Returns:
        The predecessors, and how many events had been delivered when this one was read first; None if it is none.
    """
    known = {known: mark for known, _, mark in (one.partition("+") for one in predecessors)}
    if name not in known:
        return list(predecessors), None
    first = int(known[name]) if known[name].isdecimal() else delivered
    known[name] = str(first)
    return ["+".join(one).rstrip("+") for one in known.items()], first


def identify(path: Path | None) -> list[int]:
    """Return what tells a database, its log and its index from all other files."""
    files: list[int] = []
    with suppress(OSError):
        files.extend(os.stat(f"{path}{suffix}").st_ino for suffix in ("", "-wal", "-shm"))  # noqa: PTH116 - for speed
    return files
