"""A database in a bad state, for a while: it is waited out, and nothing is lost or doubled."""

import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, cast

import anyio
import psycopg
import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoOutboxError,
    PostgresOutbox,
    outbox_schema,
)
from perkamo.outbox.relay import Relay
from tests.outbox.clocks import HardlyWaiting, wholly_by_clock
from tests.outbox.disks import fill, small_disk
from tests.outbox.postgres.conftest import OwnOutbox
from tests.outbox.postgres.failing import event, put
from tests.outbox.postgres.server import Server
from tests.outbox.service import Service

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """The states are those of the standard."""
    version: int = request.param
    return version


@pytest.fixture
def anyio_backend() -> str:
    """What fails here is below the event loop."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perkamo.outbox.relay._STORE_PAUSE", 0.01)
    monkeypatch.setattr("perkamo.outbox.relay.TIMEOUT", 0.5)
    monkeypatch.setattr("perkamo.postgres._BEGIN", "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 50")


async def waited_out(outbox: OwnOutbox, client: AsyncPerkamoClient, end: Callable[[], object], say: str) -> None:
    """Relay into trouble, end it, and wait until the event has passed."""
    async with outbox.relay(client) as relay:
        with anyio.fail_after(30):
            while relay.trouble is None:  # noqa: ASYNC110 - the trouble is the database's
                await anyio.sleep(0.01)
            assert say in str(relay.trouble)
            end()
            while relay.trouble is not None or (await outbox.stats()).pending:  # noqa: ASYNC110
                await anyio.sleep(0.01)


async def test_a_lock_that_somebody_holds_is_waited_out(
    schema: str, client: AsyncPerkamoClient, outbox: OwnOutbox, connection: "psycopg.Connection[Any]"
) -> None:
    """A migration on the table, for instance; catches a thread that hangs until it is done."""
    await put(outbox, 1)
    await outbox.stats()
    connection.execute(f'LOCK TABLE "{schema}".events IN ACCESS EXCLUSIVE MODE'.encode())

    await waited_out(outbox, client, connection.rollback, "55P03")


@pytest.mark.parametrize("state", ["53100", "25006", "40P01"])
async def test_a_full_disk_a_standby_and_a_deadlock_are_waited_out(
    state: str, server: Server, schema: str, client: AsyncPerkamoClient, outbox: OwnOutbox
) -> None:
    """By the state that PostgreSQL tells each with, at every change of a row."""
    await put(outbox, 1)
    await outbox.stats()
    server.execute(
        f'CREATE FUNCTION "{schema}".fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN '
        f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
    )
    trigger = f'CREATE TRIGGER fail BEFORE UPDATE ON "{schema}".events FOR EACH ROW EXECUTE FUNCTION "{schema}".fail()'
    server.execute(trigger)

    await waited_out(outbox, client, lambda: server.execute(f'DROP TRIGGER fail ON "{schema}".events'), state)


async def test_a_real_deadlock_is_waited_out_and_settles_once(  # noqa: PLR0917 - fixtures
    server: Server,
    schema: str,
    service: Service,
    client: AsyncPerkamoClient,
    connection: "psycopg.Connection[Any]",
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two events are locked the other way round than by a settlement, which is the victim; nothing is sent twice."""
    monkeypatch.setattr("perkamo.postgres._BEGIN", "BEGIN ISOLATION LEVEL READ COMMITTED")
    connection.execute("SET deadlock_timeout = '1min'; SET lock_timeout = '10s'")
    connection.commit()
    lock = f"""SELECT FROM "{schema}".events WHERE transaction_id = 'review_NUMBER' FOR UPDATE"""
    blocked = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'relay' AND wait_event_type = 'Lock'"

    def lock_the_other_way_round() -> None:
        deadline = time.monotonic() + 20
        while not server.execute(blocked) and time.monotonic() < deadline:
            time.sleep(0.005)
        connection.execute(lock.replace("NUMBER", "0").encode())  # returns when the settlement has been rolled back
        connection.rollback()

    somebody = Thread(target=lock_the_other_way_round)

    def answer(_: object, __: object) -> None:
        connection.execute(lock.replace("NUMBER", "1").encode())
        somebody.start()

    service.answer = answer
    dsn = f"{server.dsn}&application_name=relay&options=-c%20deadlock_timeout%3D300ms"
    async with PostgresOutbox(dsn, schema=schema) as outbox:
        with psycopg.connect(server.dsn, autocommit=True) as application:
            outbox.put_many(application, [event(0), event(1)], autocommit=True)
        with anyio.fail_after(30):
            stats = await outbox.drain(client)
    somebody.join(10)

    assert "40P01" in caplog.text
    assert (stats.delivered, stats.pending) == (2, 0)
    assert service.applied == {"review_0": 1, "review_1": 1}


