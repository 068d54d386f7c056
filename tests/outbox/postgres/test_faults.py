"""What fails between a relay and its database: which errors pass, connections that are lost, and pools."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from perkamo import (
    AsyncPerkamoClient,
    PerkamoConfigurationError,
    PerkamoOutboxError,
    PostgresOutbox,
)
from perkamo.postgres import Database, DatabaseFailure
from tests.outbox.clocks import HardlyWaiting, by_clock
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


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """Connections to the server."""
    database = Database(server.dsn)
    yield database
    database.close()


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
    """A missing right or table, or a bug; catches a command that waits forever."""
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
        pool.connection(timeout=30),
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


async def test_a_pool_is_used_as_it_is_and_left_as_it_was(
    server: Server, schema: str, client: AsyncPerkamoClient
) -> None:
    """Without prepared statements, and with its own way to commit; an async pool is refused."""
    with ConnectionPool(server.dsn, min_size=1, max_size=2, kwargs={"prepare_threshold": 0}) as pool:
        async with PostgresOutbox(pool, schema=schema) as outbox:
            by_clock(outbox, HardlyWaiting())
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
    """And says so at everything else; catches a relay that waits forever."""
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


@pytest.mark.release
async def test_a_poison_event_among_many_thousand(service: Service, outbox: OwnOutbox) -> None:
    """100,000 others pass it by, each sent once by a client that is patient enough for a busy machine."""
    service.answer = lambda events, _: 422 if any(one["transaction_id"] == "review_50000" for one in events) else None
    await put(outbox, 100_001)

    async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as client:
        stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead, stats.pending) == (100_000, 1, 0)
    assert max(service.applied.values()) == 1
