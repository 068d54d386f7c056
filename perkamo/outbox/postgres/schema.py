"""The tables of an outbox in PostgreSQL: the statements that make them, by version, and whether they are there."""

from importlib.resources import files
from typing import Final

from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.postgres import Rows, quoted_schema

SCHEMA_VERSION: Final = 1
"""The version of the tables that this release works with."""
CUSTOMER_INDEX: Final = "events_by_customer"

STATE: Final = """\
SELECT to_regclass(%(table)s) IS NOT NULL, to_regclass(%(index)s) IS NOT NULL,
  current_setting('server_encoding'), current_setting('server_version_num')::integer"""
"""Asks for what ``missing`` judges, beside the version."""


def outbox_schema(schema: str = "perkamo", *, after: int = 0, order_by_customer: bool = False) -> tuple[str, ...]:
    """Return the SQL statements that make the outbox's tables, or bring older ones to this version.

    Each is to be executed by itself, all in one transaction, by a role that may create tables; for instance in a
    migration of Alembic's: ``for statement in outbox_schema(): op.execute(statement)``. No extension is needed.

    Args:
        schema: The schema that they are in; made where it does not exist.
        after: The version that is there already; 0 for none.
        order_by_customer: Also make the index that ``order_by="customer"`` needs.

    Returns:
        The statements, without semicolons at their ends.

    Raises:
        PerkamoConfigurationError: ``schema`` can't be the name of one.
    """
    names = [f"{number:04}" for number in range(after + 1, SCHEMA_VERSION + 1)]
    names += ["order_by_customer"] if order_by_customer else []
    quoted = quoted_schema(schema)
    literal = "'" + quoted.replace("'", "''") + "'"
    statements: list[str] = []
    for name in names:
        text = (files("perkamo.outbox.postgres") / "migrations" / f"{name}.sql").read_text("utf-8")
        text = text.replace("{schema_text}", literal).replace("{schema}", quoted)
        statements += [statement.strip() for statement in text.split(";\n")]
    return tuple(statement for statement in statements if statement)


def missing(state: Rows, version: int | None, *, order_by_customer: bool) -> list[str]:
    """Say what is missing in the database, a sentence each.

    Args:
        state: What ``STATE`` returned.
        version: The version of the tables; None where there are none.
        order_by_customer: Whether the index for it is needed.
    """
    [(_, has_index, encoding, server)] = state
    found: list[str] = []
    if not isinstance(server, int) or server < 130_000:
        found.append("PostgreSQL 13 or later is needed.")
    if encoding != "UTF8":
        found.append(f"The database's encoding is {encoding}; UTF8 is needed for all ids.")
    if version is None:
        found.append("The tables are missing: run the SQL that 'perkamo outbox sql' prints.")
    elif version < SCHEMA_VERSION:
        found.append(
            f"The tables are of version {version}, and this release needs {SCHEMA_VERSION}: run the SQL that "
            f"'perkamo outbox sql --after {version}' prints."
        )
    elif version > SCHEMA_VERSION:
        found.append(
            f"The tables are of version {version}, made by a newer release; this one knows up to {SCHEMA_VERSION}. "
            "Use that release, or a newer one."
        )
    if version is not None and order_by_customer and not has_index:
        found.append("The index for order_by='customer' is missing: run 'perkamo outbox sql --order-by customer'.")
    return found


def refuse(problems: list[str]) -> None:
    """Raise an error if anything is missing.

    Raises:
        PerkamoOutboxStorageError: It names what.
    """
    if problems:
        raise PerkamoOutboxStorageError(" ".join(problems) + " Nothing was changed.")
