"""integrations.django and .fastapi over a PostgreSQL of the tests' own: an event is committed with its order."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final

import psycopg
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from perkamo import Event, PostgresOutbox
from perkamo.integrations.fastapi import PerkamoOutbox, perkamo_outbox
from perkamo.sandbox import Sandbox
from tests.integrations.servers import (
    ROOT,
    buy_all,
    environment,
    five_percent_faults,
    running,
    wait_until_applied,
)
from tests.outbox.postgres.server import Server

SHOP: Final = (
    *("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0"),
    "tests.integrations.django_shop.wsgi",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for this module."""
    server = Server(16)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def shop(server: Server, sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """The environment of a Django shop with a database of its own, migrated."""
    server.execute("CREATE DATABASE shop")
    env = environment(
        sandbox,
        DJANGO_SETTINGS_MODULE="tests.integrations.django_shop.settings",
        SHOP_POSTGRES=str(server.directory),
    )
    words = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(words, cwd=ROOT, env=env, check=True)
    yield env
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


def siege(shop: dict[str, str], server: Server, sandbox: Sandbox, *, orders: int, kills: int) -> None:
    """Buy, while requests fail and workers are killed; in the end every committed order has counted once."""
    ids = [f"order_{number}" for number in range(orders)]
    with five_percent_faults(sandbox), running("django", "perkamo_relay", env=shop) as relay:
        relay.find("Delivering")
        with running(*SHOP, env=shop) as gunicorn:
            port = int(gunicorn.find(r"http://127\.0\.0\.1:([0-9]+)"))
            gunicorn.find("Booting worker", times=2)
            buy_all(port, [f"/orders/{one}/paid?amount=1" for one in ids], gunicorn, kills=kills)
        with psycopg.connect(shop_dsn(server)) as connection:
            assert {row[0] for row in connection.execute("SELECT id FROM shop_order")} == set(ids)
        wait_until_applied(sandbox, ids)


def test_every_committed_order_counts_once(shop: dict[str, str], server: Server, sandbox: Sandbox) -> None:
    """A short siege; catches an event that is lost with its worker."""
    siege(shop, server, sandbox, orders=60, kills=2)


@pytest.mark.stress
def test_every_committed_order_counts_once_after_ten_kills(
    shop: dict[str, str], server: Server, sandbox: Sandbox
) -> None:
    """The long siege."""
    siege(shop, server, sandbox, orders=600, kills=10)


def test_fastapi_puts_in_the_session_of_the_request(shop: dict[str, str], server: Server) -> None:
    """The handler's own session, once; catches an event that is committed by itself."""
    engine = create_async_engine(shop_dsn(server).replace("postgresql://", "postgresql+psycopg://"))

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session, session.begin():
            yield session

    app = FastAPI()
    put = perkamo_outbox(PostgresOutbox(), get_session)

    @app.post("/orders/{order}/paid")
    async def paid(
        order: str,
        session: Annotated[AsyncSession, Depends(get_session)],
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
