"""The tables of an outbox in PostgreSQL: the statements that make them, by version, and whether they are there."""

from importlib.resources import files
from typing import Final, cast

from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.postgres import Rows, fill, quoted_schema

SCHEMA_VERSION: Final = 1
"""The version of the tables that this release works with."""
CUSTOMER_INDEX: Final = "events_by_customer"

STATE: Final = """\
SELECT to_regclass(%(table)s) IS NOT NULL, to_regclass(%(index)s) IS NOT NULL,
  current_setting('server_encoding'), current_setting('server_version_num')::integer"""
"""Asks for what ``missing`` judges, beside the version."""

_TABLES: Final = ("version", "events", "dead_letters", "deliveries", "spaces", "webhook_deliveries")
RIGHTS: Final = """\
SELECT name, found.oid IS NOT NULL, has_schema_privilege(found.relnamespace, 'USAGE'), ARRAY(
  SELECT needed FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
  WHERE NOT has_table_privilege(found.oid, needed)
)
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS given(name, number)
LEFT JOIN pg_class AS found ON relname = name AND relnamespace = to_regnamespace(%(schema)s)
ORDER BY number"""
"""Asks for what ``lacking`` judges; it needs no right itself."""


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
        text = fill(text, {"schema": quoted, "schema_text": literal})
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


def tables_of(quoted: str) -> dict[str, object]:
    """Return the parameters of ``RIGHTS``.

    Args:
        quoted: The schema, as an identifier.
    """
    return {"schema": quoted, "tables": list(_TABLES)}


def lacking(rights: Rows) -> list[str]:
    """Say which tables a relay would not find, and which it may not use, a sentence each.

    Args:
        rights: What ``RIGHTS`` returned. Where there is no table at all, ``missing`` says so.
    """
    there = [(name, is_visible, denied) for name, is_there, is_visible, denied in rights if is_there]
    if not there:
        return []
    found = [f"The table {name} is missing." for name, is_there, *_ in rights if not is_there]
    if not all(is_visible for _, is_visible, _ in there):
        found.append("A relay needs USAGE on the schema, which this role lacks.")
    for name, _, denied in there:
        if denied:
            found.append(f"A relay needs {', '.join(cast('list[str]', denied))} on {name}, which this role lacks.")
    return found


def refuse(problems: list[str]) -> None:
    """Raise an error if anything is missing.

    Raises:
        PerkamoOutboxStorageError: It names what.
    """
    if problems:
        raise PerkamoOutboxStorageError(" ".join(problems) + " Nothing was changed.")
