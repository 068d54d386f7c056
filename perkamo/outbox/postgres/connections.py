"""Recognizes what runs the application's transaction, by the name of its type: no driver is loaded for this.

Each driver's own error reaches the application, which knows what to do about a serialization failure.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any, Final, TypeAlias, cast

from perkamo.errors import PerkamoConfigurationError
from perkamo.outbox.postgres.put import Answer, Query, Steps
from perkamo.postgres import Rows

Execute: TypeAlias = Callable[[Query], Answer]
ExecuteAsync: TypeAlias = Callable[[Query], Awaitable[Answer]]

_IDLE: Final = 0
"""libpq's status of a connection without an open transaction."""
_TAKEN: Final = (
    "a SQLAlchemy Session or Connection, Django's connection, or a connection of psycopg or psycopg2; "
    "and aput takes an AsyncSession, an AsyncConnection, an async connection of psycopg, or one of asyncpg"
)


def put_by(connection: object, steps: Steps, *, autocommit: bool) -> None:
    """Put in a transaction of a synchronous driver.

    Args:
        connection: What runs the transaction.
        steps: What to ask, see ``Putting.steps``.
        autocommit: Allow a connection that has no transaction open and commits each statement.

    Raises:
        PerkamoConfigurationError: It is nothing that is known here, or has no transaction open.
    """
    execute = _recognized(_SYNC, connection)(connection, autocommit)
    try:
        query = next(steps)
        while True:
            query = steps.send(execute(query))
    except StopIteration:
        return


async def put_by_async(connection: object, steps: Steps, *, autocommit: bool) -> None:
    """The same for an async driver."""
    execute = await _recognized(_ASYNC, connection)(connection, autocommit)
    try:
        query = next(steps)
        while True:
            query = steps.send(await execute(query))
    except StopIteration:
        return


def _recognized(kinds: "Mapping[str, Callable[[Any, bool], Any]]", connection: object) -> "Callable[[Any, bool], Any]":
    for one in type(connection).__mro__:
        name = f"{one.__module__.partition('.')[0]}.{one.__name__}"
        if name in kinds:
            return kinds[name]
    raise PerkamoConfigurationError(f"put takes {_TAKEN}; not {type(connection).__name__}. Nothing was put.")


def _refuse_autocommit(is_in_autocommit: bool, allowed: bool) -> None:
    if is_in_autocommit and not allowed:
        raise PerkamoConfigurationError(
            "No transaction is open on this connection, which commits each statement by itself: the event would be "
            "kept even if your own changes are rolled back. Put inside the transaction that makes them, or say "
            "autocommit=True. Nothing was put."
        )


def _named(query: Query) -> dict[str, object]:
    return {f"p{number}": value for number, value in enumerate(query.parameters, 1)}


def _answer(query: Query, cursor: Any) -> Answer:
    return Answer(rows=cast("Rows", cursor.fetchall())) if query.returns_rows else Answer(cursor.rowcount)


@cache
def _plain_cursors() -> "tuple[Callable[[Any], Any], Callable[[Any], Any]]":
    """Return what makes psycopg's cursors that return tuples, whatever the connection's own factories are."""
    from psycopg import AsyncCursor, Cursor  # noqa: PLC0415 - it is loaded already
    from psycopg.rows import tuple_row  # noqa: PLC0415

    return partial(Cursor, row_factory=tuple_row), partial(AsyncCursor, row_factory=tuple_row)


def _is_psycopg_in_autocommit(connection: Any) -> bool:
    return bool(connection.autocommit and connection.info.transaction_status == _IDLE)


def _psycopg(connection: Any, autocommit: bool) -> Execute:
    cursor_of, _ = _plain_cursors()
    _refuse_autocommit(_is_psycopg_in_autocommit(connection), autocommit)

    def execute(query: Query) -> Answer:
        with cursor_of(connection) as cursor:
            cursor.execute(query.statement.named_bytes, _named(query))
            return _answer(query, cursor)

    return execute


async def _psycopg_async(connection: Any, autocommit: bool) -> ExecuteAsync:
    _, cursor_of = _plain_cursors()
    _refuse_autocommit(_is_psycopg_in_autocommit(connection), autocommit)

    async def execute(query: Query) -> Answer:
        async with cursor_of(connection) as cursor:
            await cursor.execute(query.statement.named_bytes, _named(query))
            return Answer(rows=await cursor.fetchall()) if query.returns_rows else Answer(cursor.rowcount)

    return execute


