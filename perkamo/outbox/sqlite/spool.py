"""One SQLite file of events that wait for the service.

One file has one owner (``ownership.py``) and one connection, used by one thread (``writer.py``). WAL with
``synchronous=FULL`` makes a commit durable against power loss; exclusive locking keeps a second connection out,
and with it the corruption that SQLite before 3.51.3 knows when two connections checkpoint at once.

Nothing on disk says "being sent": a row waits until the service has answered for it, so nothing can be stuck halfway.
The bytes of an event are kept exactly as they are sent, for ever.
"""

import contextlib
import ctypes
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final, cast

from attrs import astuple, frozen

from perkamo.outbox.errors import (
    PerkamoOutboxConflictError,
    PerkamoOutboxCorruptError,
    PerkamoOutboxError,
    PerkamoOutboxFullError,
    PerkamoOutboxStorageError,
)
from perkamo.outbox.sqlite.ownership import Claim, Counts
from perkamo.outbox.sqlite.storage import (
    SlotUnavailableError,
    inode,
    install_rescued,
    log,
    move_aside,
    rescued,
    sync,
    translated,
)

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 1346720331  # "PERK"
_SCHEMA: Final = """\
CREATE TABLE pending(id INTEGER PRIMARY KEY AUTOINCREMENT, tx TEXT NOT NULL UNIQUE, space BLOB, body BLOB NOT NULL);
CREATE TABLE dead(
    id INTEGER PRIMARY KEY AUTOINCREMENT, tx TEXT NOT NULL UNIQUE, space BLOB, body BLOB NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE counts(accepted INT NOT NULL, delivered INT NOT NULL, pending INT NOT NULL, dead INT NOT NULL,
    size INT NOT NULL, CHECK (accepted = delivered + pending + dead));
INSERT INTO counts VALUES (0, 0, 0, 0, 0);
PRAGMA application_id = 1346720331;
PRAGMA user_version = 1"""
_FREE_PAGES_KEPT: Final = 256
_PAGES_PER_SHRINK: Final = 2000
_FULL: Final = 2
_PATIENCE: Final = 0.25

_LOGGER: Final = logging.getLogger("perkamo.outbox")
_OPEN_FILES: "weakref.WeakSet[SpoolFile]" = weakref.WeakSet()


@frozen(repr=False)
class StoredEvent:
    """One row: an event that waits, or a dead letter.

    Attributes:
        row: The row's number; numbers are never used twice within a table.
        transaction_id: The event's transaction id.
        space: A hash of the service and Space key that the event belongs to, or None while no client is known.
        body: The exact bytes of the event.
        reason: Why the service refused it; None while it waits.
    """

    row: int
    transaction_id: str
    space: bytes | None
    body: bytes
    reason: str | None = None


