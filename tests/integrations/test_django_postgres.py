"""integrations.django and .fastapi over a PostgreSQL of the tests' own: an event is committed with its order."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Final, Literal, LiteralString

import psycopg
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from perkamo import Event, PostgresOutbox
from perkamo.integrations.fastapi import PerkamoOutbox, perkamo_outbox
from perkamo.sandbox import Sandbox
from tests.integrations.servers import ROOT, Shop, besiege, environment
from tests.outbox.postgres.server import Server

DJANGO: Final = (
    *("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0"),
    "tests.integrations.django_shop.wsgi",
)
FASTAPI: Final = ("uvicorn", "--workers", "2", "--port", "0", "tests.integrations.fastapi_session_shop:app")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for this module."""
    server = Server(16)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def migrated(server: Server) -> dict[str, str]:
    """What every Django shop's environment has, over a template of a database that was migrated once."""
    shared = {
        "DJANGO_SETTINGS_MODULE": "tests.integrations.django_shop.settings",
        "SHOP_POSTGRES": str(server.directory),
    }
    server.execute("CREATE DATABASE shop")
    words = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(words, cwd=ROOT, env={**os.environ, **shared}, check=True)
    server.execute("ALTER DATABASE shop RENAME TO template")
    return shared


@pytest.fixture
def shop(migrated: dict[str, str], server: Server, sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """The environment of a Django shop with a database of its own, migrated."""
    server.execute("CREATE DATABASE shop TEMPLATE template")
    yield environment(sandbox, **migrated)
    server.execute("DROP DATABASE shop WITH (FORCE)")


def shop_dsn(server: Server) -> str:
    """Return how to reach the shop's database."""
    return server.dsn.replace("/postgres?", "/shop?")


PROGRAM: Final = """\
import io, json, django
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from perkamo.integrations.django import outbox
browser = Client(raise_request_exception=False)
statuses = [browser.post(f"/orders/order_{number}/paid?amount=1{fail}").status_code
            for number, fail in ((1, ""), (2, "&fail=1"), (1, ""))]
with transaction.atomic():
    outbox.put({"user_id": "u", "event": "e", "transaction_id": "inside"})
    inside = outbox.stats().pending
outbox.put({"user_id": "u", "event": "e", "transaction_id": "outside"})
pending = outbox.stats().pending
call_command("perkamo_relay", "--until-empty", stdout=io.StringIO())
found = io.StringIO()
call_command("check", databases=["default"], stderr=found)
with connection.cursor() as cursor:
    cursor.execute("DROP SCHEMA perkamo CASCADE")
call_command("check", databases=["default"], stderr=found)
print(json.dumps([statuses, inside, pending, found.getvalue()]))
"""


def test_an_event_is_committed_with_its_order(shop: dict[str, str], sandbox: Sandbox) -> None:
    """A row of the transaction's, by the app's migration; catches an event of an order that was rolled back."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, env=shop, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    statuses, inside, pending, found = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [200, 500, 200]
    assert (inside, pending) == (1, 3)  # nobody else sees what is not committed
    assert {event.transaction_id for event in sandbox.events()} == {"order_1", "inside", "outside"}
    assert found.count("perkamo.W005") == 1
    assert "migrate perkamo" in found


def test_a_migration_leaves_tables_that_are_there(shop: dict[str, str], server: Server) -> None:
    """Made by hand before, with events in them; catches a migration that fails, and one that begins anew."""
    with psycopg.connect(shop_dsn(server), autocommit=True) as connection:
        connection.execute("DELETE FROM django_migrations WHERE app = 'perkamo' AND name LIKE '0002%'")

    words = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    assert subprocess.run(words, cwd=ROOT, env=shop, check=False).returncode == 0


def django_shop(env: Mapping[str, str], server: Server) -> Shop:
    """The Django shop with its own relay."""
    orders = partial(committed, server, "SELECT id FROM shop_order")
    return Shop(DJANGO, "Booting worker", env, orders, ("django", "perkamo_relay"))


def fastapi_shop(env: Mapping[str, str], server: Server) -> Shop:
    """The FastAPI shop in the same database, with the relay of the command line."""
    dsn = shop_dsn(server)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE orders(id text PRIMARY KEY, amount integer, paid_at text)")
    orders = partial(committed, server, "SELECT id FROM orders")
    relay = ("perkamo", "outbox", "relay", dsn)
    return Shop(FASTAPI, "Application startup complete", {**env, "SHOP_DSN": dsn}, orders, relay)


def committed(server: Server, query: LiteralString) -> set[str]:
    """Return the orders in a shop's database."""
    with psycopg.connect(shop_dsn(server)) as connection:
        return {row[0] for row in connection.execute(query)}


@pytest.mark.release
@pytest.mark.parametrize("make", [django_shop, fastapi_shop])
def test_every_committed_order_counts_once_after_ten_kills(
    make: Callable[[Mapping[str, str], Server], Shop], shop: dict[str, str], server: Server, sandbox: Sandbox
) -> None:
    """The long siege; catches an order that is committed without its event, and an event without its order."""
    besiege(make(shop, server), "paid", sandbox, orders=600, kills=10)


@pytest.mark.parametrize("scope", [None, "function"])
def test_fastapi_puts_in_the_session_of_the_request(
    scope: Literal["function"] | None, shop: dict[str, str], server: Server
) -> None:
    """The handler's own session, whatever its scope; catches an event that is committed by itself."""
    engine = create_async_engine(shop_dsn(server).replace("postgresql://", "postgresql+psycopg://"))

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session, session.begin():
            yield session

    app = FastAPI()
    in_request = Depends(get_session, scope=scope)
    put = perkamo_outbox(PostgresOutbox(), get_session if scope is None else in_request)

    @app.post("/orders/{order}/paid")
    async def paid(
        order: str,
        session: Annotated[AsyncSession, in_request],
        outbox: Annotated[PerkamoOutbox, Depends(put)],
    ) -> dict[str, object]:
        await outbox.put(Event("customer_123", "purchase.completed", order))
        seen = (await session.execute(text("SELECT count(*) FROM perkamo.events"))).scalar_one()
        if order == "order_2":
            raise ValueError
        return {"seen": seen}

    with TestClient(app, raise_server_exceptions=False) as http:
        assert http.post("/orders/order_1/paid").json() == {"seen": 1}
        assert http.post("/orders/order_2/paid").status_code == 500

    with psycopg.connect(shop_dsn(server)) as connection:
        assert connection.execute("SELECT transaction_id FROM perkamo.events").fetchall() == [("order_1",)]
