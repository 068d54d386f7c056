"""What fails between a relay and its database: trouble that passes is waited out, and nothing is lost or doubled."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, cast

import anyio
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from perkamo import (
    AsyncPerkamoClient,
    Event,
    PerkamoConfigurationError,
    PerkamoOutboxError,
    PostgresOutbox,
    outbox_schema,
)
from perkamo.outbox.relay import Relay
from perkamo.postgres import Database, DatabaseFailure
from tests.outbox.clocks import HardlyWaiting
from tests.outbox.disks import fill, small_disk
from tests.outbox.postgres.conftest import OwnOutbox
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


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """Connections to the server."""
    database = Database(server.dsn)
    yield database
    database.close()


def event(number: object) -> Event:
    """Make an event."""
    return Event("customer", "review.created", f"review_{number}")


async def put(outbox: OwnOutbox, number: int) -> None:
    """Put so many events."""
    PostgresOutbox.put_many(outbox, outbox.application, [event(one) for one in range(number)], autocommit=True)


RAISE = "DO $$ BEGIN RAISE EXCEPTION 'canary' USING ERRCODE = '{}'; END $$"


@pytest.mark.parametrize(
    "state", ["08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "58030"]
)
def test_what_time_mends_is_retryable(state: str, database: Database) -> None:
    """Trap 7: by its state, and without the database's own words, which may tell values."""
    with pytest.raises(DatabaseFailure) as caught:
        database.run(RAISE.format(state), {})

    assert caught.value.retryable
    assert "canary" not in caught.value.reason
    assert database.run("SELECT 1", {}) == [[(1,)]]


@pytest.mark.parametrize("state", ["42501", "42P01", "3F000", "23514", "22P05", "XX000"])
def test_what_a_person_must_mend_is_not(state: str, database: Database) -> None:
    """A missing right or table, or a bug; catches a command that waits for ever."""
    with pytest.raises(DatabaseFailure) as caught:
        database.run(RAISE.format(state), {})

    assert not caught.value.retryable


def test_lost_connections_have_no_state_and_pass(server: Server) -> None:
    """Trap 7: a server that is not there, one that goes away, and a pool that has none to lend."""
    nowhere = Database("postgresql://shop:canary-5a1ad@/shop?host=/nowhere")
    with pytest.raises(DatabaseFailure) as refused:
        nowhere.run("SELECT 1", {})
    killed = Database(server.dsn)
    with pytest.raises(DatabaseFailure) as lost:
        killed.run("SELECT pg_terminate_backend(pg_backend_pid())", {})
    with (
        ConnectionPool(server.dsn, min_size=1, max_size=1, timeout=0.05) as pool,
        pool.connection(),
        pytest.raises(DatabaseFailure) as none_left,
    ):
        Database(pool).run("SELECT 1", {})

    assert refused.value.retryable
    assert lost.value.retryable
    assert none_left.value.retryable
    assert "5a1ad" not in refused.value.reason
    assert killed.run("SELECT 1", {}) == [[(1,)]]
    killed.close()


def test_a_database_that_is_frozen_is_a_connection_lost(
    server: Server, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its system goes on to acknowledge what is sent; catches a relay that hangs in silence, and at its end."""
    monkeypatch.setattr("perkamo.postgres._ANSWER_SECONDS", 0.1)
    [[(frozen,)]] = database.run("SELECT pg_backend_pid()", {})
    os.kill(cast("int", frozen), signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseFailure, match="no answer") as caught:
            database.run("SELECT 1", {})
    finally:
        os.kill(cast("int", frozen), signal.SIGCONT)

    assert caught.value.retryable
    assert database.run("SELECT 1", {}) == [[(1,)]]


async def test_a_connection_lost_at_each_statement_loses_nothing(
    server: Server, service: Service, client: AsyncPerkamoClient, outbox: OwnOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds its session ended the first time; catches a claim or settlement that is taken for done."""
    run, calls, seen = Database._run, 0, set[str]()

    def cut_off(self: Database, script: bytes, parameters: Any) -> Any:
        nonlocal calls
        calls += 1
        statement = f"{script!r} {[value for name, value in parameters.items() if name in {'delivered', 'lows'}]}"
        if statement not in seen:
            seen.add(statement)
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perkamo'")
        return run(self, script, parameters)

    await put(outbox, 250)
    await outbox.stats()
    monkeypatch.setattr(Database, "_run", cut_off)
    with anyio.fail_after(50), suppress(PerkamoOutboxError):  # the counting at its end finds its session ended, too
        await outbox.drain(client, concurrency=1)
    monkeypatch.undo()
    stats = await outbox.stats()

    assert len(seen) >= 3
    assert calls > len(seen)
    assert (stats.delivered, stats.pending) == (250, 0)
    assert len(service.applied) == 250


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
            as_reader._clock = as_reader._postgres._clock = HardlyWaiting()
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
            outbox._clock = outbox._postgres._clock = HardlyWaiting()
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


async def test_a_drain_into_a_read_only_database_is_told(
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


async def test_a_pool_is_used_as_it_is_and_left_as_it_was(
    server: Server, schema: str, client: AsyncPerkamoClient
) -> None:
    """Without prepared statements, and with its own way to commit; an async pool is refused."""
    with ConnectionPool(server.dsn, min_size=1, max_size=2, kwargs={"prepare_threshold": 0}) as pool:
        async with PostgresOutbox(pool, schema=schema) as outbox:
            outbox._clock = HardlyWaiting()
            with pool.connection() as connection:
                for number in range(9):
                    outbox.put(connection, event(number))
            stats = await outbox.drain(client)
        with pool.connection() as connection:
            left = connection.autocommit, connection.execute("SELECT name FROM pg_prepared_statements").fetchall()

    assert stats.delivered == 9
    assert left[0] is False
    async with AsyncConnectionPool(server.dsn, open=False) as wrong:
        with pytest.raises(PerkamoConfigurationError, match="event loop"):
            PostgresOutbox(wrong)  # type: ignore[arg-type]


async def test_an_outbox_without_a_dsn_only_puts(client: AsyncPerkamoClient) -> None:
    """And says so at everything else; catches a relay that waits for ever."""
    outbox = PostgresOutbox()

    for call in (outbox.stats(), outbox.check(), outbox.drain(client), outbox.requeue(), outbox.rebind(client)):
        with pytest.raises(PerkamoConfigurationError, match="without a DSN"):
            await call
    with pytest.raises(PerkamoConfigurationError, match="without a DSN"):
        async with outbox.relay(client):
            pass
    await outbox.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks of POSIX")
def test_a_forked_child_has_connections_of_its_own(server: Server, schema: str) -> None:
    """And the parent's go on; catches two processes in one session."""
    database = Database(server.dsn)
    mine = database.run("SELECT pg_backend_pid()", {})
    child = os.fork()
    if child == 0:
        os._exit(database.run("SELECT pg_backend_pid()", {}) == mine)
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert database.run("SELECT pg_backend_pid()", {}) == mine
    database.close()


@pytest.mark.stress
async def test_a_poison_event_among_many_thousand(service: Service, outbox: OwnOutbox) -> None:
    """100,000 others pass it by, each sent once by a client that is patient enough for a busy machine."""
    service.answer = lambda events, _: 422 if any(one["transaction_id"] == "review_50000" for one in events) else None
    await put(outbox, 100_001)

    async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as client:
        stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead, stats.pending) == (100_000, 1, 0)
    assert max(service.applied.values()) == 1
