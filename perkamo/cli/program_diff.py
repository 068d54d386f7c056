"""``perkamo program diff OLD NEW EVENTS``: who gains and who loses, before a rule goes live.

The events are applied to two programs side by side. The customers and the transaction ids are kept in a temporary file,
so that the memory has a limit, whatever their number.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from hashlib import blake2b
from heapq import nlargest
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Final, cast

from attrs import define, field, frozen

from perkamo.cli.layout import table
from perkamo.cli.text import agree, number
from perkamo.cli.text import count as counted
from perkamo.encoding.ids import transaction_id_of_line
from perkamo.sandbox.checks import CheckError, EventInput, read_event
from perkamo.sandbox.messages import Json, JsonObject
from perkamo.sandbox.program import Program, as_number
from perkamo.sandbox.recording import MAX_LINE

BATCH: Final = 5000
LARGEST: Final = 10
MAX_LISTED: Final = 1000
"""How many customers that change level the JSON document names."""
MAX_REFUSED: Final = 5

_SCHEMA: Final = """\
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE seen(id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE customers(user_id TEXT PRIMARY KEY, wallets TEXT NOT NULL) WITHOUT ROWID"""

_Sums = dict[str, float]


@define
class _Pair:
    """The same figure under the old and under the new program."""

    old: float = 0.0
    new: float = 0.0

    @property
    def difference(self) -> float:
        return self.new - self.old

    def add(self, old: float, new: float) -> None:
        self.old += old
        self.new += new

    def json(self) -> JsonObject:
        return {"old": _rounded(self.old), "new": _rounded(self.new), "difference": _rounded(self.difference)}


@frozen
class _Customer:
    user_id: str
    wallets: Mapping[str, _Pair]
    level: tuple[int | None, int | None]


@define
class Comparison:
    """The results of two programs for the same events.

    Attributes:
        old: The program as it is.
        new: The program as it would be.
        events: How many events counted.
        duplicates: How many did not, because their transaction id had counted.
        customers: How many customers they are of.
        refused: How many lines do not contain a readable event.
        reasons: The reasons of the first of these, with line numbers.
        by_event: What each event earns, by wallet; for events with a rule in either program.
        counts: How many there are of each of these.
        without_rule: How many events no rule names.
        gaining: How many customers gain, by wallet.
        losing: How many lose, by wallet.
        moves: How many customers go from one level to another.
        moved: Some of these customers, with both levels.
        largest: The largest differences, with customer and wallet.
    """

    old: Program
    new: Program
    events: int = 0
    duplicates: int = 0
    customers: int = 0
    refused: int = 0
    reasons: list[str] = field(factory=list[str])
    by_event: dict[tuple[str, str], _Pair] = field(factory=dict[tuple[str, str], _Pair])
    counts: Counter[str] = field(factory=Counter[str])
    without_rule: int = 0
    gaining: Counter[str] = field(factory=Counter[str])
    losing: Counter[str] = field(factory=Counter[str])
    moves: "Counter[tuple[int | None, int | None]]" = field(factory=Counter[tuple[int | None, int | None]])
    moved: list[_Customer] = field(factory=list[_Customer])
    largest: list[tuple[_Customer, str]] = field(factory=list[tuple[_Customer, str]])

    @property
    def by_wallet(self) -> dict[str, _Pair]:
        """The sums by wallet."""
        sums: dict[str, _Pair] = {}
        for (_, wallet), pair in self.by_event.items():
            sums.setdefault(wallet, _Pair()).add(pair.old, pair.new)
        return sums

    def json(self) -> JsonObject:
        """Return it as one JSON document."""
        events: list[Json] = [
            {"event": event, "wallet": wallet, "events": self.counts[event], **pair.json()}
            for (event, wallet), pair in self.by_event.items()
            if event in self.counts
        ]
        wallets: list[Json] = [
            {"wallet": wallet, "gaining": self.gaining[wallet], "losing": self.losing[wallet], **pair.json()}
            for wallet, pair in self.by_wallet.items()
        ]
        moves: list[Json] = [{"old": old, "new": new, "customers": count} for (old, new), count in self.moves.items()]
        moved: list[Json] = [{"user_id": one.user_id, "old": one.level[0], "new": one.level[1]} for one in self.moved]
        largest: list[Json] = [
            {"user_id": one.user_id, "wallet": wallet, **one.wallets[wallet].json()} for one, wallet in self.largest
        ]
        return {
            "events": self.events,
            "duplicates": self.duplicates,
            "customers": self.customers,
            "refused": self.refused,
            "without_rule": self.without_rule,
            "by_wallet": wallets,
            "by_event": events,
            "level_changes": moves,
            "customers_that_change_level": moved,
            "largest": largest,
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person reads."""
        of_whom = f"{counted(self.events, 'events')} of {counted(self.customers, 'customers')}"
        yield f"{of_whom}, {counted(self.duplicates, 'duplicates')} left out"
        yield ""
        yield from table(
            ("WALLET", "OLD", "NEW", "DIFFERENCE", "GAIN", "LOSE"),
            [
                (wallet, *_cells(pair), f"{self.gaining[wallet]:,}", f"{self.losing[wallet]:,}")
                for wallet, pair in self.by_wallet.items()
            ],
        )
        yield ""
        yield from table(
            ("EVENT", "EVENTS", "WALLET", "OLD", "NEW", "DIFFERENCE"),
            [
                (event, f"{self.counts[event]:,}", wallet, *_cells(pair))
                for (event, wallet), pair in self.by_event.items()
                if event in self.counts
            ],
        )
        if self.without_rule:
            has = agree(self.without_rule, "has", "have")
            yield f"{counted(self.without_rule, 'events')} {has} no rule in either program."
        yield ""
        moved = self.moves.total()
        yield f"{counted(moved, 'customers')} {agree(moved, 'changes', 'change')} level."
        if self.moves:
            rows = [(f"{_level(old)} -> {_level(new)}", f"{count:,}") for (old, new), count in self.moves.most_common()]
            yield from table(("LEVEL", "CUSTOMERS"), rows)
        if self.largest:
            yield ""
            yield "The largest differences:"
            yield from table(
                ("CUSTOMER", "WALLET", "OLD", "NEW", "DIFFERENCE", "LEVEL"),
                [
                    (one.user_id, wallet, *_cells(one.wallets[wallet]), _levels(one.level))
                    for one, wallet in self.largest
                ],
            )


def compare(old: Program, new: Program, lines: Iterable[str]) -> Comparison:
    """Apply events to two programs, in bounded memory.

    Args:
        old: The program as it is.
        new: The program as it would be.
        lines: Events as ``import`` takes them, or a recording of ``perkamo sandbox --record``; one JSON object a line.
    """
    found = Comparison(old, new)
    for program in (old, new):
        for rule in program.rules:
            found.by_event.setdefault((rule.event, rule.wallet), _Pair())
    with (
        TemporaryDirectory(prefix="perkamo-diff-") as directory,
        closing(sqlite3.connect(f"{directory}/customers.db", isolation_level=None)) as database,
    ):
        database.executescript(_SCHEMA)
        database.execute("BEGIN")
        events = _events(lines, found)
        while batch := list(islice(events, BATCH)):
            _apply(batch, found, database)
        _finish(found, database)
    return found


def _events(lines: Iterable[str], found: Comparison) -> Iterator[EventInput]:
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE:
                raise CheckError("is too long")
            items = _items(cast("Json", json.loads(line)), line)
            yield from [read_event(item) for item in items]
        except (ValueError, RecursionError) as error:
            found.refused += 1
            if len(found.reasons) < MAX_REFUSED:
                reason = "is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
                found.reasons.append(f"line {count}: {reason}")


def _items(value: Json, line: str) -> list[Json]:
    """Return the events of a line: itself, or those of a recorded request that the service had taken."""
    if not isinstance(value, dict):
        return [value]
    if "method" not in value:
        if value.get("transaction_id") is None:
            value["transaction_id"] = transaction_id_of_line(line.encode().strip())
        return [value]
    status, path, body = value.get("status"), value.get("path"), value.get("body")
    taken = isinstance(status, int) and 200 <= status < 300
    if not (taken and isinstance(path, str) and isinstance(body, str)):
        return []
    if path.endswith("/v1/events"):
        return [cast("Json", json.loads(body))]
    if path.endswith("/v1/events:batch"):
        batch = cast("Json", json.loads(body))
        events = batch.get("events") if isinstance(batch, dict) else None
        return [item for item in events if isinstance(item, dict)] if isinstance(events, list) else []
    return []


def _apply(batch: list[EventInput], found: Comparison, database: sqlite3.Connection) -> None:
    """Apply some events, with the wallets of their customers read before and written after."""
    fresh = [event for event in batch if _is_new(event.transaction_id, database)]
    found.duplicates += len(batch) - len(fresh)
    found.events += len(fresh)
    named = {event for event, _ in found.by_event}
    wallets = {event.user_id: _read(event.user_id, database) for event in fresh}
    earned: defaultdict[tuple[str, str], _Pair] = defaultdict(_Pair)  # small sums first, which lose less
    for event in fresh:
        old, new = found.old.earn(event.event, event.context)[0], found.new.earn(event.event, event.context)[0]
        if event.event in named:
            found.counts[event.event] += 1
        else:
            found.without_rule += 1
        for wallet in {**old, **new}:
            before, after = old.get(wallet, 0.0), new.get(wallet, 0.0)
            earned[event.event, wallet].add(before, after)
            wallets[event.user_id].setdefault(wallet, _Pair()).add(before, after)
    for key, pair in earned.items():
        found.by_event[key].add(pair.old, pair.new)
    database.executemany(
        "INSERT OR REPLACE INTO customers VALUES (?, ?)",
        [
            (user_id, json.dumps({wallet: [pair.old, pair.new] for wallet, pair in pairs.items()}))
            for user_id, pairs in wallets.items()
        ],
    )


def _is_new(transaction_id: str, database: sqlite3.Connection) -> bool:
    digest = blake2b(transaction_id.encode(), digest_size=16).digest()
    return database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1


def _read(user_id: str, database: sqlite3.Connection) -> dict[str, _Pair]:
    row: tuple[str] | None = database.execute("SELECT wallets FROM customers WHERE user_id = ?", (user_id,)).fetchone()
    return {} if row is None else _pairs(row[0])


def _pairs(text: str) -> dict[str, _Pair]:
    stored: dict[str, tuple[float, float]] = json.loads(text)
    return {wallet: _Pair(old, new) for wallet, (old, new) in stored.items()}


def _finish(found: Comparison, database: sqlite3.Connection) -> None:
    """Read each customer's final state once."""
    found.largest = nlargest(
        LARGEST, _differences(found, database), key=lambda row: abs(row[0].wallets[row[1]].difference)
    )


def _differences(found: Comparison, database: sqlite3.Connection) -> Iterator[tuple[_Customer, str]]:
    rows: Iterator[tuple[str, str]] = database.execute("SELECT user_id, wallets FROM customers")
    for user_id, text in rows:
        found.customers += 1
        wallets = _pairs(text)
        level = (
            found.old.level_number({wallet: pair.old for wallet, pair in wallets.items()}),
            found.new.level_number({wallet: pair.new for wallet, pair in wallets.items()}),
        )
        customer = _Customer(user_id, wallets, level)
        if level[0] != level[1]:
            found.moves[level] += 1
            if len(found.moved) < MAX_LISTED:
                found.moved.append(customer)
        for wallet, pair in wallets.items():
            if _rounded(pair.difference):
                (found.gaining if pair.difference > 0 else found.losing)[wallet] += 1
                yield customer, wallet


def _rounded(value: float) -> int | float:
    """Return a sum without rounding errors of fractions."""
    return as_number(round(value, 6))


def _cells(pair: _Pair) -> tuple[str, str, str]:
    difference = number(_rounded(pair.difference))
    return (
        number(_rounded(pair.old)),
        number(_rounded(pair.new)),
        difference if pair.difference <= 0 else f"+{difference}",
    )


def _levels(level: tuple[int | None, int | None]) -> str:
    return _level(level[0]) if level[0] == level[1] else f"{_level(level[0])} -> {_level(level[1])}"


def _level(level: int | None) -> str:
    return "none" if level is None else str(level)
