"""integrations.django under its real servers: 5 % of all requests fail and workers are killed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import django
import pytest

from perkamo.sandbox import Sandbox, Status
from tests.integrations.servers import ROOT, Shop, besiege, environment, running

SERVERS: Final = {
    "gunicorn": (
        *("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0"),
        "tests.integrations.django_shop.wsgi",
    ),
    "gthread": (
        *("gunicorn", "--worker-class", "gthread", "--threads", "4", "--workers", "2", "--bind", "127.0.0.1:0"),
        "tests.integrations.django_shop.wsgi",
    ),
    "uvicorn": ("uvicorn", "--workers", "2", "--port", "0", "tests.integrations.django_shop.asgi:application"),
}
READY: Final = {"gunicorn": "Booting worker", "gthread": "Booting worker", "uvicorn": "Application startup complete"}


@pytest.fixture
def shop(sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """The environment of a shop with a database and an outbox of its own."""
    env = environment(
        sandbox,
        DJANGO_SETTINGS_MODULE="tests.integrations.django_shop.settings",
        SHOP_DATABASE=str(tmp_path / "shop.sqlite3"),
        PERKAMO_OUTBOX=str(tmp_path / "outbox"),
    )
    return migrated(env)


def migrated(env: dict[str, str]) -> dict[str, str]:
    """Make the tables of a shop, and return its environment."""
    words = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(words, cwd=ROOT, env=env, check=True)
    return env


def shop_of(name: str, env: Mapping[str, str]) -> Shop:
    """The shop under one of the servers, with a relay beside it."""
    return Shop(SERVERS[name], READY[name], env, lambda: committed(env), ("django", "perkamo_relay"))


def committed(env: Mapping[str, str]) -> set[str]:
    """Return the orders in the shop's database."""
    with closing(sqlite3.connect(env["SHOP_DATABASE"])) as database:
        return {row[0] for row in database.execute("SELECT id FROM shop_order")}


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("gunicorn", "paid"),
        pytest.param("gthread", "paid-without-outbox", marks=pytest.mark.stress),
        pytest.param("uvicorn", "paid-async", marks=pytest.mark.stress),
    ],
)
def test_every_committed_order_counts_once(name: str, view: str, shop: dict[str, str], sandbox: Sandbox) -> None:
    """A short siege of each way; catches an event lost between commit and service, and one that counts twice."""
    besiege(shop_of(name, shop), view, sandbox, orders=40, kills=1)


@pytest.mark.release
@pytest.mark.parametrize("view", ["paid", "paid-without-outbox", "paid-async"])
@pytest.mark.parametrize("name", SERVERS)
def test_every_committed_order_counts_once_after_ten_kills(
    name: str, view: str, shop: dict[str, str], sandbox: Sandbox
) -> None:
    """The long siege, of every way under every server."""
    besiege(shop_of(name, shop), view, sandbox, orders=600, kills=10)


@pytest.mark.stress
@pytest.mark.skipif(django.VERSION < (6,), reason="Django has tasks of its own from 6.0 on")
def test_every_committed_order_counts_once_by_a_task_of_djangos_own(shop: dict[str, str], sandbox: Sandbox) -> None:
    """By a backend that can defer, and its worker; catches a task that is not tried again, and one that is lost."""
    pytest.importorskip("django_tasks_db")
    env = migrated({**shop, "SHOP_TASKS": "database"})
    worker = ("django", "db_worker", "--interval", "0.05")
    by_task = Shop(SERVERS["gunicorn"], READY["gunicorn"], env, lambda: committed(env), worker, "Starting worker")
    sandbox.faults.next("POST /v1/events", Status(503), times=30)  # the first ten tries of a task, with all attempts

    besiege(by_task, "paid-by-task", sandbox, orders=200, kills=5)


def test_the_relay_ends_at_sigterm_and_keeps_what_waits(shop: dict[str, str], sandbox: Sandbox) -> None:
    """As a supervisor ends it; catches a relay that has to be killed."""
    with running("django", "perkamo_relay", env=shop) as relay:
        relay.find("Delivering")

    assert relay.process.returncode == 0, "".join(relay.output)


def test_the_sandbox_runs_as_a_command_of_django(shop: dict[str, str]) -> None:
    """With the options of our own command; catches a command that Django's own options stop."""
    with running("django", "perkamo_sandbox", "--port", "0", env={**shop, "PATH": os.defpath}) as process:
        process.find(r"http://127\.0\.0\.1:([0-9]+)")
