"""integrations.celery: a shop under gunicorn, and a worker that delivers; both are killed, and requests fail."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.integrations.orders import saved
from tests.integrations.servers import PATIENCE, Server, Shop, besiege, children, environment, is_stopped

SHOP: Final = ("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0")
WORKER: Final = ("celery", "-A", "tests.integrations.celery_shop:celery", "worker", "--concurrency", "2", "--loglevel")
QUIET: Final = ("INFO", "--without-gossip", "--without-mingle", "--without-heartbeat")


def siege(sandbox: Sandbox, folder: Path, *, orders: int, kills: int, pool: str = "prefork") -> None:
    """Buy, while requests fail and processes of both sides are killed; each committed order has counted once."""
    queue, database = folder / "queue", folder / "shop.sqlite3"
    for name in ("messages", "control"):
        (queue / name).mkdir(parents=True)
    env = environment(sandbox, SHOP_DATABASE=str(database), SHOP_QUEUE=str(queue))
    shop = Shop(
        (*SHOP, "tests.integrations.celery_shop:create_app()"),
        "Booting worker",
        env,
        lambda: saved(database),
        (*WORKER, *QUIET, "--pool", pool),
        "ready",
    )
    besiege(shop, "paid-by-worker", sandbox, orders=orders, kills=kills, kill_more=partial(kill_delivering, queue))


def kill_delivering(queue: Path, worker: Server, chance: random.Random) -> bool:
    """Kill a process of the pool at any moment of a delivery; see ``celery_shop.MarkingClient`` for why not at others.

    It is stopped first, so that it is still there where it was when the signal comes that kills it.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        process = chance.choice(children(worker.process.pid))
        os.kill(process, signal.SIGSTOP)
        if is_stopped(process) and (queue / f"delivers-{process}").exists():
            os.kill(process, signal.SIGKILL)
            return True
        os.kill(process, signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.01))
    return False


@pytest.mark.stress
def test_every_committed_order_counts_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """A short siege of the shop and of the worker's processes; catches a task that is lost with its process."""
    siege(sandbox, tmp_path, orders=40, kills=1)


@pytest.mark.release
@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_worker_of_another_pool_delivers(pool: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Threads and greenlets share one client; catches a client that hangs under gevent."""
    siege(sandbox, tmp_path, orders=10, kills=0, pool=pool)


@pytest.mark.release
def test_every_committed_order_counts_once_after_ten_kills(sandbox: Sandbox, tmp_path: Path) -> None:
    """The long siege."""
    siege(sandbox, tmp_path, orders=600, kills=10)
