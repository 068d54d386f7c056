"""integrations.fastapi under uvicorn: 5 % of all requests fail and workers are killed."""

from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.integrations.orders import saved
from tests.integrations.servers import Shop, besiege, environment

SERVER: Final = ("uvicorn", "--workers", "2", "--port", "0", "tests.integrations.fastapi_shop:app")


def shop_of(sandbox: Sandbox, folder: Path) -> Shop:
    """A shop with a database and an outbox of its own."""
    outbox, database = folder / "outbox", folder / "shop.sqlite3"
    outbox.mkdir(mode=0o700)
    env = environment(sandbox, SHOP_DATABASE=str(database), PERKAMO_OUTBOX=str(outbox))
    relay = ("perkamo", "outbox", "relay", str(outbox))
    return Shop(SERVER, "Application startup complete", env, lambda: saved(database), relay)


@pytest.mark.stress
def test_every_committed_order_counts_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """A short siege; catches an event that is lost with its worker, and one that counts twice."""
    besiege(shop_of(sandbox, tmp_path), "paid", sandbox, orders=40, kills=1)


@pytest.mark.release
@pytest.mark.parametrize("view", ["paid", "paid-without-outbox"])
def test_every_committed_order_counts_once_after_ten_kills(view: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """The long siege of each way."""
    besiege(shop_of(sandbox, tmp_path), view, sandbox, orders=600, kills=10)
