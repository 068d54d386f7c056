"""The application's PostgreSQL, for what runs outside its transactions: relays, commands and logs.

Every transaction is one message of several statements, under READ COMMITTED whatever the default is. Nothing outlives
it in the session, so that it works through PgBouncer in transaction mode. psycopg 3 is an extra, loaded when needed.
"""

import re
import weakref
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast

from attrs import frozen

from perkamo.errors import PerkamoConfigurationError
from perkamo.redaction import clean
from perkamo.runtime.clock import Clock
from perkamo.runtime.forks import ForkGuard

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.abc import PQGen

S = TypeVar("S")
T = TypeVar("T")
Rows: TypeAlias = list[tuple[object, ...]]

DURABLE: Final = """
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
"""
"""Goes before statements whose transaction must be on disk when it returns, whatever the default is; so is then all
that was committed before it."""

STATEMENT_SECONDS: Final = 30
"""How long a statement may take; one that waits for a lock may take ``LOCK_SECONDS``."""
LOCK_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 45.0
"""After how long without an answer a connection counts as lost: a database that is frozen acknowledges all bytes."""
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"
)
_OPTIONS: Final[Mapping[str, str | int]] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "client_encoding": "utf8",
    "fallback_application_name": "perkamo",
}
"""What a connection gets that its DSN says nothing about: a silent network is noticed within seconds."""
_IDLE_SECONDS: Final = 60.0
"""For how long a connection is kept that nobody uses: what is idle for longer may have been cut off on the way."""
_TROUBLE_THAT_PASSES: Final = ("08", "25006", "40", "53", "55", "57", "58")
"""How the SQLSTATEs begin of what may pass by itself: lost connections, a standby, conflicts, no resources, locks held
by others, a database that starts or stops, the system's failures."""
_NO_TABLES: Final = frozenset({"3F000", "42P01", "42703"})
_NO_RIGHT: Final = "42501"
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_SCHEMA: Final = re.compile(r"[^\x00-\x1f\x7f\"]{1,63}")

_of_parents: list[object] = []
"""Connections that a forked child inherited. They are the parent's; closing one here would end it there."""


@frozen
class DatabaseFailure(Exception):  # noqa: N818 - it never leaves the package
    """The database could not do what it was asked, and nothing was changed, or the connection was lost at the commit.

    Attributes:
        reason: What is wrong, without any value that the statement held.
        retryable: Whether it may pass by itself.
    """

    reason: str
    retryable: bool


class ConnectionPool(Protocol):
    """A ``psycopg_pool.ConnectionPool``, or anything that lends psycopg's connections in the same way."""

    def connection(self) -> AbstractContextManager[object]:
        """Lend a connection for as long as a block lasts."""
        ...


