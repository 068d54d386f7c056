"""A process that forks applications and relays which work until they are killed; started by ``test_kills.py``.

It reads ``app NAME``, ``hasty NAME`` (an application that commits asynchronously) or ``relay NAME`` from its input,
forks, and tells the worker's pid. What an application committed is what its table of orders holds in the end.
"""

import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

import anyio
import anyio.to_thread
import psycopg

from perkamo import AsyncPerkamoClient, Event, PostgresOutbox
from perkamo.outbox import relay
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import wholly_by_clock

LEASE_SECONDS = 1.5
"""What a dead relay had taken is free again after this; long enough for a request, short enough for a test."""


class Restless(Clock):
    """Draws short waits."""

    def randomness(self) -> float:
        """Return little."""
        return 0.02


def take_orders(name: str, dsn: str, settings: str) -> None:
    """Take orders until killed, each with its event in one transaction, some of which are rolled back."""
    chance = random.Random(name)
    outbox = PostgresOutbox(space="shop")
    numbers = count()
    while True:
        with suppress(psycopg.OperationalError), psycopg.connect(dsn, options=settings) as connection:
            while True:
                business = f"{name}-{next(numbers)}"
                connection.execute("INSERT INTO orders VALUES (%s)", (business,))
                event = Event("customer", "purchase.completed", f"tx-{business}", {"business": business})
                outbox.put(connection, event)
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                signal.sigtimedwait([], chance.uniform(0, 0.01))


async def deliver(dsn: str, url: str, key: str) -> None:
    """Relay until killed."""
    outbox = PostgresOutbox(dsn, space="shop")
    wholly_by_clock(outbox, Restless())
    async with AsyncPerkamoClient(key, base_url=url, timeout=1.0) as client, outbox.relay(client):
        await anyio.sleep_forever()


def work(kind: str, name: str, arguments: Sequence[str]) -> None:
    """Become a worker."""
    dsn, url, key = arguments
    relay.TIMEOUT = LEASE_SECONDS / 2  # type: ignore[misc]
    if kind == "relay":
        anyio.run(deliver, dsn, url, key)
    else:
        take_orders(name, dsn, "-c synchronous_commit=off" if kind == "hasty" else "")


async def warm_up(url: str, key: str) -> None:
    """Load what is loaded lazily, so that workers need not."""
    async with AsyncPerkamoClient(key, base_url=url) as client:
        await client.program()
    await anyio.to_thread.run_sync(lambda: None)


def main() -> None:
    """Fork a worker for every line of input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    anyio.run(warm_up, sys.argv[2], sys.argv[3])
    for line in sys.stdin:
        kind, name = line.split()
        child = os.fork()
        if child == 0:
            os.close(0)
            try:
                work(kind, name, sys.argv[1:])
            finally:
                os._exit(0)
        print(child, flush=True)  # noqa: T201 - the pipe to the test


if __name__ == "__main__":
    main()