async def test_a_database_that_takes_no_writes_for_a_while_is_waited_out(
    server: Server, schema: str, client: AsyncPerkamoClient, outbox: OwnOutbox
) -> None:
    """By the setting with which people stop writes; catches a relay that stays in the session that has it."""
    await put(outbox, 1)
    server.execute("CREATE ROLE reader SUPERUSER LOGIN; ALTER ROLE reader SET default_transaction_read_only = on")
    try:
        async with PostgresOutbox(f"{server.dsn}&user=reader", schema=schema) as as_reader:
            wholly_by_clock(as_reader, HardlyWaiting())
            end = partial(server.execute, "ALTER ROLE reader RESET default_transaction_read_only")
            await waited_out(cast("OwnOutbox", as_reader), client, end, "25006")
    finally:
        server.execute("DROP ROLE reader")


async def test_a_disk_that_is_really_full_is_waited_out(
    server: Server, schema: str, client: AsyncPerkamoClient, outbox: OwnOutbox
) -> None:
    """Of the table's own tablespace, whose pages are full, too; catches a claim that is taken for one."""
    disk = server.directory / "disk"
    with small_disk(disk, 4) as is_mounted:
        if not is_mounted:
            pytest.skip("no disk can be mounted here")
        shutil.chown(disk, server.directory.owner())
        server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        server.execute(f'ALTER TABLE "{schema}".events SET TABLESPACE small')
        try:
            await put(outbox, 200)
            await outbox.stats()
            with psycopg.connect(server.dsn) as old:
                old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                old.execute("SELECT 1")
                for _ in range(3):  # what makes room in a page is kept for the old one
                    server.execute(f'UPDATE "{schema}".events SET failures = failures')
                hog = fill(disk)
                await waited_out(outbox, client, hog.unlink, "53100")
        finally:
            server.execute(f'ALTER TABLE "{schema}".events SET TABLESPACE pg_default')
            server.execute("DROP TABLESPACE small")


@pytest.mark.stress
async def test_a_standby_is_waited_out_until_it_is_promoted(
    server: Server, service: Service, client: AsyncPerkamoClient
) -> None:
    """A relay of a real one; what the primary had committed is delivered by the new one."""
    with psycopg.connect(server.dsn) as connection:
        for statement in outbox_schema("failover"):
            connection.execute(statement.encode())
        PostgresOutbox(schema="failover").put(connection, event(1))
    standby = Server(server.version, primary=server)
    try:
        standby.start()
        async with PostgresOutbox(standby.dsn, schema="failover") as outbox:
            wholly_by_clock(outbox, HardlyWaiting())
            promote = partial(standby.execute, "SELECT pg_promote()")
            await waited_out(cast("OwnOutbox", outbox), client, promote, "25006")
    finally:
        standby.remove()
        server.execute("DROP SCHEMA failover CASCADE")

    assert service.applied == {"review_1": 1}


async def test_a_database_that_is_started_anew_is_waited_out(
    client: AsyncPerkamoClient, service: Service, outbox: OwnOutbox, server: Server
) -> None:
    """Also a crash; what was committed is delivered."""
    await put(outbox, 1)
    await outbox.stats()
    server.stop(signal.SIGQUIT)

    def start() -> None:
        server.start()
        outbox.application = psycopg.connect(server.dsn, autocommit=True)

    outbox.application.close()
    await waited_out(outbox, client, start, "can't be used")

    assert list(service.applied) == ["review_0"]


async def test_a_drain_into_a_read_only_database_is_reported(
    server: Server, schema: str, client: AsyncPerkamoClient
) -> None:
    """By a session whose transactions are read-only, as a standby's are."""
    with psycopg.connect(server.dsn) as connection:
        PostgresOutbox(schema=schema).put(connection, event(1))
    dsn = f"{server.dsn}&options=-c%20default_transaction_read_only%3Don"
    async with PostgresOutbox(dsn, schema=schema) as outbox, outbox.relay(client) as relay:
        with anyio.fail_after(30):
            while relay.trouble is None:  # noqa: ASYNC110 - the trouble is the database's
                await anyio.sleep(0.01)

    assert isinstance(relay, Relay)
    assert isinstance(relay.trouble, PerkamoOutboxError)
    assert "25006" in str(relay.trouble)
    assert relay.trouble.retryable
