"""What the tests of Outbox share."""

from collections.abc import Callable

import anyio

from perkamo.events import Event
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.store import OutboxStats

BATCH = "POST /v1/events:batch"


def event(number: int, **context: str) -> Event:
    """Make an event with an id of its own."""
    return Event(f"customer_{number}", "purchase.completed", f"order_{number}", {"amount": 5, **context})


async def settled(outbox: Outbox, condition: Callable[[OutboxStats], bool]) -> OutboxStats:
    """Wait until the counts are as wished, checking the law of conservation all the while."""
    with anyio.fail_after(20):
        while True:
            stats = await outbox.stats()
            assert stats.accepted == stats.delivered + stats.pending + stats.dead
            if condition(stats):
                return stats
            await anyio.sleep(0.005)
