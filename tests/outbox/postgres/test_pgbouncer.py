"""Through PgBouncer in transaction mode, which gives each transaction whatever session is free."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import anyio
import psycopg
import pytest

from perkamo import AsyncPerkamoClient, Event, PostgresOutbox
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.postgres.server import Server
from tests.outbox.service import Service

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="needs pgbouncer; .ci/run installs it"),
]


@pytest.fixture
def anyio_backend() -> str:
    """What is tested is below the event loop."""
    return "asyncio"


@pytest.fixture
def bouncer(server: Server) -> Iterator[str]:
    """A PgBouncer with two sessions for everybody; yields its DSN."""
    folder = server.directory / "bouncer"
    folder.mkdir()
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host={server.directory}\n"
        f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 50\nlogfile =\n"
        "ignore_startup_parameters = extra_float_digits,options\n"
    )
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        user = {"user": "nobody", "group": folder.stat().st_gid, "extra_groups": []}
    command = [str(shutil.which("pgbouncer")), "-q", str(folder / "pgbouncer.ini")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, **user)
    dsn = f"postgresql://postgres@/postgres?host={folder}&port=6432"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.01)
        yield dsn
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder)


async def test_puts_and_relays_share_two_sessions(
    bouncer: str, server: Server, schema: str, service: Service, client: AsyncPerkamoClient
) -> None:
    """Trap 6: no prepared statement, setting or lock outlives a transaction; catches 26000, 42P05 and wrong rows."""
    outboxes = [PostgresOutbox(bouncer, schema=schema, space="shop") for _ in range(3)]
    for outbox in outboxes:
        by_clock(outbox, HardlyWaiting())

    async def put(name: int) -> None:
        connection = await psycopg.AsyncConnection.connect(bouncer, prepare_threshold=None)
        async with connection:
            for number in range(60):
                await outboxes[0].aput(connection, Event("customer", "review.created", f"review_{name}_{number}"))
                await connection.commit()

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for name in range(4):
                tasks.start_soon(put, name)
        async with anyio.create_task_group() as tasks:
            for outbox in outboxes:
                tasks.start_soon(outbox.drain, client)
    stats = await outboxes[0].stats()
    left = server.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    with psycopg.connect(bouncer, autocommit=True, prepare_threshold=None) as connection:
        prepared = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
        settings = connection.execute("SHOW synchronous_commit").fetchall()
    for outbox in outboxes:
        await outbox.aclose()

    assert (stats.delivered, stats.pending, stats.dead) == (240, 0, 0)
    assert sorted(service.applied.values()) == [1] * 240
    assert (left, prepared, settings) == ([(0,)], [], [("on",)])
