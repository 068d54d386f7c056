"""Every committed order is applied once, and nothing that was rolled back or undone, whoever is killed.

Three applications, one of which commits asynchronously, and three relays are killed at random; the database is stopped
as by a crash and started again; the service loses requests and answers.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import anyio
import psycopg
import pytest

from perkamo import AsyncPerkamoClient, OutboxStats, PostgresOutbox, outbox_schema
from perkamo.sandbox import Lost, Reset, Sandbox, Status
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.postgres.server import Server

CRASHES = 5
SCRIPT = Path(__file__).with_name("killing.py")
KINDS = ("app", "app", "hasty", "relay", "relay", "relay")


@pytest.fixture(params=[18, 16])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may crash, whose log is written late, so that a crash undoes what is not waited for."""
    server = Server(request.param, {"wal_writer_delay": "2s"})
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Workers:
    """The processes, each replaced by one of its kind when it is killed."""

    def __init__(self, server: Server, sandbox: Sandbox) -> None:
        command = [sys.executable, str(SCRIPT), server.dsn, sandbox.base_url, sandbox.api_key]
        self._forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._numbers = count()
        self._pids = [self._start(kind) for kind in KINDS]

    def kill(self, place: int) -> None:
        """Kill one, and start the next."""
        os.kill(self._pids[place], signal.SIGKILL)
        self._pids[place] = self._start(KINDS[place])

    def close(self) -> None:
        """Kill all of them."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        self._forker.communicate()

    def _start(self, kind: str) -> int:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(f"{kind} {kind}-{next(self._numbers)}\n")
        self._forker.stdin.flush()
        return int(self._forker.stdout.readline())


def judge(server: Server, sandbox: Sandbox) -> tuple[set[str], Counter[str], OutboxStats]:
    """Deliver what waits with a healthy service; return the orders, what was applied how often, and the counts."""
    sandbox.faults.clear()

    async def drain() -> OutboxStats:
        async with (
            AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client,
            PostgresOutbox(server.dsn, space="shop") as outbox,
        ):
            by_clock(outbox, HardlyWaiting())
            return await outbox.drain(client)

    stats = anyio.run(drain)
    orders = {str(order) for (order,) in server.execute("SELECT id FROM orders")}
    return orders, Counter(str(event.context["business"]) for event in sandbox.events()), stats


def run_shop(server: Server, sandbox: Sandbox, kills: int, crashes: int) -> None:
    """Kill so many processes at random, and crash the database so many times meanwhile."""
    chance = random.Random(1804)
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE orders (id text PRIMARY KEY)")
        for statement in outbox_schema():
            connection.execute(statement.encode())
    sandbox.faults.rate(0.05, Reset(before="apply"), seed=1)
    sandbox.faults.rate(0.05, Status(503), seed=2)
    sandbox.faults.rate(0.05, Lost(), seed=3)
    with ExitStack() as stack:
        workers = Workers(server, sandbox)
        stack.callback(workers.close)
        at = set(chance.sample(range(1, kills), crashes))
        for number in range(kills):
            time.sleep(chance.uniform(0.05, 0.3))
            workers.kill(chance.randrange(len(KINDS)))
            if number in at:
                server.crash()
        time.sleep(0.3)


def check(server: Server, sandbox: Sandbox, kills: int) -> None:
    """Compare what was ordered with what was applied."""
    orders, applied, stats = judge(server, sandbox)

    assert len(orders) > kills
    assert {order for order in orders if order not in applied} == set(), "committed and lost"
    assert {order for order in applied if order not in orders} == set(), "rolled back or undone, and applied"
    assert max(applied.values()) == 1
    assert (stats.pending, stats.dead) == (0, 0)


def test_a_short_run_of_kills_loses_nothing(own_server: Server, sandbox: Sandbox) -> None:
    """The bounded version of the next one."""
    run_shop(own_server, sandbox, kills=12, crashes=2)

    check(own_server, sandbox, kills=12)


@pytest.mark.stress
@pytest.mark.parametrize("kills", [100, pytest.param(1000, marks=pytest.mark.release)])
@pytest.mark.parametrize("own_server", [18, pytest.param(16, marks=pytest.mark.release)], indirect=True)
def test_every_committed_order_is_applied_once_and_no_other(own_server: Server, sandbox: Sandbox, kills: int) -> None:
    """So many kills, and five crashes of the database; catches a lost order and a ghost event."""
    run_shop(own_server, sandbox, kills, CRASHES)

    check(own_server, sandbox, kills)
