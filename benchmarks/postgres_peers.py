"""Other queues in PostgreSQL, doing the nearest thing: row 35. Their handlers do nothing; a relay posts over HTTP."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from statistics import median
from typing import Any, Final, TypeAlias

import asyncpg

from benchmarks.bare import has
from benchmarks.results import Row
from benchmarks.rounds import Effort
from tests.outbox.postgres.server import Server

_BODY: Final = "x" * 250
_Peer: TypeAlias = Callable[[Server, int], Coroutine[Any, Any, float]]


def peer_rows(server: Server, effort: Effort, ours: float) -> list[Row]:
    """Measure row 35, with those peers that are installed: ``pip install procrastinate pgqueuer``.

    Args:
        server: Where their tables are made.
        effort: How long to measure.
        ours: Events per second of a relay in the same run.
    """
    rows = [Row("35", "wall: one relay from PostgreSQL, events per second", ours, unit="")]
    for name, peer in _PEERS.items():
        if not has(name):
            rows.append(Row("35", f"not installed: {name}"))
            continue
        rates = [asyncio.run(peer(server, effort.times(2_000))) for _ in range(effort.rounds)]
        what = f"wall: {name}, a handler that does nothing, jobs per second"
        rows.append(Row("35", what, median(rates), unit="", samples=rates))
    return rows


async def _procrastinate(server: Server, number: int) -> float:
    """Run eight jobs at a time, which are deleted when done."""
    procrastinate: Any = import_module("procrastinate")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=server.dsn))

    @app.task(name="nothing")  # type: ignore[untyped-decorator]
    async def nothing(body: str) -> None:
        """Do nothing."""

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await nothing.batch_defer_async(*({"body": _BODY} for _ in range(number)))
        begin = time.perf_counter()
        await app.run_worker_async(
            wait=False, concurrency=8, install_signal_handlers=False, delete_jobs="always", listen_notify=False
        )
        return number / (time.perf_counter() - begin)


async def _pgqueuer(server: Server, number: int) -> float:
    """Take a hundred jobs at a time."""
    pgqueuer: Any = import_module("pgqueuer")
    types: Any = import_module("pgqueuer.types")
    connection = await asyncpg.connect(host=str(server.directory), user="postgres", database="postgres")
    driver = import_module("pgqueuer.db").AsyncpgDriver(connection)
    queries = import_module("pgqueuer.queries").Queries(driver)
    if await connection.fetchval("SELECT to_regclass('pgqueuer') IS NULL"):
        await queries.install()
    queue = pgqueuer.PgQueuer(driver)

    @queue.entrypoint("nothing")  # type: ignore[untyped-decorator]
    async def nothing(_job: object) -> None:
        """Do nothing."""

    await queries.enqueue(["nothing"] * number, [_BODY.encode()] * number, [0] * number)
    begin = time.perf_counter()
    await queue.run(batch_size=100, mode=types.QueueExecutionMode.drain)
    seconds = time.perf_counter() - begin
    await connection.close()
    return number / seconds


_PEERS: Final[Mapping[str, _Peer]] = {"procrastinate": _procrastinate, "pgqueuer": _pgqueuer}
