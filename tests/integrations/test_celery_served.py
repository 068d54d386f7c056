"""integrations.celery: a shop under gunicorn, and a worker that delivers; both are killed, and requests fail."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.integrations.servers import buy_all, environment, five_percent_faults, running, wait_until_applied

SHOP: Final = ("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0")
WORKER: Final = ("celery", "-A", "tests.integrations.celery_shop:celery", "worker", "--concurrency", "2", "--loglevel")
QUIET: Final = ("INFO", "--without-gossip", "--without-mingle", "--without-heartbeat")


def siege(sandbox: Sandbox, folder: Path, *, orders: int, kills: int, pool: str = "prefork") -> None:
    """Buy, while requests fail and processes are killed; in the end every committed order has counted once."""
    ids = [f"order_{number}" for number in range(orders)]
    env = environment(
        sandbox,
        SHOP_DATABASE=str(folder / "shop.sqlite3"),
        SHOP_QUEUE=str(folder / "queue"),
        SHOP_KILLS=",".join(ids[5 : 5 + kills]),
    )
    shop = (*SHOP, "tests.integrations.celery_shop:create_app()")
    with five_percent_faults(sandbox), running(*shop, env=env) as server:
        port = int(server.find(r"http://127\.0\.0\.1:([0-9]+)"))
        server.find("Booting worker", times=2)
        with running(*WORKER, *QUIET, "--pool", pool, env=env) as worker:
            worker.find("ready")
            buy_all(port, [f"/orders/{one}/paid-by-worker?amount=1" for one in ids], server, kills=kills)
            with closing(sqlite3.connect(env["SHOP_DATABASE"])) as database:
                assert {row[0] for row in database.execute("SELECT id FROM orders")} == set(ids)
            wait_until_applied(sandbox, ids)
    assert len(list((folder / "queue").glob("killed-*"))) == kills
    assert "ResourceWarning" not in "".join(worker.output)
    assert "customer_123" not in "".join(worker.output)


def test_every_committed_order_counts_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """A short siege of the shop and of the worker's processes; catches a task that is lost with its process."""
    siege(sandbox, tmp_path, orders=40, kills=2)


@pytest.mark.parametrize("pool", ["threads", pytest.param("gevent", marks=pytest.mark.stress)])
def test_a_worker_of_another_pool_delivers(pool: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Threads and greenlets share one client; catches a client that hangs under gevent."""
    siege(sandbox, tmp_path, orders=10, kills=0, pool=pool)


@pytest.mark.stress
def test_every_committed_order_counts_once_after_ten_kills(sandbox: Sandbox, tmp_path: Path) -> None:
    """The long siege."""
    siege(sandbox, tmp_path, orders=600, kills=10)
