"""Puts events in a transaction of the application's: what is asked of its database, whichever driver asks.

Of two that put the same id at once, the second waits for the first's transaction, and then compares. What it would
compare with may be gone by then, because a relay delivered it, or the first was rolled back: then it inserts again.
"""

import re
from collections.abc import Generator, Sequence
from functools import partial
from typing import Final, TypeAlias

from attrs import field, frozen

from perkamo.events import Event
from perkamo.hooks import Hooks
from perkamo.outbox.errors import conflict
from perkamo.postgres import Rows, fill

_INSTALLED: Final = Hooks()
_NUMBERED: Final = re.compile(r"\$(\d)")
_INSERT: Final = """\
INSERT INTO {schema}.events (space, transaction_id, customer, body, trace_context)
SELECT $1::text, $2::text, $3::text, $4::bytea, $5::text
WHERE NOT EXISTS (SELECT FROM {schema}.dead_letters WHERE transaction_id = $2::text)
ON CONFLICT (transaction_id) DO NOTHING"""
_INSERT_MANY: Final = """\
WITH given AS MATERIALIZED (
  SELECT nextval('{sequence}') AS id, transaction_id, customer, body FROM (
    SELECT * FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY
      AS one(transaction_id, customer, body, number)
    ORDER BY number OFFSET 0
  ) AS ordered
)
INSERT INTO {schema}.events (space, id, transaction_id, customer, body, trace_context)
SELECT $1::text, id, transaction_id, customer, body, $5::text FROM given
WHERE NOT EXISTS (SELECT FROM {schema}.dead_letters AS d WHERE d.transaction_id = given.transaction_id)
ORDER BY transaction_id COLLATE "C"
ON CONFLICT (transaction_id) DO NOTHING"""
"""They get their numbers in the order in which they were given, and are inserted in the order of their transaction ids,
so that two transactions with the same ones wait for each other in one direction only."""
_COMPARE: Final = """\
SELECT given.transaction_id, kept.body = given.body
FROM unnest($1::text[], $2::bytea[]) AS given(transaction_id, body) JOIN (
  SELECT transaction_id, body FROM {schema}.events UNION ALL SELECT transaction_id, body FROM {schema}.dead_letters
) AS kept ON kept.transaction_id = given.transaction_id COLLATE "C\""""


@frozen(repr=False)
class Query:
    """What a driver is to ask; it holds personal data, and shows none.

    Attributes:
        statement: The statement.
        parameters: Its parameters, in the order of their numbers.
        returns_rows: Whether its rows are wanted; if not, the number of rows that it inserted is.
    """

    statement: "Statement"
    parameters: tuple[object, ...]
    returns_rows: bool = False


@frozen
class Answer:
    """What a driver got: how many rows were inserted, or the rows that were asked for."""

    inserted: int = 0
    rows: Rows = field(factory=list)


Steps: TypeAlias = Generator[Query, Answer, None]
"""Yields what to ask, one after the other, and is sent each answer."""


class Statement:
    """A statement in the two ways in which drivers write parameters."""

    def __init__(self, text: str, quoted_schema: str) -> None:
        names = {"schema": quoted_schema, "sequence": f"{quoted_schema}.events_id_seq".replace("'", "''")}
        self.numbered: str = fill(text, names)
        """With ``$1``, as the database itself writes them."""
        escaped = {name: value.replace("%", "%%") for name, value in names.items()}
        self.named: str = fill(_NUMBERED.sub(r"%(p\1)s", text), escaped)
        """With ``%(p1)s``, for values in a dict."""
        self.named_bytes: bytes = self.named.encode()
        """The same, as psycopg takes it."""


@frozen(repr=False)
class Row:
    """An event as it is put."""

    transaction_id: str
    customer: str
    body: bytes


class Putting:
    """How events are put into one schema's tables."""

    def __init__(self, quoted_schema: str) -> None:
        make = partial(Statement, quoted_schema=quoted_schema)
        self._insert, self._insert_many, self._compare = make(_INSERT), make(_INSERT_MANY), make(_COMPARE)

    def steps(self, space: str, events: Sequence[Event]) -> Steps:
        """Put events, all with transaction ids, unless they are there already.

        Raises:
            PerkamoOutboxConflictError: Another event is there, or is given, under one of the transaction ids.
        """
        waiting, context = _rows(events), _INSTALLED.trace_context()
        while waiting:
            answer = yield self._insertion(space, list(waiting.values()), context)
            if answer.inserted == len(waiting):
                return
            ids, _, bodies = _columns(list(waiting.values()))
            known = yield Query(self._compare, (ids, bodies), returns_rows=True)
            if not all(is_equal for _, is_equal in known.rows):
                raise conflict()
            for transaction_id, _ in known.rows:
                waiting.pop(str(transaction_id), None)

    def _insertion(self, space: str, rows: Sequence[Row], context: str | None) -> Query:
        if len(rows) > 1:
            return Query(self._insert_many, (space, *_columns(rows), context))
        [row] = rows
        return Query(self._insert, (space, row.transaction_id, row.customer, row.body, context))


def _rows(events: Sequence[Event]) -> dict[str, Row]:
    """Return the rows by their transaction ids; an event that was given twice is one."""
    rows: dict[str, Row] = {}
    for event in events:
        row = Row(str(event.transaction_id), event.user_id, event.to_bytes())
        if rows.setdefault(row.transaction_id, row) != row:
            raise conflict()
    return rows


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[str], list[bytes]]:
    return [row.transaction_id for row in rows], [row.customer for row in rows], [row.body for row in rows]
