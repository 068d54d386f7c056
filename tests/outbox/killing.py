"""A process that forks workers which put and relay until they are killed; started by ``test_kills.py``.

It has everything loaded, so that a worker lives within milliseconds: it reads ``name mutant point`` from its input,
forks, and tells the worker's pid. A worker appends the business id of every acknowledged put to a ledger, in one write
that survives its death. ``mutant`` plants a bug that the judge must catch; ``point`` is where the worker kills itself.
"""

import os
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from perkamo.batching.split import EventResult, send_batch
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoError, PerkamoServerError
from perkamo.events import EncodedEvent, Event
from perkamo.models import EventIngestResponse
from perkamo.outbox import relay
from perkamo.outbox.directory import Directory
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.sqlite import store
from perkamo.outbox.sqlite.database import Database
from perkamo.outbox.sqlite.tables import Tables
from perkamo.outbox.store import Lease
from perkamo.outbox.writer import Job
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import by_clock


def die() -> NoReturn:
    """End as a power cut or the kernel's memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def plant(owner: object, name: str, value: object) -> None:
    """Put something in the place of what the library has."""
    setattr(owner, name, value)


# Planted bugs. Each is what a tracker in the wild does.


def acknowledge_before_commit() -> None:
    """Answer a put as soon as it is in the writer's queue."""

    async def put(self: store.SqliteStore, transaction_id: str, space: str, body: bytes, _: object = None) -> None:
        self._writer._submit(Job(lambda tables: tables.put(transaction_id, space, body, 1 << 30), 0, lambda: None))

    plant(store.SqliteStore, "put", put)


def delete_before_send() -> None:
    """Let go of events when they are taken."""
    take = Tables.take

    def take_and_delete(self: Tables, *args: Any) -> Lease:
        lease = take(self, *args)
        self.connection.executemany("DELETE FROM events WHERE id = ?", [(event.row,) for event in lease.events])
        return lease

    plant(Tables, "take", take_and_delete)


def drop_on_503() -> None:
    """Take a 503 for an answer."""

    async def send(
        client: AsyncPerkamoClient,
        events: Sequence[EncodedEvent],
        *,
        halve: Callable[[PerkamoError], bool],
        continue_on_error: bool,
    ) -> list[EventResult]:
        results = await send_batch(client, events, halve=halve, continue_on_error=continue_on_error)
        fake = EventIngestResponse(
            applied=True, duplicate=False, delta=(), leveled_up=False, unlocked=(), wallet_state={}
        )
        return [fake if isinstance(result, PerkamoServerError) else result for result in results]

    plant(relay, "send_batch", send)


def new_id_on_resend() -> None:
    """Make a transaction id for each sending."""

    async def send(client: AsyncPerkamoClient, events: Iterable[EncodedEvent], **options: Any) -> list[EventResult]:
        renamed = [Event.from_bytes(one.body).with_transaction_id(f"tx_{secrets.token_hex(8)}") for one in events]
        return await send_batch(client, renamed, **options)

    plant(relay, "send_batch", send)


MUTANTS = {
    mutant.__name__: mutant for mutant in (acknowledge_before_commit, delete_before_send, drop_on_503, new_id_on_resend)
}


# Points at which a worker kills itself.


class DyingConnection(sqlite3.Connection):
    """Dies around the statement it was told."""

    dies_before: tuple[str, str | None] | None = None
    dies_after: tuple[str, str | None] | None = None
    seen: str = ""

    def execute(self, sql: str, parameters: object = ()) -> sqlite3.Cursor:
        """Run a statement, or die before or after it."""
        self._die(self.dies_before, sql)
        cursor = super().execute(sql, parameters)  # type: ignore[arg-type]
        self._die(self.dies_after, sql)
        type(self).seen = sql if sql.startswith("BEGIN") else self.seen + sql
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        """Run a statement several times, or die before or after it."""
        rows = list(parameters)
        if not rows:
            return super().executemany(sql, rows)
        self._die(self.dies_before, sql)
        cursor = super().executemany(sql, rows)
        self._die(self.dies_after, sql)
        type(self).seen = self.seen + sql
        return cursor

    def _die(self, at: tuple[str, str | None] | None, sql: str) -> None:
        if at is not None and f"{sql.strip()};".startswith(at[0]) and (at[1] is None or at[1] in self.seen):
            die()


def at_statement(prefix: str, *, after: bool = False, needed: str | None = None) -> Callable[[], None]:
    """Die around a statement, if another was run in the same transaction."""

    def arm() -> None:
        plant(DyingConnection, "dies_after" if after else "dies_before", (prefix, needed))
        connect = sqlite3.connect
        plant(sqlite3, "connect", lambda *args, **options: connect(*args, factory=DyingConnection, **options))

    return arm


