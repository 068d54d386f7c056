"""A process that forks workers which put and relay until they are killed; started by ``test_kills.py``.

It has everything loaded, so that a worker lives within milliseconds: it reads ``name mutant point`` from its input,
forks, and tells the worker's pid. A worker appends the business id of every acknowledged put to a ledger, in one write
that survives its death. ``mutant`` plants a bug that the judge must catch; ``point`` is where the worker kills itself.
"""

import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from itertools import count
from typing import NoReturn

import anyio
import anyio.to_thread

from perkamo.batching import pacing
from perkamo.batching.split import EventResult, send_batch
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoError, PerkamoServerError
from perkamo.events import Event
from perkamo.models import EventIngestResponse
from perkamo.outbox import outbox as outbox_module
from perkamo.outbox import relay
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.sqlite import slots, spool
from perkamo.outbox.sqlite.spool import SpoolFile, StoredEvent
from perkamo.outbox.sqlite.writer import Job, Writer


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

    async def ask(writer: Writer, action: Callable[[SpoolFile], object]) -> None:
        writer.submit(Job(action, lambda: None))

    plant(outbox_module, "ask", ask)


def delete_before_send() -> None:
    """Let go of events when they are taken."""
    take = SpoolFile.take

    def take_and_delete(self: SpoolFile, space: bytes, max_events: int, max_size: int) -> list[StoredEvent]:
        rows = take(self, space, max_events, max_size)
        self.settle(rows, [])
        return rows

    plant(SpoolFile, "take", take_and_delete)


def drop_on_503() -> None:
    """Take a 503 for an answer."""

    async def send(
        client: AsyncPerkamoClient,
        events: Sequence[Event],
        *,
        halve: Callable[[PerkamoError], bool],
        continue_on_error: bool,
    ) -> list[EventResult]:
        told = await send_batch(client, events, halve=halve, continue_on_error=continue_on_error)
        fake = EventIngestResponse(
            applied=True, duplicate=False, delta=(), leveled_up=False, unlocked=(), wallet_state={}
        )
        return [fake if isinstance(answer, PerkamoServerError) else answer for answer in told]

    plant(relay, "send_batch", send)


def new_id_on_resend() -> None:
    """Make a transaction id for each sending."""
    read = relay._read

    def read_with_new_ids(
        rows: Sequence[StoredEvent],
    ) -> tuple[list[tuple[StoredEvent, Event]], list[tuple[StoredEvent, str]]]:
        readable, refused = read(rows)
        return [(row, event.with_transaction_id(f"tx_{random.random()}")) for row, event in readable], refused

    plant(relay, "_read", read_with_new_ids)


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
        for prefix, needed in filter(None, [self.dies_before]):
            if sql.startswith(prefix) and (needed is None or needed in self.seen):
                die()
        cursor = super().execute(sql, parameters)  # type: ignore[arg-type]
        for prefix, needed in filter(None, [self.dies_after]):
            if sql.startswith(prefix) and (needed is None or needed in self.seen):
                die()
        self.seen = sql if sql.startswith("BEGIN") else self.seen + sql
        return cursor


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


def after_response() -> None:
    """Die when the answer is there and nothing was made of it."""
    batch = AsyncPerkamoClient.batch

    async def dying(self: AsyncPerkamoClient, events: Sequence[Event]) -> NoReturn:
        await batch(self, events)
        die()

    plant(AsyncPerkamoClient, "batch", dying)


POINTS: dict[str, Callable[[], None]] = {
    "before-insert": at_statement("INSERT INTO pending"),
    "after-insert": at_statement("INSERT INTO pending", after=True),
    "before-commit": at_statement("COMMIT", needed="INSERT INTO pending"),
    "after-commit": at_statement("COMMIT", after=True, needed="INSERT INTO pending"),
    "before-return": at_call(Job, "finish"),
    "before-send": at_call(AsyncPerkamoClient, "batch"),
    "after-send": lambda: None,  # the test's service kills the worker when the request has come
    "after-response": after_response,
    "before-delete-commit": at_statement("COMMIT", needed="DELETE FROM pending"),
    "after-delete-commit": at_statement("COMMIT", after=True, needed="DELETE FROM pending"),
    "in-adoption": at_call(slots.Slots, "_open_if_left_behind", after=True),
    "before-giving-back": at_call(SpoolFile, "close"),
    "after-giving-back": at_call(SpoolFile, "close", after=True),
    "in-schema-creation": at_statement("CREATE TABLE counts"),
    "before-schema-commit": at_statement("COMMIT", needed="CREATE TABLE counts"),
    "in-rescue-before-rename": at_call(spool, "install_rescued"),
    "in-rescue-after-rename": at_call(spool, "install_rescued", after=True),
}


async def work(name: str, ledger: int, directory: str, url: str, key: str, puts: int) -> None:  # noqa: PLR0917
    """Put and relay until killed."""
    outbox = Outbox(directory)
    numbers = count() if "rescue" in name else iter(range(puts))

    async def put_some() -> None:
        for number in numbers:
            business = f"{name}-{number}"
            event = Event(f"customer-{number % 7}", "purchase.completed", f"tx-{business}", {"business": business})
            try:
                await outbox.put(event)
            except PerkamoOutboxStorageError:  # the file was removed while it was being opened
                continue
            os.write(ledger, f"{business}\n".encode())
            await anyio.sleep(0.001)

    async with (
        AsyncPerkamoClient(key, base_url=url) as client,
        outbox.relay(client),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(8):
            tasks.start_soon(put_some)
        while "rescue" in name:
            await anyio.sleep(0.02)
            held = outbox._writer.held
            if held is not None:  # once, and no file of another: what is removed while nobody has it open is lost
                await (anyio.Path(directory) / f"events-{held[0]:04}.sqlite3").unlink()
                await anyio.sleep_forever()
        if "giving-back" not in name:
            await anyio.sleep_forever()
    await outbox.aclose()


def run_worker(name: str, mutant: str, point: str, arguments: Sequence[str]) -> None:
    """Become a worker."""
    plant(pacing, "FIRST_WAIT", 0.01)
    plant(outbox_module, "_LOOK_AGAIN", 0.05)
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
