"""Putting in the application's own transaction, by every driver."""

import subprocess
import sys
from contextlib import closing
from typing import Any

import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from perkamo import (
    Event,
    PerkamoConfigurationError,
    PerkamoOutboxConflictError,
    PerkamoValidationError,
    PostgresOutbox,
    SyncPostgresOutbox,
)
from tests.integrations import django_set_up
from tests.outbox.postgres.drivers import DRIVERS, App, django_connection, sqlalchemy_url
from tests.outbox.postgres.server import Server
from tests.outbox.postgres.transactions import event, kept

django_set_up.set_up()

pytestmark = pytest.mark.anyio

SECRET = "canary-5a1ad"


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


@pytest.fixture
def orders(server: Server, schema: str) -> str:
    """A table of the application's."""
    server.execute(f'CREATE TABLE "{schema}".orders (id text)')
    return f'"{schema}".orders'


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("server_version", [18])
async def test_an_event_shares_its_transactions_fate(
    driver: str, server: Server, schema: str, orders: str, outbox: PostgresOutbox
) -> None:
    """Committed with the order it waits, rolled back with it it never was; catches a put by another connection."""
    async with DRIVERS[driver](server.dsn) as app:
        await app.run(f"INSERT INTO {orders} VALUES ('one')")
        put = await app.put(outbox, event("one"))
        await app.rollback()
        assert kept(server, schema) == []

        await app.run(f"INSERT INTO {orders} VALUES ('two')")
        await app.put(outbox, event("two", customer='ä"%s\\'))
        await app.put(outbox, event("b"), event("a"), event("c"))
        await app.commit()

    assert put == [event("one")]
    assert kept(server, schema) == ["order-two", "order-b", "order-a", "order-c"]
    assert server.execute(f"SELECT id FROM {orders}") == [("two",)]
    [row] = server.execute(f"SELECT space, customer, body FROM \"{schema}\".events WHERE transaction_id = 'order-two'")
    assert row == ("shop", 'ä"%s\\', event("two", customer='ä"%s\\').to_bytes())


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("server_version", [16])
async def test_an_equal_event_is_kept_once_and_another_refused(
    driver: str, server: Server, schema: str, orders: str, outbox: PostgresOutbox
) -> None:
    """And the transaction goes on after the refusal; catches a unique violation that breaks it."""
    async with DRIVERS[driver](server.dsn) as app:
        await app.put(outbox, event("one"))
        await app.put(outbox, event("one"))
        await app.put(outbox, event("one"), event("two"), event("two"))
        with pytest.raises(PerkamoOutboxConflictError):
            await app.put(outbox, event("one", amount=2))
        with pytest.raises(PerkamoOutboxConflictError):
            await app.put(outbox, event("one", amount=2), event("two"))
        await app.run(f"INSERT INTO {orders} VALUES ('after')")
        await app.commit()

    assert kept(server, schema) == ["order-one", "order-two"]
    assert server.execute(f"SELECT id FROM {orders}") == [("after",)]


async def test_all_rules_are_checked_before_anything_is_put(
    server: Server, schema: str, connection: "psycopg.Connection[Any]", outbox: PostgresOutbox
) -> None:
    """One bad event of a list leaves nothing behind, two of one list must not differ; catches a check on the way."""
    with pytest.raises(PerkamoValidationError):
        outbox.put_many(connection, [event("fine"), {"user_id": "u", "event": "e", "context": {"xp": 1}}])
    with pytest.raises(PerkamoOutboxConflictError):
        outbox.put_many(connection, [event("one"), event("one", amount=2)])
    made = outbox.put(connection, {"user_id": "u", "event": "e"})
    connection.commit()

    assert outbox.put_many(connection, []) == []
    assert kept(server, schema) == [made.transaction_id]
    assert str(made.transaction_id).startswith("tx_")


@pytest.mark.parametrize("server_version", [18])
async def test_a_dead_letter_of_the_same_id_counts(
    server: Server, schema: str, connection: "psycopg.Connection[Any]", outbox: PostgresOutbox
) -> None:
    """The same event is kept once, as the dead letter; another is refused; catches a look at what waits alone."""
    table = f'"{schema.replace("%", "%%")}".dead_letters'
    for one in (event("dead"), event("dead too")):
        server.execute(
            f"INSERT INTO {table} (space, transaction_id, customer, put_at, reason, body) "
            "VALUES ('shop', %s, 'customer', now(), 'no', %s)",
            (one.transaction_id, one.to_bytes()),
        )

    outbox.put(connection, event("dead"))
    outbox.put_many(connection, [event("alive"), event("dead too")])
    with pytest.raises(PerkamoOutboxConflictError):
        outbox.put(connection, event("dead", amount=2))
    connection.commit()

    assert kept(server, schema) == ["order-alive"]