def _psycopg2(connection: Any, autocommit: bool) -> Execute:
    extensions: Any = import_module("psycopg2.extensions")  # it is loaded already, and has no types
    is_idle = connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    _refuse_autocommit(connection.autocommit and is_idle, autocommit)

    def execute(query: Query) -> Answer:
        with connection.cursor(cursor_factory=extensions.cursor) as plain:
            plain.execute(query.statement.named, _named(query))
            return _answer(query, plain)

    return execute


def _django(connection: Any, autocommit: bool) -> Execute:
    if connection.vendor != "postgresql":
        raise PerkamoConfigurationError("Django's connection is not one to PostgreSQL. Nothing was put.")
    _refuse_autocommit(not connection.in_atomic_block and connection.get_autocommit(), autocommit)

    def execute(query: Query) -> Answer:
        with connection.cursor() as cursor:
            cursor.execute(query.statement.named, _named(query))
            return _answer(query, cursor)

    return execute


def _sqlalchemy_session(session: Any, autocommit: bool) -> Execute:
    return _sqlalchemy(session.connection(), autocommit)


def _sqlalchemy(connection: Any, autocommit: bool) -> Execute:
    is_numbered = _is_numbered(connection, autocommit)

    def execute(query: Query) -> Answer:
        with _HidingValues():
            return _answer(query, connection.exec_driver_sql(*_driver_sql(query, is_numbered)))

    return execute


async def _sqlalchemy_async_session(session: Any, autocommit: bool) -> ExecuteAsync:
    return await _sqlalchemy_async(await session.connection(), autocommit)


async def _sqlalchemy_async(connection: Any, autocommit: bool) -> ExecuteAsync:
    is_numbered = await connection.run_sync(_is_numbered, autocommit)

    async def execute(query: Query) -> Answer:
        with _HidingValues():
            return _answer(query, await connection.exec_driver_sql(*_driver_sql(query, is_numbered)))

    return execute


def _is_numbered(connection: Any, autocommit: bool) -> bool:
    """Tell how the driver below SQLAlchemy writes parameters."""
    if connection.dialect.name != "postgresql" or connection.dialect.paramstyle not in {"pyformat", "numeric_dollar"}:
        raise PerkamoConfigurationError(
            f"SQLAlchemy's connection is one of {connection.dialect.name} by {connection.dialect.driver}; PostgreSQL "
            "by psycopg, psycopg2 or asyncpg is needed. Nothing was put."
        )
    # in_transaction() is true under AUTOCOMMIT, too
    _refuse_autocommit(bool(connection.connection.dbapi_connection.autocommit), autocommit)
    return bool(connection.dialect.paramstyle == "numeric_dollar")


def _driver_sql(query: Query, is_numbered: bool) -> tuple[str, object]:
    return (query.statement.numbered, query.parameters) if is_numbered else (query.statement.named, _named(query))


class _HidingValues:
    """Lets SQLAlchemy's errors go by without the values of the statement."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if hasattr(error, "hide_parameters"):
            cast("Any", error).hide_parameters = True


async def _asyncpg(connection: Any, autocommit: bool) -> ExecuteAsync:
    _refuse_autocommit(not connection.is_in_transaction(), autocommit)

    async def execute(query: Query) -> Answer:
        if query.returns_rows:
            rows: Sequence[Any] = await connection.fetch(query.statement.numbered, *query.parameters)
            return Answer(rows=[tuple(row) for row in rows])
        status: str = await connection.execute(query.statement.numbered, *query.parameters)
        return Answer(int(status.rpartition(" ")[2]))

    return execute


_SYNC: Final[Mapping[str, Callable[[Any, bool], Execute]]] = {
    "psycopg.Connection": _psycopg,
    "psycopg2.connection": _psycopg2,
    "sqlalchemy.Session": _sqlalchemy_session,
    "sqlalchemy.scoped_session": _sqlalchemy_session,
    "sqlalchemy.Connection": _sqlalchemy,
    "django.BaseDatabaseWrapper": _django,
    "django.ConnectionProxy": _django,
}
_ASYNC: Final[Mapping[str, Callable[[Any, bool], Awaitable[ExecuteAsync]]]] = {
    "psycopg.AsyncConnection": _psycopg_async,
    "sqlalchemy.AsyncSession": _sqlalchemy_async_session,
    "sqlalchemy.async_scoped_session": _sqlalchemy_async_session,
    "sqlalchemy.AsyncConnection": _sqlalchemy_async,
    "asyncpg.Connection": _asyncpg,
    "asyncpg.PoolConnectionProxy": _asyncpg,
}
"""By the root of the type's module and its name."""
