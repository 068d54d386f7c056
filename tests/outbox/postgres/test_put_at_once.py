"""Two transactions that put the same ids at once."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from perkamo import (
    Event,
    PerkamoOutboxConflictError,
    PostgresOutbox,
)
from perkamo.outbox.postgres import connections
from perkamo.outbox.postgres.put import Answer, Query
from tests.integrations import django_set_up
from tests.outbox.postgres.server import Server
from tests.outbox.postgres.transactions import event, kept

django_set_up.set_up()

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Async drivers know asyncio alone."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _django_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture
def outbox(schema: str) -> PostgresOutbox:
    """An outbox that only puts."""
    return PostgresOutbox(schema=schema, space="shop")


def waits_for_lock(server: Server, connection: "psycopg.Connection[Any]") -> bool:
    """Tell whether a connection's statement waits for another transaction."""
    [[waits]] = server.execute(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", (connection.info.backend_pid,)
    )
    return bool(waits)


class Meanwhile:
    """Something that is done in a thread, once it waits for a lock."""

    def __init__(self, server: Server, connection: "psycopg.Connection[Any]", action: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._action = action
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while self._thread.is_alive() and not waits_for_lock(server, connection):
            pass

    def _run(self) -> None:
        try:
            self._action()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self) -> Exception | None:
        """Wait for the end; return what it raised."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


@pytest.fixture
def other(server: Server) -> "Iterator[psycopg.Connection[Any]]":
    """Another connection of the application's."""
    with psycopg.connect(server.dsn) as other:
        yield other


@pytest.fixture
def pair(
    connection: "psycopg.Connection[Any]", other: "psycopg.Connection[Any]"
) -> "tuple[psycopg.Connection[Any], psycopg.Connection[Any]]":
    """Both."""
    return connection, other


@pytest.mark.parametrize("amount", [1, 2])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_the_second_of_two_transactions_waits_and_compares(  # noqa: PLR0917 - a table and its parts
    amount: int,
    ends: str,
    server: Server,
    schema: str,
    pair: "tuple[psycopg.Connection[Any], psycopg.Connection[Any]]",
    outbox: PostgresOutbox,
) -> None:
    """Trap 5: the equal event is kept once, another refused, and after a rollback it is the first; catches a race."""
    connection, other = pair
    outbox.put(connection, event("one"))
    second = Meanwhile(server, other, lambda: outbox.put(other, event("one", amount)))
    getattr(connection, ends)()
    error = second.ended()
    other.commit()

    assert isinstance(error, PerkamoOutboxConflictError) == (ends == "commit" and amount == 2)
    assert kept(server, schema) == ["order-one"]


async def test_what_it_would_compare_with_may_be_gone(
    server: Server,
    schema: str,
    connection: "psycopg.Connection[Any]",
    outbox: PostgresOutbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 5: a relay deletes the row between the insert and the look: it inserts again; catches a missing loop."""
    outbox.put(connection, event("one"))
    connection.commit()
    steps = outbox._putting.steps("shop", [event("one", amount=2)])
    asked: list[bool] = []

    def ask(query: Query) -> Answer:
        asked.append(query.returns_rows)
        if query.returns_rows:
            server.execute(f'DELETE FROM "{schema}".events')
        return original(query)

    original = connections._psycopg(connection, autocommit=False)
    monkeypatch.setitem(connections._SYNC, "psycopg.Connection", lambda *_: ask)
    connections.put_by(connection, steps, autocommit=False)
    connection.commit()

    assert asked == [False, True, False]
    assert kept(server, schema) == ["order-one"]


async def test_serialization_failures_are_the_applications_own(
    server: Server, connection: "psycopg.Connection[Any]", other: "psycopg.Connection[Any]", outbox: PostgresOutbox
) -> None:
    """Trap 5: under REPEATABLE READ the second gets 40001, as it would for its own rows; catches an endless loop."""
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("SELECT 1")
    outbox.put(connection, event("one"))
    second = Meanwhile(server, other, lambda: outbox.put(other, event("one", amount=2)))
    connection.commit()

    assert isinstance(second.ended(), psycopg.errors.SerializationFailure)
    other.rollback()


async def test_lists_in_opposite_order_do_not_deadlock(
    server: Server,
    schema: str,
    connection: "psycopg.Connection[Any]",
    other: "psycopg.Connection[Any]",
    outbox: PostgresOutbox,
) -> None:
    """Trap 5: both insert in the order of ids, and keep the order in which they were given; catches 40P01."""
    events = [event(f"{number:02}") for number in range(40)]

    def put_and_commit(own: "psycopg.Connection[Any]", list_of_events: list[Event]) -> None:
        outbox.put_many(own, list_of_events)
        own.commit()

    outbox.put(connection, event("20"))
    with psycopg.connect(server.dsn) as third:
        forwards = Meanwhile(server, other, lambda: put_and_commit(other, events))
        backwards = Meanwhile(server, third, lambda: put_and_commit(third, events[::-1]))
        connection.rollback()
        errors = [forwards.ended(), backwards.ended()]

    assert errors == [None, None]
    assert kept(server, schema) == [f"order-{number:02}" for number in range(40)]
