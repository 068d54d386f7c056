"""``perkamo outbox … postgresql://…``: the same commands as for a directory, and no password in any output."""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from perkamo import Event, PostgresOutbox, outbox_schema
from perkamo.sandbox import Sandbox
from tests.outbox.postgres.server import Server


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """The commands are the same on each."""
    version: int = request.param
    return version


def perkamo(*words: str, sandbox: Sandbox | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does."""
    if sandbox is not None:
        variables |= {"PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url}
    return subprocess.run(
        [sys.executable, "-m", "perkamo", "outbox", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_make_the_tables(server: Server) -> None:
    """From nothing to a schema in which nothing is missing; catches a command that knows directories alone."""
    missing = perkamo("check", server.dsn, "--schema", "by hand")
    script = perkamo("sql", "--schema", "by hand", "--order-by", "customer").stdout
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(script.encode())
        whole = perkamo("check", server.dsn, "--schema", "by hand", "--space", "shop", "--order-by", "customer")
        connection.execute('DROP SCHEMA "by hand" CASCADE')

    assert (missing.returncode, "perkamo outbox sql" in missing.stderr) == (1, True)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "Nothing is missing.\n", "")


def test_the_commands_deliver_and_see_to_the_dead(server: Server, sandbox: Sandbox) -> None:
    """Until the outbox is empty; catches a command that knows directories alone."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for statement in outbox_schema("full"):
            connection.execute(statement.encode())
        outbox = PostgresOutbox(schema="full", space="shop")
        events = [Event("customer", "purchase.completed", f"order_{n}", {"amount": 12900}) for n in range(3)]
        outbox.put_many(connection, [*events, Event("customer", "unknown.event", "order_x")], autocommit=True)

        database = (server.dsn, "--schema", "full")
        relayed = perkamo("relay", *database, "--space", "shop", "--until-empty", "--json", sandbox=sandbox)
        counted = perkamo("stats", *database, "--json")
        dead = perkamo("dead", *database, "--json")
        requeued = perkamo("requeue", *database, "--json")
        connection.execute('DROP SCHEMA "full" CASCADE')

    assert relayed.returncode == 0, relayed.stderr
    stats = json.loads(counted.stdout)
    assert (stats["accepted"], stats["delivered"] + stats["dead"], stats["pending"]) == (4, 4, 0)
    assert len(dead.stdout.splitlines()) == stats["dead"]
    assert json.loads(requeued.stdout) == {"requeued": stats["dead"]}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://shop:canary-5a1ad@127.0.0.1:1/shop",
        "postgresql://shop:canary-5a1ad@[127.0.0.1/shop",
        "postgresql://shop:canary-5a1ad@/shop?host=/nowhere",
        "postgresql://shop:canary%zz-5a1ad@127.0.0.1:1/shop",
        "postgresql+psycopg://shop:canary-5a1ad@127.0.0.1:1/shop",
        "host=127.0.0.1 port=1 user=shop password=canary-5a1ad",
    ],
)
def test_a_password_is_in_no_output(dsn: str) -> None:
    """Neither where nobody answers nor where the DSN can't be read, nor where it is taken for a directory."""
    for action in ("stats", "check"):
        done = perkamo(action, dsn)

        assert done.returncode in {1, 2}
        assert "5a1ad" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_place_is_needed(server: Server) -> None:
    """And a database is not made by looking at it."""
    nowhere = perkamo("stats")
    untouched = perkamo("stats", server.dsn, "--schema", "not there")

    assert (nowhere.returncode, "which" in nowhere.stderr) == (2, True)
    assert (untouched.returncode, "perkamo outbox sql" in untouched.stderr) == (1, True)
