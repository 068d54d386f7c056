"""The guide's programs, as they are pasted, against a server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import perkamo
from perkamo import outbox_schema
from perkamo.sandbox import Sandbox
from tests.outbox.postgres.drivers import sqlalchemy_url
from tests.outbox.postgres.server import Server

GUIDE = Path(perkamo.__file__).parent / "outbox" / "postgres" / "README.md"
PROGRAMS = dict(
    re.findall(r"^```python file=(\w+)\.py\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)
SETTINGS = """
import os, django
from django.conf import settings
database = {"NAME": "postgres", "USER": "postgres", "HOST": os.environ["SHOP_HOST"]}
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}})
django.setup()
"""


@pytest.mark.parametrize("server_version", [18])
def test_the_shops_and_the_relay_of_the_guide_run(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    """Each shop takes an order and its event, and the relay delivers all three; catches a guide that was never run."""
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE orders (id text, amount integer)")
        for statement in outbox_schema():
            connection.execute(statement.encode())
    environment = {
        **os.environ,
        "SHOP_DSN": server.dsn,
        "SHOP_URL": sqlalchemy_url(server.dsn, "psycopg").render_as_string(),
        "SHOP_HOST": str(server.directory),
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
    }

    shops = [name for name in PROGRAMS if name.startswith("shop_")]
    code = "".join(f"import {shop}; {shop}.take_order('{shop}', 'customer', 1)\n" for shop in shops)
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    subprocess.run([sys.executable, "-c", SETTINGS + code], check=True, env=environment, cwd=tmp_path)
    subprocess.run([sys.executable, "relay.py"], check=True, env=environment, cwd=tmp_path)

    with psycopg.connect(server.dsn) as connection:
        orders = connection.execute("SELECT id FROM orders").fetchall()
        connection.execute("DROP TABLE orders")
        connection.execute("DROP SCHEMA perkamo CASCADE")
    assert [order for (order,) in orders] == shops == ["shop_sqlalchemy", "shop_psycopg", "shop_django"]
    assert [event.transaction_id for event in sandbox.events()] == shops
