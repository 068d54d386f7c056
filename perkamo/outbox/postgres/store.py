"""A store in the application's own database, for relays on any number of machines.

Nothing is held while a request is on its way: a claim is a short transaction, and what it leased is a token and a time
in the row. Events are found by polling, a little irregularly, so that relays that began together do not stay in step.
"""

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar, cast

import anyio
from anyio.to_thread import run_sync
from attrs import evolve

from perkamo.errors import PerkamoConfigurationError
from perkamo.events import Event
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.postgres import statements
from perkamo.outbox.postgres.schema import CUSTOMER_INDEX, RIGHTS, STATE, lacking, missing, refuse, tables_of
from perkamo.outbox.store import (
    UNBOUND,
    UNCOUNTED,
    DeadLetter,
    Lease,
    OutboxStats,
    Settlement,
    SpaceStats,
    StoredEvent,
    WaitingEvent,
)
from perkamo.postgres import Database, DatabaseFailure, Rows, quoted_schema
from perkamo.runtime.clock import Clock
from perkamo.runtime.event_loop import Wakeup

T = TypeVar("T")
Order: TypeAlias = Literal["customer"] | None

_POLL_SECONDS: Final = (0.12, 0.17)
"""The shortest and the longest time between two looks for fresh events."""
_SWEEP_SECONDS: Final = 1.0
"""How often all that waits is looked at while there is more than enough behind what was claimed last."""
_SWEEP_SHARE: Final = 10
"""A sweep that takes long, as with a million dead rows, is made less often: every this many times its own duration."""
_LONGEST_PAUSE: Final = 5.0
"""For how many seconds of a pause the database is not asked again whether it lasts."""
_COUNT_SECONDS: Final = 1.0
"""For how long an empty table is not counted again, nor anything claimed, unless a cheap look finds something."""
_SUM_UP_SECONDS: Final = 30.0
_AT_ONCE: Final = 5_000
_HEADS: Final = 4
"""How many customers are looked at for each event that may be taken: some of their events are on their way."""


