"""Two shops of thirty lines, killed 25 times each: every committed order is delivered, and no other."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import psycopg
import pytest

from perkamo import AsyncPerkamoClient, OutboxStats, PostgresOutbox, outbox_schema
from perkamo.sandbox import Sandbox
from tests.outbox.postgres.drivers import sqlalchemy_url
from tests.outbox.postgres.server import Server

KILLS = 25
FORKS = """
import os, signal, sys
import {shop} as shop
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for name in sys.stdin:
    child = os.fork()
    if child == 0:
        shop.take_orders(name.strip())
    print(child, flush=True)
"""
"""Everything is loaded once, so that a shop takes orders within milliseconds."""


@pytest.mark.stress
@pytest.mark.parametrize("server_version", [18])
@pytest.mark.parametrize("shop", ["shop_sqlalchemy", "shop_django"])
def test_a_shop_that_is_killed_loses_no_order(shop: str, server: Server, sandbox: Sandbox) -> None:
    """Killed at any moment, also between its commit and what comes next; catches an event beside the transaction."""
    chance = random.Random(25)
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE orders (id text PRIMARY KEY, amount integer)")
        for statement in outbox_schema():
            connection.execute(statement.encode())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "SHOP_URL": sqlalchemy_url(server.dsn, "psycopg").render_as_string(),
        "SHOP_HOST": str(server.directory),
    }
    command = [sys.executable, "-c", FORKS.format(shop=shop)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        for number in range(KILLS):
            forker.stdin.write(f"shop-{number}\n")
            forker.stdin.flush()
            pid = int(forker.stdout.readline())
            taken = f"SELECT 1 FROM orders WHERE id LIKE 'shop-{number}-%'"
            while not server.execute(taken):  # it has begun
                pass
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
        forker.stdin.close()

    async def drain() -> OutboxStats:
        async with (
            AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client,
            PostgresOutbox(server.dsn, space="shop") as outbox,
        ):
            return await outbox.drain(client)

    stats = anyio.run(drain)
    orders = Counter(str(order) for (order,) in server.execute("SELECT id FROM orders"))
    server.execute("DROP TABLE orders")
    server.execute("DROP SCHEMA perkamo CASCADE")

    assert len(orders) >= KILLS
    assert Counter(event.transaction_id for event in sandbox.events()) == orders
    assert (stats.delivered, stats.pending, stats.dead) == (len(orders), 0, 0)
