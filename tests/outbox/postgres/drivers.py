"""The application's side of a transaction, by every driver that is taken, behind one face."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import sqlalchemy
from attrs import frozen
from django.db.backends.postgresql.base import DatabaseWrapper
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from perkamo import Event, PostgresOutbox


class App(Protocol):
    """An application with a connection."""

    @property
    def connection(self) -> Any:
        """What runs the transaction."""
        ...

    async def run(self, statement: str) -> None:
        """Run a statement in the transaction."""
        ...

    async def put(self, outbox: PostgresOutbox, *events: Event) -> Sequence[Event]:
        """Put one event by ``put``, or several by ``put_many``."""
        ...

    async def commit(self) -> None:
        """Commit."""
        ...

    async def rollback(self) -> None:
        """Roll back."""
        ...


@frozen
class SyncApp:
    """An application with a synchronous driver."""

    connection: Any
    execute: Callable[[str], object]
    end: Callable[[str], object]

    async def run(self, statement: str) -> None:
        """See ``App``."""
        self.execute(statement)

    async def put(self, outbox: PostgresOutbox, *events: Event) -> Sequence[Event]:
        """See ``App``."""
        if len(events) == 1:
            return [outbox.put(self.connection, events[0])]
        return outbox.put_many(self.connection, events)

    async def commit(self) -> None:
        """See ``App``."""
        self.end("commit")

    async def rollback(self) -> None:
        """See ``App``."""
        self.end("rollback")


@frozen
class AsyncApp:
    """An application with an async driver."""

    connection: Any
    execute: Callable[[str], Any]
    end: Callable[[str], Any]

    async def run(self, statement: str) -> None:
        """See ``App``."""
        await self.execute(statement)

    async def put(self, outbox: PostgresOutbox, *events: Event) -> Sequence[Event]:
        """See ``App``."""
        if len(events) == 1:
            return [await outbox.aput(self.connection, events[0])]
        return await outbox.aput_many(self.connection, events)

    async def commit(self) -> None:
        """See ``App``."""
        await self.end("commit")

    async def rollback(self) -> None:
        """See ``App``."""
        await self.end("rollback")


def _socket(dsn: str) -> str:
    return dsn.partition("host=")[2]


def sqlalchemy_url(dsn: str, driver: str) -> sqlalchemy.URL:
    """Return how SQLAlchemy reaches the server."""
    return sqlalchemy.URL.create(
        f"postgresql+{driver}", username="postgres", database="postgres", query={"host": _socket(dsn)}
    )


def django_connection(dsn: str) -> DatabaseWrapper:
    """Return a connection of Django's; ``settings`` must be configured."""
    settings: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": _socket(dsn),
        "PASSWORD": "",
        "PORT": "",
        "OPTIONS": {},
        "TIME_ZONE": None,
        "CONN_HEALTH_CHECKS": False,
        "CONN_MAX_AGE": 0,
        "AUTOCOMMIT": True,
        "ATOMIC_REQUESTS": False,
    }
    return DatabaseWrapper(settings, "default")


@asynccontextmanager
async def _psycopg(dsn: str) -> AsyncIterator[App]:
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        yield SyncApp(connection, connection.execute, lambda how: getattr(connection, how)())


@asynccontextmanager
async def _psycopg_raw(dsn: str) -> AsyncIterator[App]:
    with psycopg.connect(dsn, cursor_factory=psycopg.RawCursor) as connection:
        yield SyncApp(connection, connection.execute, lambda how: getattr(connection, how)())


@asynccontextmanager
async def _psycopg_async(dsn: str) -> AsyncIterator[App]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield AsyncApp(connection, connection.execute, lambda how: getattr(connection, how)())


@asynccontextmanager
async def _psycopg2(dsn: str) -> AsyncIterator[App]:
    connection = psycopg2.connect(dsn, cursor_factory=psycopg2.extras.RealDictCursor)
    try:
        yield SyncApp(connection, connection.cursor().execute, lambda how: getattr(connection, how)())
    finally:
        connection.close()


@asynccontextmanager
async def _asyncpg(dsn: str) -> AsyncIterator[App]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN")
    try:
        yield AsyncApp(connection, connection.execute, lambda how: connection.execute(f"{how}; BEGIN"))
    finally:
        await connection.close()


@asynccontextmanager
async def _asyncpg_pool(dsn: str) -> AsyncIterator[App]:
    async with asyncpg.create_pool(dsn, min_size=1) as pool, pool.acquire() as connection:
        await connection.execute("BEGIN")
        yield AsyncApp(connection, connection.execute, lambda how: connection.execute(f"{how}; BEGIN"))
        await connection.execute("ROLLBACK")


def _session(driver: str) -> "Callable[[str], AbstractAsyncContextManager[App]]":
    @asynccontextmanager
    async def open_session(dsn: str) -> AsyncIterator[App]:
        engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, driver))
        with Session(engine) as session:
            yield SyncApp(
                session, lambda text: session.execute(sqlalchemy.text(text)), lambda how: getattr(session, how)()
            )
        engine.dispose()

    return open_session


@asynccontextmanager
async def _sqlalchemy_connection(dsn: str) -> AsyncIterator[App]:
    engine = sqlalchemy.create_engine(sqlalchemy_url(dsn, "psycopg"))
    with engine.connect() as connection:
        yield SyncApp(
            connection, lambda text: connection.execute(sqlalchemy.text(text)), lambda how: getattr(connection, how)()
        )
    engine.dispose()


def _async_session(driver: str) -> "Callable[[str], AbstractAsyncContextManager[App]]":
    @asynccontextmanager
    async def open_session(dsn: str) -> AsyncIterator[App]:
        engine = create_async_engine(sqlalchemy_url(dsn, driver))
        async with AsyncSession(engine) as session:
            yield AsyncApp(
                session, lambda text: session.execute(sqlalchemy.text(text)), lambda how: getattr(session, how)()
            )
        await engine.dispose()

    return open_session


@asynccontextmanager
async def _sqlalchemy_async_connection(dsn: str) -> AsyncIterator[App]:
    engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"))
    async with engine.connect() as connection:
        yield AsyncApp(
            connection, lambda text: connection.execute(sqlalchemy.text(text)), lambda how: getattr(connection, how)()
        )
    await engine.dispose()


@asynccontextmanager
async def _django(dsn: str) -> AsyncIterator[App]:
    connection = django_connection(dsn)
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        yield SyncApp(connection, cursor.execute, lambda how: getattr(connection, how)())
    connection.close()


DRIVERS: "Final[dict[str, Callable[[str], AbstractAsyncContextManager[App]]]]" = {
    "psycopg": _psycopg,
    "psycopg-raw": _psycopg_raw,
    "psycopg-async": _psycopg_async,
    "psycopg2": _psycopg2,
    "asyncpg": _asyncpg,
    "asyncpg-pool": _asyncpg_pool,
    "sqlalchemy-psycopg": _session("psycopg"),
    "sqlalchemy-psycopg2": _session("psycopg2"),
    "sqlalchemy-connection": _sqlalchemy_connection,
    "sqlalchemy-async-asyncpg": _async_session("asyncpg"),
    "sqlalchemy-async-psycopg": _async_session("psycopg"),
    "sqlalchemy-async-connection": _sqlalchemy_async_connection,
    "django": _django,
}