@pytest.mark.parametrize("server_version", [18])
async def test_autocommit_is_refused_unless_asked_for(server: Server, schema: str, outbox: PostgresOutbox) -> None:
    """Trap 8: by every driver, also where SQLAlchemy says in_transaction(); catches an event kept without its order."""
    plain = psycopg.connect(server.dsn, autocommit=True)
    second = psycopg2.connect(server.dsn)
    second.autocommit = True
    engine = sqlalchemy.create_engine(sqlalchemy_url(server.dsn, "psycopg"), isolation_level="AUTOCOMMIT")
    django = django_connection(server.dsn)
    with closing(plain), closing(second), closing(django), Session(engine) as session:
        for connection in (plain, second, session, django):
            with pytest.raises(PerkamoConfigurationError, match="No transaction"):
                outbox.put(connection, event("one"))
            with pytest.raises(PerkamoConfigurationError, match="No transaction"):
                outbox.put_many(connection, [event("one"), event("two")])
        assert session.in_transaction()
        assert kept(server, schema) == []

        for number, connection in enumerate((plain, second, session, django)):
            outbox.put(connection, event(number), autocommit=True)
            assert len(kept(server, schema)) == number + 1
        with plain.transaction():
            outbox.put(plain, event("in a block"))
        with _atomic(django):
            outbox.put(django, event("atomic"))
    engine.dispose()

    assert len(kept(server, schema)) == 6


def _atomic(connection: Any) -> Any:
    """Return Django's ``atomic`` for a connection that is in no settings."""

    class Atomic:
        def __enter__(self) -> None:
            connection.set_autocommit(False)
            connection.in_atomic_block = True

        def __exit__(self, *_: object) -> None:
            connection.in_atomic_block = False
            connection.commit()
            connection.set_autocommit(True)

    return Atomic()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg-async", "sqlalchemy-async-asyncpg"])
@pytest.mark.parametrize("server_version", [18])
async def test_async_autocommit_is_refused_unless_asked_for(
    driver: str, server: Server, schema: str, outbox: PostgresOutbox
) -> None:
    """The same for async drivers."""
    async with DRIVERS[driver](server.dsn) as app:
        await _end_transaction(driver, app)
        with pytest.raises(PerkamoConfigurationError, match="No transaction"):
            await outbox.aput(app.connection, event("one"))
        assert kept(server, schema) == []
        await outbox.aput(app.connection, event("one"), autocommit=True)
        assert kept(server, schema) == ["order-one"]


async def _end_transaction(driver: str, app: App) -> None:
    if driver == "asyncpg":
        await app.run("ROLLBACK")
    elif driver == "psycopg-async":
        await app.connection.set_autocommit(True)
    else:
        await app.connection.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


async def test_what_is_no_connection_is_refused(connection: "psycopg.Connection[Any]", outbox: PostgresOutbox) -> None:
    """With the list of what is taken; catches an AttributeError, and a sync connection that blocks a loop."""
    for wrong in (object(), "postgresql://shop", sqlalchemy.create_engine("postgresql+psycopg://")):
        with pytest.raises(PerkamoConfigurationError, match="AsyncSession"):
            outbox.put(wrong, event("one"))
    with pytest.raises(PerkamoConfigurationError, match="aput takes"):
        await outbox.aput(connection, event("one"))
    with Session(sqlalchemy.create_engine("sqlite://")) as session, pytest.raises(PerkamoConfigurationError):
        outbox.put(session, event("one"))


@pytest.mark.parametrize("server_version", [18])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_errors_show_no_value(driver: str, server: Server) -> None:
    """Where the tables are missing, the driver's error comes, without the event; catches SQLAlchemy's parameters."""
    outbox = PostgresOutbox(schema="not there")
    async with DRIVERS[driver](server.dsn) as app:
        with pytest.raises(Exception, match="not there") as caught:
            await app.put(outbox, Event(SECRET, "purchase.completed", SECRET, {"secret": SECRET}))
        await app.rollback()

    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__cause__}"
    assert SECRET not in shown


def test_the_sync_twin_puts_and_has_no_aput(server: Server, schema: str, connection: "psycopg.Connection[Any]") -> None:
    """Put belongs to the connection's own thread; catches a put that goes through the portal."""
    outbox = SyncPostgresOutbox(schema=schema)
    outbox.put(connection, event("one"))
    outbox.put_many(connection, [event("two"), event("three")])
    connection.commit()

    assert kept(server, schema) == ["order-one", "order-two", "order-three"]
    assert not hasattr(outbox, "aput")


def test_putting_loads_no_driver() -> None:
    """Who puts by another driver needs no psycopg; catches an import at the top."""
    code = "import sys; from perkamo import PostgresOutbox; PostgresOutbox(); sys.exit('psycopg' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
