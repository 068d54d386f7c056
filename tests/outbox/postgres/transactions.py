"""What the tests of puts share."""

from perkamo import Event
from tests.outbox.postgres.server import Server


def event(name: object, amount: int = 1, customer: str = "customer") -> Event:
    """Make an event that is the same each time."""
    return Event(
        customer, "purchase.completed", f"order-{name}", {"amount": amount}, occurred_at="2026-06-01T10:00:00.000Z"
    )


def kept(server: Server, schema: str) -> list[str]:
    """Return the transaction ids that wait, oldest first."""
    return [row[0] for row in server.execute(f'SELECT transaction_id FROM "{schema}".events ORDER BY id')]