class Dsn(str):
    """A connection string, which holds a password, so that no traceback shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'postgresql://***'"


class Database:
    """Connections to one database, each used by one thread at a time; made when needed, and again in a forked child."""

    def __init__(self, source: str | ConnectionPool) -> None:
        """Check how the database is reached; nothing is opened yet.

        Args:
            source: A DSN, or a pool, whose connections are used without prepared statements and left as they were.

        Raises:
            PerkamoConfigurationError: psycopg 3 is not installed, or the source can't be used. No password is shown.
        """
        try:
            import_module("psycopg")
        except ImportError as error:
            raise PerkamoConfigurationError(
                f"psycopg can't be loaded ({error}). Install the extra: pip install 'perkamo[postgres]'."
            ) from error
        self._pool = None if isinstance(source, str) else _checked_pool(source)
        self._dsn, self._password = _parse(source) if isinstance(source, str) else (Dsn(), "")
        self._idle: deque[tuple[float, Connection[tuple[object, ...]]]] = deque()
        self._clock = Clock()
        self._guard = ForkGuard(in_child=partial(_leave_to_parent, self._idle))
        weakref.finalize(self, _close_all, self._idle)

    def run(self, script: str, parameters: Mapping[str, object]) -> list[Rows]:
        """Run statements in one transaction; return the rows of each statement that returns any.

        Args:
            script: Statements, separated by semicolons, with parameters as ``%(name)s``.
            parameters: The parameters.

        Raises:
            DatabaseFailure: Nothing was changed, or the connection was lost at the commit.
        """
        return self._run_all(f"{_BEGIN}; {script}; COMMIT", parameters)

    def look(self, query: str, parameters: Mapping[str, object]) -> Rows:
        """Return the rows of one query, cheaply: as it is alone, it needs none of what ``run`` sends around it.

        Raises:
            DatabaseFailure: It could not be run.
        """
        [rows] = self._run_all(query, parameters)
        return rows

    def close(self) -> None:
        """Close the connections that nobody uses. They are made again when they are needed."""
        _close_all(self._idle)

    def _run_all(self, script: str, parameters: Mapping[str, object]) -> list[Rows]:
        from psycopg import Error  # noqa: PLC0415 - an extra

        try:
            return self._run(script.encode(), parameters)
        except (Error, OSError) as error:
            failure = self._failure(error)
        raise failure

    def _run(self, script: bytes, parameters: Mapping[str, object]) -> list[Rows]:
        from psycopg import ClientCursor  # noqa: PLC0415 - an extra
        from psycopg.rows import tuple_row  # noqa: PLC0415

        with self._connection() as connection:
            found: list[Rows] = []
            with ClientCursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(script, parameters, prepare=False)
                more: bool | None = True
                while more:
                    if cursor.description is not None:
                        found.append(cursor.fetchall())
                    more = cursor.nextset()
            return found

    def _failure(self, error: Exception) -> DatabaseFailure:
        state: str | None = getattr(error, "sqlstate", None)
        if state is None:  # the connection was lost or never made, or a pool has none
            return DatabaseFailure(clean(str(error) or type(error).__name__, self._password), retryable=True)
        if state in _NO_TABLES:
            reason = f"its tables are missing or of another version (SQLSTATE {state}); see 'perkamo outbox sql'"
            return DatabaseFailure(reason, retryable=False)
        if state == _NO_RIGHT:
            reason = f"the role lacks a right (SQLSTATE {state}); see 'perkamo outbox check'"
            return DatabaseFailure(reason, retryable=False)
        passes = state.startswith(_TROUBLE_THAT_PASSES)
        return DatabaseFailure(f"{type(error).__name__} (SQLSTATE {state})", retryable=passes)

    @contextmanager
    def _connection(self) -> "Generator[Connection[tuple[object, ...]]]":
        """Lend a connection in autocommit mode, in which our own BEGIN decides."""
        if self._pool is not None:
            with self._pool.connection() as lent, _in_autocommit(lent) as connection:
                yield connection
            return
        connection = self._idle_connection() or self._connect()
        try:
            yield connection
        except BaseException:
            # Whatever its state is, and if the database was started again, the others are of no use either.
            connection.close()
            self.close()
            raise
        self._idle.append((self._clock.now(), connection))

    def _idle_connection(self) -> "Connection[tuple[object, ...]] | None":
        while True:
            try:
                since, connection = self._idle.pop()
            except IndexError:
                return None
            if self._clock.now() - since < _IDLE_SECONDS:
                return connection
            connection.close()

    def _connect(self) -> "Connection[tuple[object, ...]]":
        with self._guard:  # a child must not inherit one that is being made
            return _limited_connection().connect(self._dsn, autocommit=True, prepare_threshold=None)


@cache
def _limited_connection() -> "type[Connection[tuple[object, ...]]]":
    """Return the class of connections that wait for an answer only so long."""
    from psycopg import Connection  # noqa: PLC0415 - an extra

    class LimitedConnection(Connection[tuple[object, ...]]):
        def wait(self, gen: "PQGen[T]", *args: Any, **options: Any) -> T:
            return super().wait(_limited(gen, Clock()), *args, **options)

    return LimitedConnection


def _limited(steps: "PQGen[T]", clock: Clock) -> "PQGen[T]":
    """Pass on what psycopg's steps wait for; about ten times a second it is told that nothing is ready yet."""
    from psycopg import OperationalError  # noqa: PLC0415 - an extra

    until = clock.now() + _ANSWER_SECONDS
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and clock.now() > until:
                raise OperationalError(f"no answer within {_ANSWER_SECONDS:g} seconds")
            wanted = steps.send(ready)
    except StopIteration as end:
        return cast("T", end.value)


def _close_all(idle: "deque[tuple[float, Connection[tuple[object, ...]]]]") -> None:
    while idle:
        _, connection = idle.pop()
        connection.close()


def _leave_to_parent(idle: "deque[tuple[float, Connection[tuple[object, ...]]]]") -> None:
    _of_parents.extend(idle)
    idle.clear()


def quoted_schema(name: str) -> str:
    """Return a schema's name as an identifier.

    Raises:
        PerkamoConfigurationError: It can't be one.
    """
    if not isinstance(cast("object", name), str) or not _SCHEMA.fullmatch(name) or len(name.encode()) > 63:
        raise PerkamoConfigurationError("schema must be text of 1 to 63 bytes without quotes and control characters.")
    return f'"{name}"'


def fill(text: str, names: Mapping[str, str]) -> str:
    """Return a text with its ``{name}``s filled in, each once: a schema may be named like one of them."""
    return _PLACEHOLDER.sub(lambda found: names[found[1]], text)


def hide_dsn(source: S) -> S:
    """Put a DSN, which may hold a password, where no traceback shows it. What takes one begins with this."""
    return cast("S", Dsn(source)) if isinstance(source, str) else source


def _parse(source: str) -> tuple[Dsn, str]:
    """Return the DSN with our options, and its password; the parser's own messages would show parts of it."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - an extra

    given: Mapping[str, str | int | None] | None
    try:
        given = conninfo_to_dict(source)
    except Exception:  # noqa: BLE001
        given = None
    if given is None:
        raise PerkamoConfigurationError(
            "The DSN can't be read. Give it as postgresql://user:password@host:5432/database, with special characters "
            "percent-encoded."
        )
    return Dsn(make_conninfo("", **{**_OPTIONS, **given})), str(given.get("password") or "")


def _checked_pool(pool: ConnectionPool) -> ConnectionPool:
    if not hasattr(pool, "connection") or any(one.__name__.startswith("Async") for one in type(pool).__mro__):
        raise PerkamoConfigurationError(
            "A DSN or a psycopg_pool.ConnectionPool is needed. An AsyncConnectionPool belongs to one event loop, and "
            "what is done here runs in threads: give the DSN in its place."
        )
    return pool


@contextmanager
def _in_autocommit(lent: object) -> "Generator[Connection[tuple[object, ...]]]":
    connection = cast("Connection[tuple[object, ...]]", lent)
    autocommit = connection.autocommit
    connection.autocommit = True
    try:
        yield connection
    except BaseException:
        with suppress(Exception):
            connection.rollback()
        raise
    finally:
        with suppress(Exception):  # it is broken, and the pool drops it
            connection.autocommit = autocommit
