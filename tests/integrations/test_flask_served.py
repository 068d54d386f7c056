"""integrations.flask under gunicorn: 5 % of all requests fail and workers are killed."""

from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.integrations.orders import saved
from tests.integrations.servers import Shop, besiege, environment

SHOP: Final = ("--workers", "2", "--bind", "127.0.0.1:0", "tests.integrations.flask_shop:create_app()")
SERVERS: Final = {
    "preload": ("gunicorn", "--preload", *SHOP),
    "gthread": ("gunicorn", "--worker-class", "gthread", "--threads", "4", *SHOP),
}


def shop_of(name: str, sandbox: Sandbox, folder: Path) -> Shop:
    """A shop with a database and an outbox of its own."""
    outbox, database = folder / "outbox", folder / "shop.sqlite3"
    outbox.mkdir(mode=0o700)
    env = environment(sandbox, SHOP_DATABASE=str(database), PERKAMO_OUTBOX=str(outbox))
    relay = ("perkamo", "outbox", "relay", str(outbox))
    return Shop(SERVERS[name], "Booting worker", env, lambda: saved(database), relay)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "view"), [pytest.param("preload", "paid", marks=pytest.mark.stress), ("gthread", "paid-without-outbox")]
)
def test_every_committed_order_counts_once(name: str, view: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """A short siege of each way; catches a client that hangs after the fork, and an order that counts twice."""
    besiege(shop_of(name, sandbox, tmp_path), view, sandbox, orders=40, kills=1)


@pytest.mark.release
@pytest.mark.parametrize("view", ["paid", "paid-without-outbox"])
@pytest.mark.parametrize("name", SERVERS)
def test_every_committed_order_counts_once_after_ten_kills(
    name: str, view: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The long siege, of every way under every server."""
    besiege(shop_of(name, sandbox, tmp_path), view, sandbox, orders=600, kills=10)
