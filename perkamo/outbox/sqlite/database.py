"""The one database of an outbox: opened, checked, written to and left, each under the directory's lock.

WAL with ``synchronous=FULL`` makes a commit durable against power loss. The lock's file says what the database holds
and which files it consists of, to show when something outside deletes, truncates or overwrites them. A process whose
files were taken away continues in a fresh database and carries into it what the lost one holds.
"""

import logging
import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import quote

from perkamo.outbox import errors
from perkamo.outbox.directory import LOCK_PATIENCE, Directory
from perkamo.outbox.errors import PerkamoOutboxCorruptError, PerkamoOutboxError, PerkamoOutboxStorageError
from perkamo.outbox.record import Counts, Record, identify
from perkamo.outbox.sqlite.tables import Tables
from perkamo.runtime.forks import ForkGuard

SCHEMA_VERSION: Final = 2
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_APPLICATION_ID: Final = 1346720331  # "PERK"
_PAGE_SIZE: Final = 4096
_BUSY_MILLISECONDS: Final = 1000
_STEPS: Final = 500
_NO_SPACE: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOGGER: Final = logging.getLogger("perkamo.outbox")


class Database:
    """One process's access to the database, for one thread at a time."""

    def __init__(self, directory: Directory) -> None:
        self.directory: Directory = directory
        self.most_bytes: int = directory.log_bytes // 2
        self._guard = ForkGuard(self._close, self._begin_in_child)
        self._tables: Tables | None = None
        self._path = directory.path
        self._files: list[int] = []
        self._lost: list[Tables] = []
        self._of_parents: list[Tables] = []
        self._is_suspect = False
        self._seen = -1

    @contextmanager
    def transaction(self) -> Generator[Tables]:
        """Make everything inside durable at once, or none of it; an error whose outcome is unknown says so."""
        with self._entered() as tables:
            tables.has_room = self.directory.has_room()
            try:
                with _transaction(tables):
                    yield tables
            except BaseException as error:
                code = _code(error)
                if isinstance(error, PerkamoOutboxStorageError) or (code and code not in _NO_SPACE):
                    self._close()  # after a failed sync nobody knows what the page cache holds: read the file again
                    self._is_suspect = code & 0xFF in _DAMAGED
                raise
            with suppress(sqlite3.Error, OSError):
                self._write_record(tables)
                _give_back_pages(tables, self.most_bytes // _PAGE_SIZE)
            is_in_place = identify(self._path) == self._files
        if not is_in_place:  # what was committed must be found under its name
            try:
                with self._entered():
                    pass
            except PerkamoOutboxError as error:
                raise errors.unknown() from error

    def has_changed(self) -> bool:
        """Return whether another process has written since the last look, or the files were taken away."""
        if self._lost or (self._tables is not None and identify(self._path) != self._files):
            with self._entered():
                pass
        with _translated(self.directory), self._guard:
            if self._tables is None:
                return True
            seen, self._seen = self._seen, _number(self._tables.connection, "PRAGMA data_version")
            return seen != self._seen

    def close(self) -> None:
        """Let go of leases and files. It is opened again when it is used again."""
        try:
            if self._tables is not None or self._lost:
                with self.transaction() as tables:
                    tables.release([self.directory.user])
                with _translated(self.directory), self.directory.lock, self._guard:
                    self._close()
        finally:
            with self._guard:
                self.directory.lock.forget()

    @contextmanager
    def _entered(self) -> Generator[Tables]:
        """Hold the lock, keep forks away, and have the tables open that stand under their name now."""
        with _translated(self.directory), self.directory.lock, self._guard:
            tables = self._current()
            while self._lost:
                try:
                    _carry(self._lost[0], tables, in_use=True)
                except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                    if _code(error) & 0xFF not in _DAMAGED:
                        raise
                self._lost.pop(0).connection.close()
            yield tables

    def _close(self) -> None:
        # Before a fork this runs without the lock: SQLite writes at closing only where nobody else has the database.
        tables, self._tables = self._tables, None
        if tables is not None:
            with suppress(sqlite3.Error):
                tables.connection.close()
            self.directory.leave()

    def _begin_in_child(self) -> None:
        self.directory.begin_in_child()
        tables, self._tables = self._tables, None
        # SQLite's connections must not even be closed in a child. One is open here only where the fork called no hook.
        self._of_parents += [*self._lost, *([] if tables is None else [tables])]
        self._lost.clear()

    def _current(self) -> Tables:
        if self._tables is not None:
            name = Record.from_bytes(self.directory.lock.read()).name
            if name in {"", self._path.name} and identify(self._path) == self._files:
                return self._tables
            _LOGGER.error("The files of the outbox %s were removed while in use; they are written again", self._path)
            self._lost.append(self._tables)
            self._tables = None
            self.directory.leave()
        self._tables = self._open()
        self._files, self._is_suspect = identify(self._path), False
        self._write_record(self._tables)
        return self._tables

    def _open(self) -> Tables:
        directory = self.directory
        others_live, dead = directory.join()
        with ExitStack() as undo:
            undo.callback(directory.leave)
            record = Record.from_bytes(directory.lock.read())
            path = next((path for path in directory.databases() if record.name in {path.name, ""}), None)
            state = "gone" if path is None else self._examine(path)
            # One whose log or index is not the one that its users have is left to them.
            is_good = state == "alone" or (state == "shared" and identify(path) == record.files)
            self._path = path if path and is_good and not self._is_suspect else directory.new_database()
            tables = _connect(self._path, directory)
            undo.callback(tables.connection.close)
            with _transaction(tables):
                if not any(tables.predecessors):
                    tables.predecessors = record.predecessors
                if self._path != path:
                    tables.succeed(record)
                elif state == "alone":
                    tables.count_rows()
                    tables.counts.find_missing(record.counts)
                tables.release(dead if state == "shared" else None)
            for beside in directory.databases():
                if beside != self._path:
                    self._take_in(beside, tables, record.counts)
            undo.pop_all()
        directory.remove(*dead)
        if (missing := tables.counts.missing - record.counts.missing) > 0 and not others_live and not self._lost:
            _LOGGER.error(errors.MISSING, missing, directory.path)
        return tables

    def _examine(self, path: Path) -> Literal["alone", "shared", "damaged"]:
        """Return whether others have a database open; check it if not."""
        with suppress(PerkamoOutboxCorruptError), _translated(self.directory):
            try:
                with closing(_connect(path, self.directory, alone=True).connection) as connection:
                    if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                        Tables(connection, path.name).read_counts()
                        return "alone"
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return "shared"
                raise
        return "damaged"

    def _take_in(self, path: Path, tables: Tables, last: Counts) -> None:
        """Take in what a database beside the current one holds, unless it has users, who carry it over themselves."""
        state = self._examine(path)
        if state == "alone":
            with closing((other := _connect(path, self.directory)).connection):
                _carry(other, tables)
            self.directory.remove(path.name, f"{path.name}-wal", f"{path.name}-shm")
        elif state == "damaged":
            place = self.directory.move_aside(path)
            with _transaction(tables), closing(sqlite3.connect(place, isolation_level=None)) as connection:
                other, most = Tables(connection, path.name), last.pending + last.dead
                with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                    other.read_counts()
                    most -= last.accepted - other.counts.accepted  # put since, where it is an older state
                saved = tables.absorb(other, most)
            _LOGGER.error("A database of the outbox was damaged or foreign: see %s. %d events are saved", place, saved)

    def _write_record(self, tables: Tables) -> None:
        self.directory.lock.write(Record(self._path.name, self._files, tables.counts, tables.predecessors).to_bytes())


@contextmanager
def _translated(directory: Directory) -> Generator[None]:
    """Turn what SQLite and the system refuse into errors of the outbox."""
    try:
        yield
    except TimeoutError:
        raise errors.locked(directory.path, LOCK_PATIENCE) from None
    except OSError as error:
        raise errors.of_system(error, directory.path) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        code = _code(error)
        if code in _NO_SPACE:
            raise errors.disk_full() from error
        if code & 0xFF in _DAMAGED:
            raise errors.damaged() from error
        raise errors.unusable(directory.path, error, retryable=True) from error


def _code(error: BaseException) -> int:
    """Return SQLite's code; a message that quotes damaged bytes is none of its errors, but one of decoding."""
    return sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else getattr(error, "sqlite_errorcode", 0)


def _connect(path: Path, directory: Directory, *, alone: bool = False) -> Tables:
    """Open a database that exists, and bring it to this version's schema."""
    uri = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        if alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA busy_timeout = {0 if alone else _BUSY_MILLISECONDS}")
        _set_up(connection, directory.log_bytes)
    except BaseException:
        connection.close()
        raise
    return Tables(connection, path.name, directory.user)


def _set_up(connection: sqlite3.Connection, log_bytes: int) -> None:
    run = connection.execute
    if _number(connection, "SELECT count(*) FROM sqlite_master") == 0:
        run("PRAGMA auto_vacuum = INCREMENTAL")
    elif _number(connection, "PRAGMA application_id") != _APPLICATION_ID:
        raise PerkamoOutboxCorruptError("The database belongs to something else.")
    version = _check_version(connection)
    mode = run("PRAGMA journal_mode = WAL").fetchone()
    run("PRAGMA synchronous = FULL")
    run("PRAGMA secure_delete = FAST")  # ON writes all of what is deleted, for which a disk may lack room
    if mode != ("wal",) or _number(connection, "PRAGMA synchronous") != 2:
        raise PerkamoOutboxStorageError("SQLite can't make commits durable here (WAL, synchronous=FULL).")
    # SQLite writes the log back at the end of a commit, which is under the lock as all else is.
    run(f"PRAGMA wal_autocheckpoint = {log_bytes // _PAGE_SIZE}")
    run(f"PRAGMA journal_size_limit = {log_bytes}")
    for number in range(version + 1, SCHEMA_VERSION + 1):
        script = (_MIGRATIONS / f"{number:04}.sql").read_text("utf-8")
        for statement in ["BEGIN IMMEDIATE", *script.split(";\n"), f"PRAGMA user_version = {number}", "COMMIT"]:
            run(statement)
    run("SELECT pending FROM counts").fetchone()  # log and index are open from here on


def _check_version(connection: sqlite3.Connection) -> int:
    if (version := _number(connection, "PRAGMA user_version")) > SCHEMA_VERSION:
        raise errors.newer(version, SCHEMA_VERSION)
    return version


@contextmanager
def _transaction(tables: Tables) -> Generator[None]:
    connection = tables.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        _check_version(connection)
        tables.read_counts()
        yield
        tables.write_counts()
        connection.execute("COMMIT")
    except BaseException as error:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        if _code(error) in {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}:
            raise errors.unknown() from error
        raise


def _carry(other: Tables, tables: Tables, *, in_use: bool = False) -> None:
    """Move all that another database holds, with its counts, into the tables."""
    with _transaction(other):
        with _transaction(tables):
            tables.absorb(other, in_use=in_use)
        other.connection.execute("DELETE FROM leases")
        other.connection.execute("DELETE FROM events")
        other.counts = Counts()
    other.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _give_back_pages(tables: Tables, most: int) -> None:
    """Give pages back to the disk where most of the database is free: a few at a time, for it may be nearly full."""
    connection = tables.connection
    for _ in range(1 if tables.counts.pending else _STEPS):
        pages, free = (_number(connection, f"PRAGMA {name}") for name in ("page_count", "freelist_count"))
        if free <= max(most, pages // 2):
            return
        connection.executescript(f"PRAGMA incremental_vacuum({min(most, free - most)})")  # execute() gives one page
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the file gets shorter with this


def _number(connection: sqlite3.Connection, query: str) -> int:
    return cast("tuple[int]", connection.execute(query).fetchone())[0]
