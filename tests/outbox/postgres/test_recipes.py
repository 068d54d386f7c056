"""The operations guide's commands for an outbox in PostgreSQL, each run as a process."""

import re

import psycopg
import pytest

from perkamo import Event, PostgresOutbox, outbox_schema
from perkamo.sandbox import Sandbox
from tests.outbox.postgres.server import Server
from tests.outbox.test_recipes import GUIDE, IN_POSTGRES, run


@pytest.fixture
def server_version() -> int:
    """The commands ask nothing of a version: one is enough."""
    return 18


@pytest.fixture
def dsn(server: Server) -> str:
    """A database with the outbox's tables where the guide has them."""
    server.execute("DROP DATABASE IF EXISTS recipes WITH (FORCE)")
    server.execute("CREATE DATABASE recipes")
    dsn = server.dsn.replace("/postgres?", "/recipes?")
    with psycopg.connect(dsn) as connection:
        for statement in outbox_schema():
            connection.execute(statement.encode())
    return dsn


@pytest.mark.parametrize("command", IN_POSTGRES, ids=" ".join)
def test_a_command_of_the_guide_runs(command: list[str], dsn: str, sandbox: Sandbox) -> None:
    """With a database and a port of the test's own; catches an option that was renamed, or never was."""
    run([dsn if word.startswith("postgresql://") else word for word in command], sandbox)


def test_there_are_commands() -> None:
    """Catches a pattern that finds none."""
    assert {command[2] for command in IN_POSTGRES} == {"check", "relay"}


def test_the_guide_erases_one_customer_and_nothing_else(dsn: str) -> None:
    """Waiting events and dead letters; catches SQL for tables that have changed."""
    [erase] = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
    outbox = PostgresOutbox()
    dead = (
        "INSERT INTO perkamo.dead_letters (space, transaction_id, customer, put_at, reason, body) "
        "SELECT space, 'dead_' || transaction_id, customer, put_at, 'refused', body FROM perkamo.events"
    )
    with psycopg.connect(dsn) as connection:
        for customer in ("customer_123", "customer_to_keep"):
            outbox.put(connection, Event(customer, "review.created", f"review_of_{customer}"))
        connection.execute(dead)

        connection.execute(erase.encode())

        left = connection.execute(
            "SELECT customer FROM perkamo.events UNION ALL SELECT customer FROM perkamo.dead_letters"
        ).fetchall()

    assert left == [("customer_to_keep",), ("customer_to_keep",)]
