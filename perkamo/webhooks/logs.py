"""Where the ids of handled deliveries are kept: in memory, or in a SQLite file that several processes share."""

import secrets
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from os import PathLike, fspath
from typing import Final, Literal, Protocol

from attrs import frozen

from perkamo.errors import PerkamoConfigurationError, PerkamoError

_DAY: Final = 86_400.0
_BUSY_SECONDS: Final = 10.0
_SCHEMA: Final = """\
CREATE TABLE IF NOT EXISTS deliveries(id TEXT PRIMARY KEY, token TEXT, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_until ON deliveries(until)"""


class PerkamoDeliveryLogError(PerkamoError):
    """The log of deliveries can't be used now. The delivery was not handled: answer 503, so that it is repeated."""

    def __init__(self, reason: str) -> None:
        """Say why."""
        super().__init__(
            f"The log of deliveries can't be used: {reason}. The delivery was not handled; answer with status 503.",
            retryable=True,
        )


@frozen
class Claim:
    """What became of the wish to handle a delivery.

    Attributes:
        state: ``"mine"``: handle it; ``"done"``: it was handled; ``"busy"``: somebody is handling it.
        token: Tells this claim from a later one of the same delivery.
    """

    state: Literal["mine", "done", "busy"]
    token: str = ""


class DeliveryLog(Protocol):
    """Keeps delivery ids. Its methods may block, and are called from any thread."""

    def claim(self, delivery_id: str) -> Claim:
        """Ask to handle a delivery; of several that ask at once, one gets it."""
        ...

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled."""
        ...

    def failed(self, delivery_id: str, token: str) -> None:
        """Give the claim with this token back, so that a repetition is handled."""
        ...


class MemoryDeliveryLog:
    """A log for one process, which forgets everything at its end.

    Args:
        max_entries: How many handled deliveries it remembers, the latest ones; at least 1.

    Raises:
        PerkamoConfigurationError: max_entries is below 1.
    """

    def __init__(self, max_entries: int = 100_000) -> None:
        if max_entries < 1:
            raise PerkamoConfigurationError("max_entries must be at least 1.")
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._busy: dict[str, str] = {}
        self._done: dict[str, None] = {}

    def claim(self, delivery_id: str) -> Claim:
        """Ask to handle a delivery; of several that ask at once, one gets it."""
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
        """Give the claim with this token back, so that a repetition is handled."""
        with self._lock:
            if self._busy.get(delivery_id) == token:
                del self._busy[delivery_id]


class SqliteDeliveryLog:
    """A log in a SQLite file, for several processes of one machine.

    It holds delivery ids, and nothing else of a delivery. A claim ends with its lease when its process dies, so a
    handler that takes longer than the lease may be run again meanwhile.

    Args:
        path: The file, on a local disk; made when it is not there.
        lease: Seconds after which a claim that was neither done nor given back counts for nothing.
        keep: Seconds for which a handled delivery is remembered.

    Raises:
        PerkamoConfigurationError: A time is not above 0.
        PerkamoDeliveryLogError: The file can't be made or opened, or is none of SQLite's.
    """

    def __init__(self, path: str | PathLike[str], *, lease: float = 300.0, keep: float = 30 * _DAY) -> None:
        if not (lease > 0 and keep > 0):
            raise PerkamoConfigurationError("lease and keep must be above 0 seconds.")
        self._path = fspath(path)
        self._lease, self._keep = lease, keep
        with self._connection() as connection:
            connection.executescript(_SCHEMA)

    def claim(self, delivery_id: str) -> Claim:
        """Ask to handle a delivery; of several that ask at once, one gets it."""
        token, now = secrets.token_hex(8), time.time()
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM deliveries WHERE until <= ?", (now,))
            made = connection.execute(
                "INSERT OR IGNORE INTO deliveries VALUES (?, ?, ?)", (delivery_id, token, now + self._lease)
            )
            if made.rowcount:
                claim = Claim("mine", token)
            else:
                row: tuple[str | None] = connection.execute(
                    "SELECT token FROM deliveries WHERE id = ?", (delivery_id,)
                ).fetchone()
                claim = Claim("done" if row[0] is None else "busy")
            connection.execute("COMMIT")
        return claim

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled."""
        with self._connection() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO deliveries VALUES (?, NULL, ?)", (delivery_id, time.time() + self._keep)
            )

    def failed(self, delivery_id: str, token: str) -> None:
        """Give the claim with this token back, so that a repetition is handled."""
        with self._connection() as connection:
            connection.execute("DELETE FROM deliveries WHERE id = ? AND token = ?", (delivery_id, token))

    @contextmanager
    def _connection(self) -> Generator[sqlite3.Connection]:
        """Open the file for one step: so a log may be shared by threads and survives a fork."""
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            reason = str(error)
        else:
            return
        raise PerkamoDeliveryLogError(reason)
