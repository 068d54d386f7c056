"""integrations.flask under gunicorn: 5 % of all requests fail and workers are killed."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.integrations.servers import buy_all, environment, five_percent_faults, running, wait_until_applied

SHOP: Final = ("--workers", "2", "--bind", "127.0.0.1:0", "tests.integrations.flask_shop:create_app()")
SERVERS: Final = {
    "preload": ("gunicorn", "--preload", *SHOP),
    "gthread": ("gunicorn", "--worker-class", "gthread", "--threads", "4", *SHOP),
}


def siege(name: str, view: str, sandbox: Sandbox, folder: Path, *, orders: int, kills: int) -> None:
    """Buy, while requests fail and workers are killed; in the end every committed order has counted once."""
    ids = [f"order_{number}" for number in range(orders)]
    outbox = folder / "outbox"
    outbox.mkdir(mode=0o700)
    env = environment(sandbox, SHOP_DATABASE=str(folder / "shop.sqlite3"), PERKAMO_OUTBOX=str(outbox))
    with five_percent_faults(sandbox), running("perkamo", "outbox", "relay", str(outbox), env=env) as relay:
        relay.find("Delivering")
        with running(*SERVERS[name], env=env) as server:
            port = int(server.find(r"http://127\.0\.0\.1:([0-9]+)"))
            server.find("Booting worker", times=2)
            buy_all(port, [f"/orders/{one}/{view}?amount=1" for one in ids], server, kills=kills)
        with closing(sqlite3.connect(env["SHOP_DATABASE"])) as database:
            assert {row[0] for row in database.execute("SELECT id FROM orders")} == set(ids)
        wait_until_applied(sandbox, ids)


@pytest.mark.parametrize(("name", "view"), [("preload", "paid"), ("gthread", "paid-without-outbox")])
def test_every_committed_order_counts_once(name: str, view: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """A short siege of each way; catches a client that hangs after the fork, and an order that counts twice."""
    siege(name, view, sandbox, tmp_path, orders=60, kills=2)


@pytest.mark.stress
@pytest.mark.parametrize("view", ["paid", "paid-without-outbox"])
@pytest.mark.parametrize("name", SERVERS)
def test_every_committed_order_counts_once_after_ten_kills(
    name: str, view: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The long siege, of every way under every server."""
    siege(name, view, sandbox, tmp_path, orders=600, kills=10)
