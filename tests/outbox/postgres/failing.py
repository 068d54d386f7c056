"""What the tests of faults share."""

from perkamo import Event, PostgresOutbox
from tests.outbox.postgres.conftest import OwnOutbox


def event(number: object) -> Event:
    """Make an event."""
    return Event("customer", "review.created", f"review_{number}")


async def put(outbox: OwnOutbox, number: int) -> None:
    """Put so many events."""
    PostgresOutbox.put_many(outbox, outbox.application, [event(one) for one in range(number)], autocommit=True)