class PostgresStore:
    """See ``Store``."""

    def __init__(self, database: Database | None, schema: str, order_by: Order, clock: Clock) -> None:
        self._given = database
        self._schema = quoted_schema(schema)
        self._order_by: Order = order_by
        self._clock = clock
        self._is_checked = False
        self._lows: dict[str, int] = {}
        self._cursor = ""
        self._sweep_at = self._sweep_not_before = 0.0
        self._paused_until: dict[str, float] = {}
        self._empty_until: dict[str, float] = {}
        self._sum_up_at = 0.0

    async def take(self, spaces: Sequence[str], sizes: Sequence[int], max_bytes: int, seconds: float) -> Lease:
        """See ``Store.take``."""
        if (pause := self._paused_until.get(spaces[-1], 0.0) - self._clock.now()) > 0:
            return Lease(wait=pause, waiting=UNCOUNTED)
        return await self._do(partial(self._take, [UNBOUND, *spaces], sizes, max_bytes, seconds))

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """See ``Store.settle``."""
        await self._do(partial(self._settle, lease, settlement))

    async def add(self, space: str, events: Sequence[StoredEvent]) -> Sequence[str]:
        """Keep events of another store durably; those that are here already are kept once.

        Returns:
            The transaction ids under which other events are here, so that these were not taken.
        """
        left, others = list(events), list[str]()
        while left:
            parameters = {
                "space": space,
                "ids": [event.transaction_id for event in left],
                "customers": [Event.from_bytes(event.body).user_id for event in left],
                "bodies": [event.body for event in left],
                "contexts": [event.trace_context for event in left],
            }
            rows = (await self._do(partial(self._run, statements.ADD, parameters)))[-1]
            kept = {cast("str", transaction_id): is_equal for transaction_id, is_equal in rows}
            others += [transaction_id for transaction_id, is_equal in kept.items() if not is_equal]
            left = [event for event in left if event.transaction_id not in kept]
        return others

    async def count(self) -> OutboxStats:
        """See ``Store.count``."""
        [[row], spaces] = await self._do(partial(self._run, statements.STATS, {}))
        delivered, pending, dead, size = cast("tuple[int, int, int, int]", row)
        accepted = delivered + pending + dead
        stats = OutboxStats(accepted, delivered, pending, dead, missing=0, size=size, files=0, set_aside=0)
        return stats.with_spaces(_spaces(cast("Sequence[_SpaceRow]", spaces)))

    async def waiting(self, after: int, limit: int) -> Sequence[WaitingEvent]:
        """See ``Store.waiting``."""
        parameters = {"after": after, "limit": limit}
        [rows] = await self._do(partial(self._run, statements.WAITING_EVENTS, parameters))
        found = (WaitingEvent(*cast("tuple[str, bytes, str, datetime, int, int]", row)) for row in rows)
        return [evolve(event, put_at=event.put_at.astimezone(UTC)) for event in found]

    async def dead(self, after: int, limit: int) -> Sequence[DeadLetter]:
        """See ``Store.dead``."""
        parameters = {"after": after, "limit": limit}
        [rows] = await self._do(partial(self._run, statements.DEAD_LETTERS, parameters))
        return [DeadLetter(*cast("tuple[str, bytes, str, int]", row)) for row in rows]

    async def requeue(self, transaction_id: str | None) -> int:
        """See ``Store.requeue``."""
        total, parameters = 0, {"id": transaction_id, "limit": _AT_ONCE}
        while True:
            [[row]] = await self._do(partial(self._run, statements.REQUEUE, parameters))
            found, kept = cast("tuple[int, int]", row)
            total += kept
            if found < _AT_ONCE:
                return total

    async def rebind(self, space: str, former: str | None) -> int:
        """See ``Store.rebind``."""
        total, parameters = 0, {"space": space, "former": former, "limit": _AT_ONCE}
        script = statements.REBIND_ALL if former is None else statements.REBIND_ONE
        while True:
            [[row]] = await self._do(partial(self._run, script, parameters))
            [moved] = cast("tuple[int]", row)
            total += moved
            if moved < _AT_ONCE:
                return total

    async def missing(self) -> Sequence[str]:
        """Say what is missing in the database for this store, a sentence each."""
        return await self._do(self._check, checks=False)

    @contextmanager
    def watch(self) -> "Generator[Poll]":
        """See ``Store.watch``."""
        yield Poll(self._clock)

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        if self._given is not None:
            self._given.close()

    @property
    def database(self) -> Database:
        """The database.

        Raises:
            PerkamoConfigurationError: None was given.
        """
        if self._given is None:
            raise PerkamoConfigurationError(
                "This outbox was made without a DSN or a pool: it can only put. Nothing was done."
            )
        return self._given

    async def _do(self, action: Callable[[], T], *, checks: bool = True) -> T:
        """Do something in a thread, because psycopg's async connections support asyncio only."""

        def do() -> T:
            try:
                if checks and not self._is_checked:
                    refuse(self._missing())
                    self._is_checked = True
                return action()
            except DatabaseFailure as error:
                self._is_checked = self._is_checked and error.retryable
                failure = error
            raise PerkamoOutboxStorageError(
                f"The database of the outbox can't be used: {failure.reason}. What was committed is kept.",
                retryable=failure.retryable,
            )

        return await run_sync(do, limiter=anyio.CapacityLimiter(1))

    def _run(self, script: str, parameters: Mapping[str, object]) -> list[Rows]:
        return self.database.run(self._filled(script), parameters)

    def _filled(self, script: str) -> str:
        return script.replace("{schema}", self._schema.replace("%", "%%"))

    def _check(self) -> list[str]:
        [rights] = self._run(RIGHTS, tables_of(self._schema))
        return lacking(rights) or self._missing()

    def _missing(self) -> list[str]:
        names = {"table": f"{self._schema}.version", "index": f"{self._schema}.{CUSTOMER_INDEX}"}
        [state] = self._run(STATE, names)
        version = None
        if state[0][0]:
            [[row]] = self._run("SELECT max(version) FROM {schema}.version", {})
            version = cast("int | None", row[0])
        return missing(state, version, order_by_customer=self._order_by == "customer")

    def _take(self, spaces: Sequence[str], sizes: Sequence[int], max_bytes: int, seconds: float) -> Lease:
        spaces = spaces if self._order_by is None else spaces[-1:]
        if self._clock.now() < self._empty_until.get(spaces[-1], 0.0) and not self._has_any(spaces):
            return Lease(waiting=UNCOUNTED)
        token = secrets.randbits(62)
        parameters: dict[str, object] = {
            "spaces": spaces,
            "sizes": list(sizes),
            "last": len(sizes),
            "limit": sizes[0],
            "max_bytes": max_bytes,
            "token": token,
            "seconds": seconds,
        }
        if self._order_by is not None:
            rows = self._claim_heads(parameters, spaces[0], sizes[0])
            return _lease(token, rows) or self._nothing(spaces)
        began = self._clock.now()
        sweeps = began >= self._sweep_at
        rows = self._claim(parameters, spaces, sweeps=sweeps)
        lease = _lease(token, rows)
        if lease is None and sweeps:
            lease = self._nothing(spaces)
        if sweeps:
            ended = self._clock.now()
            self._sweep_not_before = ended + _SWEEP_SHARE * (ended - began)
            self._sweep_at = max(self._sweep_not_before, began + _SWEEP_SECONDS)
        if len(rows) < sizes[0]:
            self._sweep_at = self._sweep_not_before
        return lease or Lease(wait=max(0.0, self._sweep_at - began), waiting=UNCOUNTED)

    def _has_any(self, spaces: Sequence[str]) -> bool:
        """Return whether there may be something to claim again; a claim of nothing costs three times as much."""
        [[has_any]] = self.database.look(self._filled(statements.HAS_ANY), {"spaces": spaces})
        return bool(has_any)

    def _claim(self, parameters: Mapping[str, object], spaces: Sequence[str], *, sweeps: bool) -> Rows:
        """Claim the oldest events, or, without a sweep, the oldest from behind those that this relay claimed last."""
        lows = [-1 if sweeps else self._lows.get(space, -1) for space in spaces]
        rows = self._run(statements.CLAIM, {**parameters, "lows": lows})[-1]
        for space in spaces:
            ids = [cast("int", row[0]) for row in rows if row[4] == space]
            if ids:
                self._lows[space] = max(ids)
        return rows

    def _claim_heads(self, parameters: Mapping[str, object], space: str, most: int) -> Rows:
        """Claim the oldest event of each of the customers behind the cursor, which goes round once at most."""
        comes_round = not self._cursor
        while True:
            head_parameters = {"spaces": [space], "space": space, "cursor": self._cursor, "most": _HEADS * most}
            [heads] = self._run(statements.HEADS, head_parameters)
            free = [head for head in heads if head[2]][:most]
            if len(free) == most:
                self._cursor = cast("str", free[-1][0])
            else:
                self._cursor = cast("str", heads[-1][0]) if len(heads) == _HEADS * most else ""
            ids = [head[1] for head in free]
            rows = self._run(statements.CLAIM_HEADS, {**parameters, "space": space, "ids": ids})[-1] if ids else []
            if rows or (comes_round and not self._cursor):
                return rows
            comes_round = comes_round or not self._cursor

    def _nothing(self, spaces: Sequence[str]) -> Lease:
        """Return for how long there will be nothing to take; where nothing waits, that is counted now and then."""
        if self._clock.now() < self._empty_until.get(spaces[-1], 0.0):
            return Lease(waiting=UNCOUNTED)
        [[[pause]], [waiting], [others], back] = self._run(statements.WAITING, {"spaces": spaces})
        if isinstance(pause, float) and pause > 0:
            self._paused_until[spaces[-1]] = self._clock.now() + min(pause, _LONGEST_PAUSE)
            return Lease(wait=pause, waiting=UNCOUNTED)
        number, wait = cast("tuple[int, float | None]", waiting)
        self._empty_until[spaces[-1]] = 0.0 if number else self._clock.now() + _COUNT_SECONDS
        stands_back = StoredEvent(*cast("tuple[int, str, bytes, int]", back[0])) if back else None
        wait = wait if number else None
        return Lease(wait=wait, waiting=number, others_wait=bool(others[0]), stands_back=stands_back)

    def _settle(self, lease: Lease, settlement: Settlement) -> None:
        later, dead = settlement.later, settlement.dead
        script = [statements.SETTLE]
        script += [statements.DELIVERED] if settlement.delivered else []
        script += [statements.DEAD] if dead else []
        script += [statements.LATER] if later else []
        script += [statements.DUE] if settlement.due else []
        script += [statements.NOTE] if settlement.error is not None or settlement.pause else []
        if (now := self._clock.now()) >= self._sum_up_at:
            self._sum_up_at = now + _SUM_UP_SECONDS * (0.5 + self._clock.randomness())
            script.append(statements.SUM_UP)
        parameters: dict[str, object] = {
            "token": lease.token,
            "space": settlement.space,
            "accepted": settlement.accepted,
            "delivered": [event.transaction_id for event in settlement.delivered],
            "dead": [event.transaction_id for event, _ in dead],
            "reasons": [reason.replace("\0", " ") for _, reason in dead],
            "later": [event.transaction_id for event, _, _ in later],
            "failures": [failures for _, failures, _ in later],
            "waits": [seconds for _, _, seconds in later],
            "stands_back": settlement.stands_back,
            "due": [event.transaction_id for event in settlement.due],
            "due_failures": [event.failures for event in settlement.due],
            "error": settlement.error and settlement.error.replace("\0", " "),
            "pause": settlement.pause,
            "retry_in": settlement.retry_in,
        }
        self._run("; ".join(script), parameters)


