"""The operations guide's commands for an outbox in PostgreSQL, each run as a process."""

import psycopg
import pytest

from perkamo import outbox_schema
from perkamo.sandbox import Sandbox
from tests.outbox.postgres.server import Server
from tests.outbox.test_recipes import IN_POSTGRES, run


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
