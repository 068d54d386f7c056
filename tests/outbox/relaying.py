"""What the tests of relays share."""

from collections.abc import Callable

import anyio

from perkamo import Event, Outbox, OutboxStats


def event(name: str | int) -> Event:
    """Make an event."""
    return Event("customer", "review.created", f"review_{name}")


async def settled(outbox: Outbox, condition: Callable[[OutboxStats], bool]) -> OutboxStats:
    """Wait until the counts are as wished."""
    with anyio.fail_after(30):
        while True:
            stats = await outbox.stats()
            if condition(stats):
                return stats
            await anyio.sleep(0.01)