def _lease(token: int, rows: Rows) -> Lease | None:
    if not rows:
        return None
    events = [
        StoredEvent(row, transaction_id, body, failures, trace_context=trace_context)
        for row, transaction_id, body, failures, _, trace_context in sorted(cast("Sequence[_EventRow]", rows))
    ]
    return Lease(token, events)


_EventRow: TypeAlias = tuple[int, str, bytes, int, str, str | None]
_SpaceRow: TypeAlias = tuple[
    str, int, float | None, datetime | None, int, str | None, datetime | None, bool | None, datetime | None
]


def _spaces(rows: Sequence[_SpaceRow]) -> list[SpaceStats]:
    """Return the state of each Space; nothing is paused where nothing waits."""
    waiting = {space: number for space, number, *_ in rows}
    found: list[SpaceStats] = []
    for space, number, age, last, recent, error, error_at, has_failed, until in rows:
        is_paused = bool(has_failed) and bool(number or waiting.get(UNBOUND))
        found.append(
            SpaceStats(
                space=space,
                pending=number,
                oldest_age=age if number else None,
                last_delivery=_in_utc(last),
                delivered_last_minute=recent,
                last_error=error,
                last_error_at=_in_utc(error_at),
                paused=error if is_paused else None,
                paused_until=_in_utc(until) if is_paused else None,
            )
        )
    return found


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


class Poll:
    """See ``Changes``: there may always be something new after a short while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wakeup = Wakeup(clock)

    async def wait(self, seconds: float) -> None:
        """See ``Changes.wait``."""
        shortest, longest = _POLL_SECONDS
        await self._wakeup.wait(min(seconds, shortest + (longest - shortest) * self._clock.randomness()))

    def notify(self) -> None:
        """See ``Changes.notify``."""
        self._wakeup.notify()