def at_call(owner: object, name: str, *, after: bool = False) -> Callable[[], None]:
    """Die before or after a function."""

    def arm() -> None:
        original = getattr(owner, name)

        def dying(*args: object, **options: object) -> object:
            if not after:
                die()
            original(*args, **options)
            die()

        plant(owner, name, dying)

    return arm


def once_acknowledged() -> None:
    """Die before the first put is committed, once it was acknowledged; with nothing acknowledged by then, live."""
    commit = Tables.write_counts

    def dying(self: Tables) -> None:
        ledger = Path(sys.argv[4])
        if self.counts.pending:
            deadline = time.monotonic() + 10
            while not ledger.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.001)
            if ledger.stat().st_size:
                die()
        commit(self)

    plant(Tables, "write_counts", dying)


def after_response() -> None:
    """Die when the answer is there and nothing was made of it."""
    batch = AsyncPerkamoClient.batch

    async def dying(self: AsyncPerkamoClient, events: Sequence[Event]) -> NoReturn:
        await batch(self, events)
        die()

    plant(AsyncPerkamoClient, "batch", dying)


PUT, LEASED, SETTLED, MADE = (
    "INSERT INTO events",
    "INSERT INTO leases",
    "DELETE FROM events WHERE",
    "CREATE TABLE counts",
)
POINTS: dict[str, Callable[[], None]] = {
    "before-insert": at_statement(PUT),
    "after-insert": at_statement(PUT, after=True),
    "before-commit": at_statement("COMMIT", needed=PUT),
    "after-commit": at_statement("COMMIT", after=True, needed=PUT),
    "before-record": at_statement("PRAGMA page_count", needed=PUT),
    "once-acknowledged": once_acknowledged,
    "before-lease-commit": at_statement("COMMIT", needed=LEASED),
    "after-lease-commit": at_statement("COMMIT", after=True, needed=LEASED),
    "before-send": at_call(AsyncPerkamoClient, "batch"),
    "after-send": lambda: None,  # the test's service kills the worker when the request has come
    "after-response": after_response,
    "before-delete-commit": at_statement("COMMIT", needed=SETTLED),
    "after-delete-commit": at_statement("COMMIT", after=True, needed=SETTLED),
    "after-joining": at_call(Directory, "join", after=True),
    "before-closing": at_call(Database, "_close"),
    "after-closing": at_call(Database, "_close", after=True),
    "in-schema-creation": at_statement(MADE),
    "before-schema-commit": at_statement("COMMIT", needed=MADE),
    "after-schema-commit": at_statement("COMMIT", after=True, needed=MADE),
    "before-carrying-is-done": at_statement("DELETE FROM leases;"),
    "after-carrying-is-done": at_statement("PRAGMA wal_checkpoint", after=True),
}


class Restless(Clock):
    """Draws short waits."""

    def randomness(self) -> float:
        """Return little."""
        return 0.02


async def work(name: str, ledger: int, directory: str, url: str, key: str, puts: int) -> None:  # noqa: PLR0917
    """Put and relay until killed."""
    outbox = Outbox(directory)
    by_clock(outbox, Restless())
    loses_its_files = "carrying" in name
    numbers = count() if loses_its_files else iter(range(puts))
    acknowledged = anyio.Event()

    def take_files_away(_: Tables) -> None:
        for path in Path(directory).iterdir():
            path.unlink()

    async def put_some() -> None:
        for number in numbers:
            business = f"{name}-{number}"
            event = Event(f"customer-{number % 7}", "purchase.completed", f"tx-{business}", {"business": business})
            await outbox.put(event)
            os.write(ledger, f"{business}\n".encode())
            acknowledged.set()
            await anyio.sleep(0.001)

    async with (
        AsyncPerkamoClient(key, base_url=url) as client,
        outbox.relay(client),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(8):
            tasks.start_soon(put_some)
        if loses_its_files:
            await acknowledged.wait()
            await outbox._sqlite._writer.do(take_files_away)
        if "closing" not in name:
            await anyio.sleep_forever()
    await outbox.aclose()


def run_worker(name: str, mutant: str, point: str, arguments: Sequence[str]) -> None:
    """Become a worker."""
    if mutant in MUTANTS:
        MUTANTS[mutant]()
    if point in POINTS:
        POINTS[point]()
    directory, url, key, path, puts = arguments
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND)
    anyio.run(work, name, ledger, directory, url, key, int(puts))


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
        name, mutant, point = line.split()
        child = os.fork()
        if child == 0:
            os.close(0)
            run_worker(name, mutant, point, sys.argv[1:])
            os._exit(0)
        print(child, flush=True)  # noqa: T201 - the pipe to the test


if __name__ == "__main__":
    main()