class SpoolFile:
    """The open database of one claimed slot. All calls come from one thread, inside ``transaction``."""

    def __init__(self, claim: Claim) -> None:
        """Open the file, or make it.

        Args:
            claim: The claim on its slot, which the file releases when it is closed or can't be opened.

        Raises:
            PerkamoOutboxCorruptError: The file was damaged or foreign, and was set aside.
                Opening again makes a new one.
            PerkamoOutboxError: The disk is full or fails.
            SlotUnavailableError: The file is open elsewhere, or was written by a newer version of this library.
        """
        self._claim = claim
        self.slot: int = claim.slot
        self.usable: bool = True
        try:
            with translated():
                self.connection: sqlite3.Connection = self._open_patiently()
                self.committed: Counts = self._read_counts()
                self._counts = self.committed
        except PerkamoOutboxCorruptError as error:
            raise self._set_aside() from error
        except BaseException:
            claim.release()
            raise
        claim.publish(self.committed)
        _OPEN_FILES.add(self)

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """Make everything inside durable at once, or nothing of it.

        Raises:
            PerkamoOutboxError: Nothing was kept; the message says why. ``usable`` tells whether the file can go on.
        """
        try:
            with translated():
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                self._write_counts()
                self.connection.execute("COMMIT")
        except PerkamoOutboxCorruptError as error:
            self.usable = False
            raise self._set_aside() from error
        except BaseException as error:
            self._roll_back()
            if isinstance(error, PerkamoOutboxStorageError):
                self.close()  # after a failed sync nobody knows what the page cache holds: read the file anew
            raise
        changed = self._counts != self.committed
        self.committed = self._counts
        self._keep_in_place()
        if changed:
            self._claim.publish(self.committed)

    def put(self, transaction_id: str, space: bytes | None, body: bytes, max_size: int) -> None:
        """Keep an event that waits. The same event again is kept once.

        Args:
            transaction_id: The event's transaction id.
            space: A hash of where it belongs, or None while that is not known.
            body: The event's bytes.
            max_size: The most bytes of events that this file may hold.

        Raises:
            PerkamoOutboxConflictError: Another event is here under this transaction id.
            PerkamoOutboxFullError: There is no room.
        """
        if not self._is_new(transaction_id, body):
            return
        if self._counts.size + len(body) > max_size:
            raise PerkamoOutboxFullError(
                "The outbox is full. The event was not kept. Deliver what waits, or allow it more bytes (max_bytes)."
            )
        self.connection.execute("INSERT INTO pending(tx, space, body) VALUES (?, ?, ?)", (transaction_id, space, body))
        self._add(accepted=1, pending=1, size=len(body))

    def take(self, space: bytes, max_events: int, max_size: int) -> list[StoredEvent]:
        """Return the oldest events that wait and belong to a Space, and bind to it those that belong to none yet.

        Args:
            space: The hash of the service and Space key that they will be sent to.
            max_events: The most events.
            max_size: The most bytes, but at least one event is returned if there is one.
        """
        found: list[StoredEvent] = []
        size = 0
        rows = self.connection.execute(
            "SELECT id, tx, space, body FROM pending WHERE space IS NULL OR space = ? ORDER BY id LIMIT ?",
            (space, max_events),
        )
        for row in rows:
            event = StoredEvent(*cast("tuple[int, str, bytes | None, bytes]", row))
            size += len(event.body)
            if found and size > max_size:
                break
            found.append(event)
        unbound = [(space, event.row) for event in found if event.space is None]
        self.connection.executemany("UPDATE pending SET space = ? WHERE id = ?", unbound)
        return found

    def settle(self, delivered: Sequence[StoredEvent], refused: Sequence[tuple[StoredEvent, str]]) -> None:
        """Let go of events that the service answered for, and make dead letters of those that it refused.

        Args:
            delivered: Events whose answer came.
            refused: Events with the reason for which they will never be accepted.
        """
        for event, reason in refused:
            if self._remove(event):
                self.connection.execute(
                    "INSERT INTO dead(tx, space, body, reason) VALUES (?, ?, ?, ?)",
                    (event.transaction_id, event.space, event.body, reason),
                )
                self._add(pending=-1, dead=1)
        for event in delivered:
            if self._remove(event):
                self._add(delivered=1, pending=-1, size=-len(event.body))

    def dead(self, after: int, limit: int) -> list[StoredEvent]:
        """Return dead letters, oldest first, whose row is greater than ``after``."""
        rows = self.connection.execute(
            "SELECT id, tx, space, body, reason FROM dead WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [StoredEvent(*cast("tuple[int, str, bytes | None, bytes, str]", row)) for row in rows]

    def requeue(self, transaction_id: str | None) -> int:
        """Let one dead letter wait again, or all of them, and return how many did."""
        chosen: tuple[str | None, ...] = (transaction_id, transaction_id)
        self.connection.execute(
            "INSERT INTO pending(tx, space, body) "
            "SELECT tx, space, body FROM dead WHERE ? IS NULL OR tx = ? ORDER BY id",
            chosen,
        )
        moved = self.connection.execute("DELETE FROM dead WHERE ? IS NULL OR tx = ?", chosen).rowcount
        self._add(pending=moved, dead=-moved)
        return moved

    def elsewhere(self, space: bytes) -> int:
        """Return how many events wait here that belong to another service or Space key."""
        return _number(self.connection, "SELECT count(*) FROM pending WHERE space <> ?", space)

    def rebind(self, space: bytes) -> int:
        """Let all that waits here, and the dead letters, belong to this service and Space key; count the former."""
        moved = self.connection.execute("UPDATE pending SET space = ? WHERE space <> ?", (space, space)).rowcount
        self.connection.execute("UPDATE dead SET space = ?", (space,))
        return moved

    def shrink(self) -> bool:
        """Give some pages back to the disk after many events were delivered, and tell whether there are more."""
        free = _number(self.connection, "PRAGMA freelist_count") - _FREE_PAGES_KEPT
        for _ in range(min(free, _PAGES_PER_SHRINK)):
            self.connection.execute("PRAGMA incremental_vacuum")  # sqlite3 takes one step, which is one page
        return free > _PAGES_PER_SHRINK

    def is_wanted(self) -> bool:
        """Tell whether another process waits to look into this file."""
        return self._claim.is_wanted()

    def close(self) -> None:
        """Close the file and give its slot back. Twice is as good as once."""
        if self.usable:
            self.usable = False
            with contextlib.suppress(PerkamoOutboxError, SlotUnavailableError):
                self._keep_in_place()
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
            self._claim.publish(self.committed, closed=True)
            self._claim.release()

    def _open_patiently(self) -> sqlite3.Connection:
        # A process that is killed loses its claim a moment before it loses the database, and SQLite does not wait for
        # locks that it needs for recovery.
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._open()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _open(self) -> sqlite3.Connection:
        path = self._claim.path
        if rescued(path).exists():
            install_rescued(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application = _number(connection, "PRAGMA application_id")
        version = _number(connection, "PRAGMA user_version")
        is_new = _number(connection, "SELECT count(*) FROM sqlite_master") == 0
        if application == _APPLICATION_ID and version > SCHEMA_VERSION:
            raise SlotUnavailableError
        if not is_new and (application, version) != (_APPLICATION_ID, SCHEMA_VERSION):
            raise PerkamoOutboxCorruptError("The file belongs to something else.")
        if is_new:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        if mode != ("wal",) or _number(connection, "PRAGMA synchronous") != _FULL:
            raise PerkamoOutboxStorageError("SQLite can't make commits durable here (WAL, synchronous=FULL).")
        if is_new:
            self._create(connection)
        elif not self._claim.was_closed() and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise PerkamoOutboxCorruptError("The file is damaged.")
        self._files = self._identity()

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("COMMIT")
        sync(self._claim.path.parent)

    def _read_counts(self) -> Counts:
        row = self.connection.execute("SELECT accepted, delivered, pending, dead, size FROM counts").fetchone()
        return Counts(*cast("tuple[int, int, int, int, int]", row))

    def _write_counts(self) -> None:
        if self._counts != self.committed:
            self.connection.execute(
                "UPDATE counts SET accepted = ?, delivered = ?, pending = ?, dead = ?, size = ?", astuple(self._counts)
            )

    def _roll_back(self) -> None:
        self._counts = self.committed
        if self.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def _set_aside(self) -> PerkamoOutboxCorruptError:
        with contextlib.suppress(sqlite3.Error, AttributeError):  # there is no connection to a file that never opened
            self.connection.close()
        try:
            with translated():
                place = move_aside(self._claim.path)
            self._claim.publish(Counts(), closed=True)
        finally:
            self._claim.release()
        return PerkamoOutboxCorruptError(
            f"A file of the outbox was damaged or foreign. It was moved to {place}. This call kept nothing; the next "
            "one writes a fresh file.",
            retryable=True,
        )

    def _is_new(self, transaction_id: str, body: bytes) -> bool:
        row = self.connection.execute(
            "SELECT body FROM pending WHERE tx = ? UNION ALL SELECT body FROM dead WHERE tx = ?",
            (transaction_id, transaction_id),
        ).fetchone()
        if row is None:
            return True
        if row == (body,):
            return False
        raise PerkamoOutboxConflictError(
            "The outbox holds another event with this transaction id. This one was not kept. Give each event an id of "
            "its own, and keep an event's id, content and occurred_at when you put it again."
        )

    def _remove(self, event: StoredEvent) -> bool:
        # Both row and id: after the file was set aside, a fresh one counts its rows from one again.
        statement = "DELETE FROM pending WHERE id = ? AND tx = ?"
        return self.connection.execute(statement, (event.row, event.transaction_id)).rowcount == 1

    def _add(self, *, accepted: int = 0, delivered: int = 0, pending: int = 0, dead: int = 0, size: int = 0) -> None:
        self._counts += Counts(accepted, delivered, pending, dead, size)

    def _keep_in_place(self) -> None:
        """See to it that what was committed is found under its name: cleaners unlink what they take for litter."""
        with translated():
            self._claim.restore()
            files = self._identity()
            if None in self._files and None not in files:
                self._files = files  # the log comes into being with the first write
            if files != self._files:
                self._write_again(self._claim.path)

    def _write_again(self, path: Path) -> None:
        _LOGGER.error("The file %s was removed while it was in use; it is written again", path)
        copy = path.with_name(f"{path.name}.copy")
        copy.unlink(missing_ok=True)
        os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self.connection.execute("VACUUM INTO ?", (str(copy),))
        sync(copy)
        copy.rename(rescued(path))
        install_rescued(path)
        self.connection.close()  # SQLite sees that its file has moved, and leaves the new one alone
        self.connection = self._open()

    def _identity(self) -> tuple[tuple[int, int] | None, ...]:
        path = self._claim.path
        return tuple(inode(file) for file in (path, log(path)))


def _number(connection: sqlite3.Connection, query: str, *parameters: bytes) -> int:
    return cast("tuple[int]", connection.execute(query, parameters).fetchone())[0]


def _keep_connections_in_child() -> None:
    # Closing an inherited connection would checkpoint and unlink the parent's log, and so would its destructor at the
    # child's exit: one reference too many keeps it alive for good.
    for file in list(_OPEN_FILES):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(file.connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_connections_in_child)
