"""Puts and bare inserts of the same values by each driver, a list of events to a transaction."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg
import psycopg
import sqlalchemy

from perkamo import Event, PostgresOutbox

Way: TypeAlias = Callable[[Sequence[Event]], None]
"""Puts or inserts events one by one, and commits."""

SPACE: Final = "shop"
_BARE: Final = "INSERT INTO bare (space, transaction_id, customer, body) VALUES "


def _values(event: Event) -> tuple[object, ...]:
    return SPACE, event.transaction_id, event.user_id, event.to_bytes()


@contextmanager
def by_psycopg(dsn: str) -> Iterator[Mapping[str, Way]]:
    """Put and insert by psycopg."""
    outbox = PostgresOutbox(space=SPACE)
    with psycopg.connect(dsn) as connection:

        def put(events: Sequence[Event]) -> None:
            for event in events:
                outbox.put(connection, event)
            connection.commit()

        def bare(events: Sequence[Event]) -> None:
            for event in events:
                connection.execute(f"{_BARE} (%s, %s, %s, %s)", _values(event))
            connection.commit()

        yield {"put": put, "bare": bare}


@contextmanager
def by_sqlalchemy(directory: Path) -> Iterator[Mapping[str, Way]]:
    """Put and insert by SQLAlchemy over psycopg, the latter by a statement that it has compiled."""
    outbox = PostgresOutbox(space=SPACE)
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@/postgres?host={directory}")
    insert = sqlalchemy.text(f"{_BARE} (:space, :transaction_id, :customer, :body)")
    names = ("space", "transaction_id", "customer", "body")

    def put(events: Sequence[Event]) -> None:
        with engine.begin() as connection:
            for event in events:
                outbox.put(connection, event)

    def bare(events: Sequence[Event]) -> None:
        with engine.begin() as connection:
            for event in events:
                connection.execute(insert, dict(zip(names, _values(event), strict=True)))

    yield {"put": put, "bare": bare}
    engine.dispose()


@contextmanager
def by_asyncpg(directory: Path) -> Iterator[Mapping[str, Way]]:
    """Put and insert by asyncpg."""
    outbox = PostgresOutbox(space=SPACE)
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(host=str(directory), user="postgres", database="postgres"))

        async def put(events: Sequence[Event]) -> None:
            async with connection.transaction():
                for event in events:
                    await outbox.aput(connection, event)

        async def bare(events: Sequence[Event]) -> None:
            async with connection.transaction():
                for event in events:
                    await connection.execute(f"{_BARE} ($1, $2, $3, $4)", *_values(event))

        yield {"put": lambda events: runner.run(put(events)), "bare": lambda events: runner.run(bare(events))}
        runner.run(connection.close())
