"""Logs that keep the ids of handled deliveries: in memory, or in a SQLite file that several processes share."""

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import partial
from os import PathLike, fspath
from typing import Final, Literal, Protocol

from attrs import frozen

from perkamo.errors import PerkamoConfigurationError, PerkamoError
from perkamo.runtime.clock import boot_time

_DAY: Final = 86_400.0
_BUSY_SECONDS: Final = 10.0
_SCHEMA: Final = """\
CREATE TABLE IF NOT EXISTS handled(
  id TEXT PRIMARY KEY, token TEXT, since REAL NOT NULL, until REAL NOT NULL, forget REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS handled_claims ON handled(token) WHERE token IS NOT NULL;
CREATE INDEX IF NOT EXISTS handled_forget ON handled(forget) WHERE token IS NULL"""
"""A claim has a token; a handled delivery has none. ``since`` and ``until`` are seconds since the machine started."""
_END_CLAIMS: Final = "DELETE FROM handled WHERE token IS NOT NULL AND NOT (since <= :now AND :now < until)"
"""Also if ``since`` is in the future: then the machine was restarted after it was written."""
_FORGET: Final = "DELETE FROM handled WHERE token IS NULL AND forget <= :today AND NOT (since <= :now AND :now < until)"
"""By both clocks: if the wall clock was set wrong, deliveries of a minute ago must not be forgotten."""

NOT_HANDLED: Final = "The delivery was not handled; answer with status 503."
HANDLED: Final = "The delivery was handled; answer with a 2xx. A repetition may be handled again."
NOT_RELEASED: Final = (
    "The delivery was not handled; answer with status 503. Its claim stays until its lease ends; a repetition after "
    "that is handled."
)


class PerkamoDeliveryLogError(PerkamoError):
    """The log of deliveries can't be used now.

    Attributes:
        handled: Whether the delivery was handled before the log failed. If so, answer 2xx, because a repetition would
            be handled again. If not, answer 503, so that it is repeated.
    """

    handled: bool

    def __init__(self, message: str, *, handled: bool = False) -> None:
        """Make the text: why, whether the delivery was handled, and what to answer."""
        super().__init__(message, retryable=not handled)
        self.handled = handled


@frozen
class Claim:
    """The answer to a claim on a delivery.

    Attributes:
        state: ``"mine"``: handle it; ``"done"``: it was handled; ``"busy"``: another handler has it.
        token: Identifies this claim among several of the same delivery.
    """

    state: Literal["mine", "done", "busy"]
    token: str = ""


class DeliveryLog(Protocol):
    """Keeps delivery ids. The methods may block, and may be called from any thread."""

    def claim(self, delivery_id: str) -> Claim:
        """Claim a delivery; if several claim it at once, one gets it."""
        ...

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled."""
        ...

    def failed(self, delivery_id: str, token: str) -> None:
        """Release the claim with this token, so that a repetition is handled."""
        ...


_memory_lock = threading.RLock()
"""One for all logs in memory, because each holds it only for a dict lookup. A fork waits for it."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_memory_lock.acquire, after_in_parent=_memory_lock.release, after_in_child=_memory_lock.release
    )


class MemoryDeliveryLog:
    """A log in the memory of one process.

    Args:
        max_entries: How many of the latest handled deliveries it remembers; at least 1.

    Raises:
        PerkamoConfigurationError: max_entries is below 1.
    """

    def __init__(self, max_entries: int = 100_000) -> None:
        if max_entries < 1:
            raise PerkamoConfigurationError("max_entries must be at least 1.")
        self._max_entries = max_entries
        self._lock = _memory_lock
        self._busy: dict[str, str] = {}
        self._done: dict[str, None] = {}

    def claim(self, delivery_id: str) -> Claim:
        """Claim a delivery; if several claim it at once, one gets it."""
        with self._lock:
            if delivery_id in self._done:
                return Claim("done")
            if delivery_id in self._busy:
                return Claim("busy")
            token = self._busy[delivery_id] = secrets.token_hex(8)
            return Claim("mine", token)

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled."""
        with self._lock:
            self._busy.pop(delivery_id, None)
            self._done[delivery_id] = None
            if len(self._done) > self._max_entries:
                del self._done[next(iter(self._done))]

    def failed(self, delivery_id: str, token: str) -> None:
        """Release the claim with this token, so that a repetition is handled."""
        with self._lock:
            if self._busy.get(delivery_id) == token:
                del self._busy[delivery_id]


class SqliteDeliveryLog:
    """A log in a SQLite file, for several processes of one machine.

    It contains delivery ids, and nothing else of a delivery. If a process dies, its claim ends with the lease. So a
    handler that takes longer than the lease may be run a second time. The lease is measured by the time since the
    machine started, which nobody can set; claims from before a restart have ended.

    Args:
        path: The file, on a local disk; created if it is missing.
        lease: Seconds after which a claim that was neither completed nor released ends.
        keep: The least seconds for which a handled delivery is remembered.

    Raises:
        PerkamoConfigurationError: A time is not above 0.
        PerkamoDeliveryLogError: The file can't be created or opened, or is not a SQLite file.
    """

    _boot_time: Callable[[], float] = boot_time
    # Bound here, so that a tool that freezes time does not replace it.
    _wall_time: Callable[[], float] = partial(time.time)

    def __init__(self, path: str | PathLike[str], *, lease: float = 300.0, keep: float = 30 * _DAY) -> None:
        if not (lease > 0 and keep > 0):
            raise PerkamoConfigurationError("lease and keep must be above 0 seconds.")
        self._path = fspath(path)
        self._lease, self._keep = lease, keep
        with self._connection(NOT_HANDLED) as connection:
            connection.executescript(_SCHEMA)

    def claim(self, delivery_id: str) -> Claim:
        """Claim a delivery; if several claim it at once, one gets it."""
        token = secrets.token_hex(8)
        with self._connection(NOT_HANDLED) as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = self._boot_time()  # after the wait for the others, so that no claim of theirs is later
            connection.execute(_END_CLAIMS, {"now": now})
            connection.execute(_FORGET, {"now": now, "today": self._wall_time()})
            made = connection.execute(
                "INSERT OR IGNORE INTO handled VALUES (?, ?, ?, ?, NULL)", (delivery_id, token, now, now + self._lease)
            )
            if made.rowcount:
                claim = Claim("mine", token)
            else:
                row: tuple[str | None] = connection.execute(
                    "SELECT token FROM handled WHERE id = ?", (delivery_id,)
                ).fetchone()
                claim = Claim("done" if row[0] is None else "busy")
            connection.execute("COMMIT")
        return claim

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled.

        Raises:
            PerkamoDeliveryLogError: The log can't be written; ``handled`` is true.
        """
        now = self._boot_time()
        row = (delivery_id, now, now + self._keep, self._wall_time() + self._keep)
        with self._connection(HANDLED, handled=True) as connection:
            connection.execute("INSERT OR REPLACE INTO handled VALUES (?, NULL, ?, ?, ?)", row)

    def failed(self, delivery_id: str, token: str) -> None:
        """Release the claim with this token, so that a repetition is handled."""
        with self._connection(NOT_RELEASED) as connection:
            connection.execute("DELETE FROM handled WHERE id = ? AND token = ?", (delivery_id, token))

    @contextmanager
    def _connection(self, advice: str, *, handled: bool = False) -> Generator[sqlite3.Connection]:
        """Open the file for one step, so that threads can share a log and it survives a fork."""
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter if the message quotes damaged bytes
            reason = str(error)
        else:
            return
        raise PerkamoDeliveryLogError(f"The log of deliveries can't be used: {reason}. {advice}", handled=handled)
