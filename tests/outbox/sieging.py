"""A process that forks workers which put and relay whatever is done to them; started by ``test_siege.py``.

It reads a line for each worker: ``work NAME`` puts and relays in the besieged directory until SIGTERM; ``drain PATH``
delivers what is in a copy of it. A worker appends the business id of every acknowledged put to a ledger, in one write
that survives its death, and its name to a list when it has ended as it should.

SIGUSR1 sets the worker's clock to another time, SIGUSR2 leaves it without descriptors for a moment.
"""

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count

import anyio
import anyio.to_thread

from perkamo import AsyncPerkamoClient, Event, Outbox, PerkamoOutboxError
from perkamo.outbox.sqlite import tables
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import by_clock
from tests.outbox.service import POISONS

PUTTERS = 3
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
FAMINE_SECONDS = 0.3


class Restless(Clock):
    """Draws short waits."""

    def randomness(self) -> float:
        """Return little."""
        return random.uniform(0, 0.05)


class Worker:
    """Puts and relays until SIGTERM."""

    def __init__(self, name: str, directory: str, ledger: str) -> None:
        self.name = name
        self.outbox = Outbox(directory, max_bytes=4_000_000)
        by_clock(self.outbox, Restless())
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND)
        self.numbers = count()

    async def put(self, business: str, **context: str) -> None:
        """Put an event, and note it once it was acknowledged."""
        event = Event("customer", "purchase.completed", f"tx-{business}", {"business": business, **context})
        try:
            await self.outbox.put(event)
        except PerkamoOutboxError:
            await anyio.sleep(0.05)
        else:
            os.write(self.ledger, f"{business}\n".encode())

    async def put_some(self) -> None:
        """Put one event after the other."""
        while True:
            await self.put(f"{self.name}-{next(self.numbers)}", text="x" * random.randrange(400))
            await anyio.sleep(random.uniform(0, 0.01))

    async def obey(self, scope: anyio.CancelScope) -> None:
        """Do what signals say."""
        with anyio.open_signal_receiver(*SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            async for number in signals:
                if number == signal.SIGTERM:
                    scope.cancel()
                elif number == signal.SIGUSR1:
                    plant(tables, "_wall_time", partial(time_ahead, random.uniform(-1e8, 1e8)))
                else:
                    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                    await anyio.sleep(FAMINE_SECONDS)
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def run(self, url: str) -> None:
        """Work."""
        async with (
            AsyncPerkamoClient("sk_test_siege", base_url=url, timeout=0.5) as client,
            self.outbox,
            self.outbox.relay(client),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self.obey, tasks.cancel_scope)
            if self.name == "worker-0":
                for kind in POISONS:
                    await self.put(f"poison-{kind}")
            for _ in range(PUTTERS):
                tasks.start_soon(self.put_some)


def plant(owner: object, name: str, value: object) -> None:
    """Put something in the place of what the library has."""
    setattr(owner, name, value)


def time_ahead(offset: float) -> float:
    """Return the time of a clock that is wrong."""
    return time.time() + offset


def work(name: str, arguments: Sequence[str]) -> None:
    """Become a worker, and note that it ended as it should."""
    directory, url, ledger, ends = arguments
    end = os.open(ends, os.O_WRONLY | os.O_APPEND)
    anyio.run(Worker(name, directory, ledger).run, url)
    os.write(end, f"{name}\n".encode())


async def drain(path: str, url: str) -> None:
    """Deliver what is in a copy."""
    outbox = Outbox(path)
    by_clock(outbox, Restless())
    with suppress(PerkamoOutboxError), anyio.move_on_after(5):
        async with AsyncPerkamoClient("sk_test_siege", base_url=url, timeout=0.5) as client, outbox:
            await outbox.drain(client)


async def warm_up() -> None:
    """Load what is loaded lazily, so that workers need not."""
    async with AsyncPerkamoClient("sk_test_siege", base_url=sys.argv[2]) as client:
        await client.batch([Event("warm", "up", "tx-warm-up", {"business": "warm-up"})])


def main() -> None:
    """Fork a worker for every line of input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    anyio.run(warm_up)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the worker is ready for them
    for line in sys.stdin:
        what, name = line.split()
        child = os.fork()
        if child == 0:
            os.close(0)
            random.seed(name)
            if what == "work":
                work(name, sys.argv[1:])
            else:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                anyio.run(drain, name, sys.argv[2])
            os._exit(0)
        print(child, flush=True)  # noqa: T201 - the pipe to the test


if __name__ == "__main__":
    main()
