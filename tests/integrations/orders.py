"""The orders of a shop that has no framework's database: a table in SQLite, in the file ``SHOP_DATABASE``."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from perkamo import Event


def connect(path: str | Path | None = None) -> sqlite3.Connection:
    """Open the shop's database.

    Args:
        path: Its file; the one that the environment names when None.
    """
    return sqlite3.connect(path or os.environ["SHOP_DATABASE"], timeout=20, isolation_level=None)


def create_table() -> None:
    """Make the table, unless another worker has made it."""
    with closing(connect()) as database:
        database.execute("CREATE TABLE IF NOT EXISTS orders(id TEXT PRIMARY KEY, amount INTEGER, paid_at TEXT)")


def save(order_id: str, amount: int) -> Event:
    """Save an order, once, and say what it means, in the same bytes each time."""
    now = datetime.now(UTC).isoformat()
    with closing(connect()) as database:
        database.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?)", (order_id, amount, now))
        amount, paid_at = database.execute("SELECT amount, paid_at FROM orders WHERE id = ?", (order_id,)).fetchone()
    return event_of(order_id, amount, paid_at)


def event_of(order_id: str, amount: int, paid_at: str) -> Event:
    """Say what an order means."""
    return Event("customer_123", "purchase.completed", order_id, {"order": order_id, "amount": amount}, paid_at)


def saved(path: str | Path) -> set[str]:
    """Return the ids of the orders in a database."""
    with closing(connect(path)) as database:
        return {row[0] for row in database.execute("SELECT id FROM orders")}
