"""The tables of an outbox, and all that is done in them, each within a transaction of ``database.py``.

An event is a row until the service has answered for it; a dead letter is the same row with a reason. Who has which
event out is in a small table beside it, so that a lease does not write the event again. Its bytes are kept as sent.
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from typing import Final, TypeAlias, cast
from zlib import crc32

from attrs import astuple, evolve, fields

from perkamo.outbox import errors
from perkamo.outbox.record import LARGEST_COUNT, Counts, Record, mark_read
from perkamo.outbox.statistics import MINUTE, SpaceRow, StatsOfSpaces, to_stats
from perkamo.outbox.store import KEY_PREFIX, UNBOUND, DeadLetter, Lease, Settlement, StoredEvent, WaitingEvent
from perkamo.runtime.clock import boot_time

LONGEST_LEASE: Final = 600.0
"""Seconds. What is leased or put off for longer was so before the machine was started again."""
MOVED_BYTES: Final = 8 << 20
"""How many bytes are carried to another store at a time."""
_LOOK_AT_THE_DEAD: Final = 0.25
"""Seconds between two looks at whether those who hold the rest have died."""
_WAITING: Final = "FROM events e LEFT JOIN leases l ON l.id = e.id WHERE e.reason IS NULL AND e.space = ?"

_wall_time = time.time

IsDead: TypeAlias = Callable[[str], bool]
_Free: TypeAlias = tuple[int, str, int, bytes, int, str | None]
_NAMES: Final = [field.name for field in fields(Counts)]


class Tables:
    """One connection's view of the tables."""

    def __init__(self, connection: sqlite3.Connection, name: str, user: str = "") -> None:
        self.connection: sqlite3.Connection = connection
        self.name: str = name
        self.predecessors: list[str] = []
        self.counts: Counts = Counts()
        self.has_room: bool = True
        self._user = user
        self._stored = (self.counts, self.predecessors)
        self._run, self._run_many = connection.execute, connection.executemany

    def read_counts(self) -> None:
        """Read the counts, which other processes change too."""
        row = self._run(f"SELECT predecessor, {', '.join(_NAMES)} FROM counts").fetchone() or ("",)
        if len(row) <= len(_NAMES) or not all(type(n) is int and -LARGEST_COUNT < n < LARGEST_COUNT for n in row[1:]):
            error = sqlite3.DatabaseError("SQLite's own check lets pass that counts are not numbers")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        self.counts, self.predecessors = Counts(*cast("Sequence[int]", row[1:])), str(row[0]).split("/")
        self._stored = (evolve(self.counts), self.predecessors)

    def write_counts(self) -> None:
        """Write the counts, if they changed."""
        if (self.counts, self.predecessors) != self._stored:
            values = (*astuple(self.counts), "/".join(self.predecessors))
            self._run(f"UPDATE counts SET {' = ?, '.join(_NAMES)} = ?, predecessor = ?", values)

    def put(self, transaction_id: str, space: str, body: bytes, max_size: int, trace: str | None = None) -> None:
        """Keep an event that waits. The same event again is kept once, another one under its id is refused."""
        row = (transaction_id, space, int(_wall_time() * 1000), None, trace, crc32(body), body)
        fits = self.counts.size + len(body) <= max_size
        if (fits and self.has_room and self._insert(row)) or (known := self._known(transaction_id)) == body:
            return
        if known is not None:
            raise errors.conflict()
        raise errors.disk_full() if fits else errors.outbox_full()

    def take(
        self, spaces: Sequence[str], sizes: Sequence[int], max_bytes: int, seconds: float, is_dead: IsDead
    ) -> Lease:
        """Lease events, see ``Store.take``; ``is_dead`` says whether somebody who leased some has died."""
        now = boot_time()
        held = (now, now + LONGEST_LEASE)
        paused = f"SELECT max(paused_until) FROM spaces WHERE space IN ({_marks(spaces)})"
        (until,) = self._one(f"{paused} AND paused_until BETWEEN ? AND ?", *spaces, *held)
        if until:
            return Lease(wait=until - now, waiting=self.counts.pending)
        found = self._free(spaces, sizes[0], held) or (self._bury(is_dead) and self._free(spaces, sizes[0], held))
        if not found:
            return self._nothing(spaces, now)
        most, chosen = 0, list[StoredEvent]()
        for row, transaction_id, checksum, body, failures, trace_context in found:
            limit = sizes[max(0, min(failures, len(sizes) - 1))]
            if limit == (most := most or limit):  # what failed before travels with its like
                max_bytes -= len(body)
                if chosen and (max_bytes < 0 or len(chosen) == most):
                    break
                chosen.append(StoredEvent(row, transaction_id, body, failures, checksum != crc32(body), trace_context))
        token, end = secrets.randbits(62), now + min(seconds, LONGEST_LEASE)
        self._run(  # one statement for all: each step of one lets other threads go first
            f"INSERT INTO leases SELECT id, ?, ?, ?, 0 FROM events WHERE id IN ({_marks(chosen)}) ON CONFLICT(id) DO "
            "UPDATE SET token = excluded.token, holder = excluded.holder, until = excluded.until",
            (token, self._user, end, *(event.row for event in chosen)),
        )
        return Lease(token, chosen)

    def take_any(self, most: int, seconds: float, is_dead: IsDead) -> tuple[Lease, dict[int, str]]:
        """Lease events of all Spaces, for another store; return the lease, and the Space of each row."""
        spaces = [str(space) for (space,) in self._run("SELECT DISTINCT space FROM events WHERE space <> ''")]
        lease = self.take(spaces or [KEY_PREFIX], (most,), MOVED_BYTES, seconds, is_dead)
        rows = [event.row for event in lease.events]
        found = self._run(f"SELECT id, space FROM events WHERE id IN ({_marks(rows)})", rows)
        return lease, {row: str(space) for row, space in found}

    def settle(self, lease: Lease, settlement: Settlement) -> None:
        """Note the outcome of leased events, see ``Store.settle``."""
        ours = {row for (row,) in self._run("SELECT id FROM leases WHERE token = ?", (lease.token,))}
        now = boot_time()
        delivered = [event for event in settlement.delivered if event.row in ours]
        dead = [(reason, event.row) for event, reason in settlement.dead if event.row in ours]
        token = -int(now * 1e6) if settlement.stands_back else lease.token  # below 0: since when it stands back
        later = [(token, now + min(s, LONGEST_LEASE), n, e.row) for e, n, s in settlement.later if e.row in ours]
        gone, buried = [event.row for event in delivered], [row for _, row in dead]
        self._run(f"DELETE FROM events WHERE id IN ({_marks(gone)})", gone)
        self._run_many("UPDATE events SET reason = ? WHERE id = ?", dead)
        self._run(f"DELETE FROM leases WHERE id IN ({_marks([*gone, *buried])})", [*gone, *buried])
        self._run_many("UPDATE leases SET holder = NULL, token = ?, until = ?, failures = ? WHERE id = ?", later)
        due = [(event.row, event.failures) for event in settlement.due]
        self._run_many("UPDATE leases SET until = 0 WHERE id = ? AND failures = ? AND holder IS NULL", due)
        if settlement.accepted:
            bound = [(settlement.space, row, UNBOUND) for *_, row in (*dead, *later)]
            self._run_many("UPDATE events SET space = ? WHERE id = ? AND space = ?", bound)
        self.counts.delivered += len(delivered)
        self.counts.pending -= len(delivered) + len(dead)
        self.counts.dead += len(dead)
        self.counts.size -= sum(len(event.body) for event in delivered)
        self._note(settlement, now, len(delivered))

    def waiting(self, after: int, limit: int) -> list[WaitingEvent]:
        """Return events that wait from behind a row on."""
        select = "SELECT transaction_id, body, space, put_at, coalesce(failures, 0), e.id"
        script = f"{select} FROM events e LEFT JOIN leases l ON l.id = e.id WHERE reason IS NULL AND e.id > ?"
        found = self._run(f"{script} ORDER BY e.id LIMIT ?", (after, limit))
        rows = cast("Iterable[tuple[str, bytes, str, int, int, int]]", found)
        return [
            WaitingEvent(transaction_id, body, space, datetime.fromtimestamp(put_at / 1000, UTC), failures, row)
            for transaction_id, body, space, put_at, failures, row in rows
        ]

    def dead(self, after: int, limit: int) -> list[DeadLetter]:
        """Return dead letters from behind a row on."""
        select = "SELECT transaction_id, body, reason, id FROM events WHERE reason IS NOT NULL AND id > ?"
        rows = self._run(f"{select} ORDER BY id LIMIT ?", (after, limit))
        return [DeadLetter(*cast("tuple[str, bytes, str, int]", row)) for row in rows]

    def requeue(self, transaction_id: str | None, limit: int) -> int:
        """Let one dead letter wait again, or so many of them, and return how many did."""
        which = "transaction_id = ? AND reason IS NOT NULL"
        if transaction_id is None:
            which = "id IN (SELECT id FROM events WHERE reason IS NOT NULL ORDER BY id LIMIT ?)"
        moved = self._run(f"UPDATE events SET reason = NULL WHERE {which}", (transaction_id or limit,)).rowcount
        self.counts.pending += moved
        self.counts.dead -= moved
        return moved

    def rebind(self, space: str, former: str | None, limit: int) -> int:
        """Let so many events that wait, and all dead letters, of a former Space or of any key be of this one."""
        which, given = "space = ?", former
        if former is None:
            which, given = f"(space = '' OR space GLOB '{KEY_PREFIX}*') AND space <> ?", space
        self._run(f"UPDATE events SET space = ? WHERE reason IS NOT NULL AND {which}", (space, given))
        some = f"SELECT id FROM events WHERE reason IS NULL AND {which} LIMIT ?"
        return self._run(f"UPDATE events SET space = ? WHERE id IN ({some})", (space, given, limit)).rowcount

    def spaces(self) -> StatsOfSpaces:
        """Tell how each Space stands."""
        now = boot_time()
        waiting = dict(self._run("SELECT space, count(*) FROM events WHERE reason IS NULL GROUP BY space"))
        oldest = "SELECT put_at FROM events WHERE reason IS NULL AND space = ? ORDER BY id LIMIT 1"
        put_at = {space: self._one(oldest, space)[0] for space in waiting}
        recent = "SELECT space, sum(events) FROM deliveries WHERE second BETWEEN ? AND ? GROUP BY space"
        delivered = dict(self._run(recent, (now - MINUTE, now)))
        noted = [SpaceRow(*row) for row in self._run("SELECT * FROM spaces")]
        return to_stats(noted, waiting, put_at, delivered, now, _wall_time(), LONGEST_LEASE)

    def release(self, users: Sequence[str] | None) -> None:
        """End the leases of these; None for all leases and all that is put off."""
        which = "" if users is None else f"WHERE holder IN ({_marks(users)})"
        self._run(f"UPDATE leases SET holder = NULL, until = 0 {which}", tuple(users or ()))

    def succeed(self, record: Record) -> None:
        """Take the place of a database whose files are gone: all that waited in it is missing, until it is found."""
        self.counts = record.counts.of_successor()
        self.predecessors = [record.name, *record.predecessors][:8]  # so many names fit in the lock's file

    def absorb(self, other: "Tables", most: int = 1 << 62, *, in_use: bool = False) -> int:
        """Take over what another database holds; at most so many of its events were missing. The rest was delivered."""
        counts, last, found, kept = self.counts, 0, 0, self.counts.pending + self.counts.dead
        select = "SELECT id, transaction_id, space, put_at, reason, trace_context, checksum, body FROM events"
        try:
            for last, *row in other.connection.execute(f"{select} ORDER BY id"):  # noqa: B007 - where it broke off
                found += self._take_over(row)
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # read on from the other end, up to the damage
            with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                for _, *row in other.connection.execute(f"{select} WHERE id > ? ORDER BY id DESC", (last,)):
                    found += self._take_over(row)
        unread = max(0, other.counts.pending + other.counts.dead - found)
        self.predecessors, first = mark_read(self.predecessors, other.name, counts.delivered)
        if first is not None:  # its counts are in these
            since = 0 if in_use else counts.delivered - first
            counts.find_again(counts.pending + counts.dead - kept, most - unread, since)
        else:
            counts.delivered += other.counts.delivered
            counts.missing += other.counts.missing + unread
        return found

    def count_rows(self) -> None:
        """Let the counts say what the tables hold; what does not is missing."""
        counts = self.counts
        (pending,) = self._one("SELECT count(*) FROM events WHERE reason IS NULL")
        (dead,) = self._one("SELECT count(*) FROM events WHERE reason IS NOT NULL")
        if (pending, dead) != (counts.pending, counts.dead):
            counts.missing += max(0, counts.pending + counts.dead - pending - dead)
            counts.pending, counts.dead = pending, dead
            (counts.size,) = self._one("SELECT coalesce(sum(length(body)), 0) FROM events")

    def _insert(self, row: Sequence[object]) -> bool:
        columns = "transaction_id, space, put_at, reason, trace_context, checksum, body"
        insert = f"INSERT INTO events({columns}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        if self._run(insert, row).rowcount == 0:
            return False
        self.counts.pending += row[3] is None
        self.counts.dead += row[3] is not None
        self.counts.size += len(cast("bytes", row[-1]))
        return True

    def _known(self, transaction_id: object) -> bytes | None:
        row = self._run("SELECT body FROM events WHERE transaction_id = ?", (transaction_id,)).fetchone()
        return None if row is None else cast("bytes", row[0])

    def _take_over(self, row: Sequence[object]) -> bool:
        *_, checksum, body = row
        is_sound = isinstance(body, bytes) and crc32(body) == checksum
        return is_sound and (self._insert(row) or self._known(row[0]) == body)

    def _free(self, spaces: Sequence[str], most: int, held: tuple[float, float]) -> list[_Free]:
        free = f"{_WAITING} AND (l.id IS NULL OR l.until NOT BETWEEN ? AND ?) ORDER BY e.id LIMIT ?"
        sql = f"SELECT e.id, transaction_id, checksum, CAST(body AS BLOB), ifnull(failures, 0)|0, trace_context {free}"
        rows = [row for space in (UNBOUND, *spaces) for row in self._run(sql, (space, *held, most))]
        return sorted(rows, key=itemgetter(0))

    def _bury(self, is_dead: IsDead) -> bool:
        """End the leases of those who died; tell whether there were any."""
        holders = self._run("SELECT DISTINCT holder FROM leases WHERE holder IS NOT NULL").fetchall()
        dead = [holder for (holder,) in holders if is_dead(holder)]
        self.release(dead)
        return bool(dead)

    def _nothing(self, spaces: Sequence[str], now: float) -> Lease:
        waiting, wait, back = 0, LONGEST_LEASE, None
        longest = f"SELECT e.id, transaction_id, x'', failures {_WAITING} AND token < 0 ORDER BY token DESC LIMIT 1"
        for space in (UNBOUND, *spaces):
            number, until, out = self._one(f"SELECT count(*), min(l.until), count(l.holder) {_WAITING}", space)
            if number:
                waiting, wait = waiting + number, min(wait, until - now, _LOOK_AT_THE_DEAD if out else wait)
                back = next((StoredEvent(*row) for row in self._run(longest, (space,))), back)
        others = f"SELECT 1 FROM events WHERE reason IS NULL AND space NOT IN ('', {_marks(spaces)})"
        (has_others,) = self._one(f"SELECT EXISTS ({others})", *spaces)
        return Lease(wait=wait if waiting else None, waiting=waiting, others_wait=bool(has_others), stands_back=back)

    def _note(self, settlement: Settlement, now: float, delivered: int) -> None:
        """Note for the statistics when events of the Space passed, and why they do not."""
        space, wall = settlement.space, int(_wall_time() * 1000)
        retry_at = None if settlement.error is None else now + min(settlement.retry_in, LONGEST_LEASE)
        passes = settlement.accepted and settlement.error is None
        noted = (space, wall if delivered else None, settlement.error, wall if settlement.error else None)
        self._run(
            "INSERT INTO spaces VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(space) DO UPDATE SET "
            "delivered_at = coalesce(excluded.delivered_at, delivered_at), error = coalesce(excluded.error, error), "
            "error_at = coalesce(excluded.error_at, error_at), paused_until = max(excluded.paused_until, paused_until),"
            "retry_at = CASE WHEN ? THEN NULL ELSE coalesce(excluded.retry_at, retry_at) END",
            (*noted, settlement.pause and now + settlement.pause, retry_at, passes),
        )
        upsert = "INSERT INTO deliveries VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET events = events + excluded.events"
        self._run(upsert, (space, int(now), delivered))
        self._run("DELETE FROM deliveries WHERE space = ? AND second NOT BETWEEN ? AND ?", (space, now - MINUTE, now))

    def _one(self, query: str, *parameters: object) -> tuple[int, ...]:
        return cast("tuple[int, ...]", self._run(query, parameters).fetchone())


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
