"""All files of an outbox directory: which one this process writes, what others hold, and what was left behind."""

import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final, TypeVar

from attrs import frozen

from perkamo.outbox.errors import PerkamoOutboxError
from perkamo.outbox.sqlite.ownership import Claim, Counts, Published, SpoolDirectory
from perkamo.outbox.sqlite.spool import SpoolFile
from perkamo.outbox.sqlite.storage import SlotUnavailableError
from perkamo.outbox.sqlite.writer import HAND_OVER_AFTER, Writer

_PATIENCE: Final = HAND_OVER_AFTER + 4.0
_T = TypeVar("_T")


@frozen
class Adopted:
    """A slot that a process left behind with events in it, and the right to empty it.

    Attributes:
        slot: The slot's number.
        writer: Does what is to be done in its file.
    """

    slot: int
    writer: Writer
    _right: Claim

    def close(self) -> None:
        """Give slot and right back."""
        self.writer.close()
        self._right.release()


class Slots:
    """The numbered files of one directory."""

    def __init__(self, directory: SpoolDirectory) -> None:
        """Take a directory that was checked."""
        self.directory = directory

    def open_lowest(self, avoid: int | None) -> SpoolFile:
        """Claim and open the lowest slot that is free, whatever is in it, or a new one.

        Args:
            avoid: A slot to leave to others.
        """
        for slot in count():
            if slot == avoid:
                continue
            try:
                return self.open(slot)
            except SlotUnavailableError:
                continue
        raise AssertionError("slots are without number")

    def open(self, slot: int) -> SpoolFile:
        """Claim and open one slot.

        Raises:
            SlotUnavailableError: Another process has it, or it is of a newer version.
            PerkamoOutboxError: It could not be opened.
        """
        claim = self.directory.claim(slot)
        if claim is None:
            raise SlotUnavailableError
        return SpoolFile(claim)

    def adopt(self, unwanted: Mapping[int, Counts]) -> Adopted | None:
        """Claim a slot that was left behind with events in it.

        Args:
            unwanted: Slots to pass over for as long as their counts are these.

        Returns:
            The slot, or None if there is none.

        Raises:
            SlotUnavailableError: Another process is emptying slots just now.
        """
        candidates = [slot for slot in self.directory.slots() if self._may_hold_events(slot, unwanted)]
        if not candidates:
            return None
        right = self.directory.claim_adoption()
        if right is None:
            raise SlotUnavailableError
        try:
            for slot in candidates:
                if (writer := self._open_if_left_behind(slot, unwanted)) is not None:
                    return Adopted(slot, writer, right)
        except BaseException:
            right.release()
            raise
        right.release()
        return None

    def counts(self, own: Mapping[int, Counts]) -> list[Counts]:
        """Return the counts of every slot, each as of one moment.

        Args:
            own: The counts of the slots that this process holds.
        """
        return [own.get(slot) or self._counts(slot) for slot in self.directory.slots()]

    def published(self, slot: int) -> Published:
        """Return what was last told of a slot; without anything told, it may hold anything."""
        return self.directory.published(slot) or Published(Counts(), closed=False)

    def visit(self, slot: int, action: Callable[[SpoolFile], _T]) -> _T:
        """Do something in a slot that this process does not hold, and give it back; an owner that is alive lends it.

        Raises:
            SlotUnavailableError: Another process keeps it: it hangs or stands still, or is of an earlier version.
            PerkamoOutboxError: It could not be done.
        """
        deadline = time.monotonic() + _PATIENCE
        right: Claim | None = None
        try:
            while True:
                try:
                    file = self.open(slot)
                    break
                except SlotUnavailableError:
                    if time.monotonic() > deadline:
                        raise
                    right = right or self.directory.claim_visit(slot)
                    time.sleep(0.005)
            try:
                with file.transaction():
                    return action(file)
            finally:
                file.close()
        finally:
            if right is not None:
                right.release()

    def _may_hold_events(self, slot: int, unwanted: Mapping[int, Counts]) -> bool:
        published = self.published(slot)
        if not published.closed:
            return True
        return published.counts.pending > 0 and unwanted.get(slot) != published.counts

    def _open_if_left_behind(self, slot: int, unwanted: Mapping[int, Counts]) -> Writer | None:
        try:
            file = self.open(slot)
        except (SlotUnavailableError, PerkamoOutboxError):
            return None
        if file.committed.pending == 0 or unwanted.get(slot) == file.committed:
            file.close()
            return None
        writer = Writer(lambda _: self.open(slot), file)
        writer.keepers += 1
        return writer

    def _counts(self, slot: int) -> Counts:
        published = self.published(slot)
        if published.closed:
            return published.counts
        try:
            file = self.open(slot)
        except (SlotUnavailableError, PerkamoOutboxError):
            return self.published(slot).counts
        file.close()
        return file.committed
