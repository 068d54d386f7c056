"""All that the library does with a service, once, against a sandbox in any dialect; faults come back in words.

Among the events that are delivered is one of poison, which the service does not accept in company nor alone.
"""

import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import anyio

from perkamo import (
    AsyncPerkamoClient,
    Batcher,
    Event,
    EventFailure,
    Outbox,
    Outcome,
    PerkamoApiError,
    PerkamoClient,
    PerkamoConflictError,
    PerkamoError,
    PerkamoNotFoundError,
    RetryPolicy,
    SyncBatcher,
    SyncOutbox,
    emit_many,
    sync_emit_many,
)
from perkamo.batching.split import classify_result
from perkamo.cli.main import main
from perkamo.models import BatchIngestResponse
from perkamo.sandbox import Sandbox
from perkamo.sandbox.checks import CheckError, EventInput
from perkamo.sandbox.messages import Json

CUSTOMER = "customer_1"
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.002)
NUMBER = 6
OUTBOX_SECONDS = 30


class Report:
    """What went wrong: reads that failed, events that were lost or that counted without being accepted."""

    def __init__(self, dialect: Mapping[str, str]) -> None:
        self.wrong: list[str] = []
        self._dialect = dialect

    def note(self, what: str, *, fine: bool) -> None:
        """Take note of something that has to be so."""
        if not fine:
            self.wrong.append(what)

    def failed(self, what: str, error: Exception) -> None:
        """Take note of an error that should not be."""
        self.wrong.append(f"{what}: {type(error).__name__}: {error}")

    def has(self, name: str, alternative: str) -> bool:
        """Tell whether the service speaks so."""
        return self._dialect.get(name) == alternative

    def may_be_missing(self, what: str, error: PerkamoNotFoundError, *, if_: bool) -> None:
        """Take note of a 404, unless the service has one there."""
        if not if_:
            self.failed(what, error)

    def batch(self, answer: BatchIngestResponse) -> None:
        """Take note of the answer to a batch whose last event is poison."""
        *good, poison = answer.results
        self.note("a good event of a batch is not accepted", fine=all(one.accepted for one in good))
        self.note("poison is accepted", fine=isinstance(poison, EventFailure) and not poison.accepted)

    def outcomes(self, what: str, outcomes: Iterable[Outcome]) -> None:
        """Take note of the outcomes of a stream whose last event is poison."""
        *good, poison = outcomes
        self.note(f"{what}: an event is missing", fine=len(good) == NUMBER)
        self.note(f"{what}: a good event is not accepted", fine=all(one.result is not None for one in good))
        settled = poison.error is not None and classify_result(poison.error) in {"rejected", "undecided"}
        self.note(f"{what}: poison is not settled as a failure, {poison}", fine=settled)

    def ledger(self, sandbox: Sandbox, prefixes: Iterable[str]) -> None:
        """Take note of what the service has applied: each good event once, and no poison."""
        applied = [event.transaction_id for event in sandbox.events()]
        for prefix in prefixes:
            mine = sorted(one for one in applied if one.startswith(f"{prefix}_"))
            wanted = [f"{prefix}_{number}" for number in range(NUMBER)]
            self.note(f"{prefix}: applied are {mine}", fine=mine == wanted)


def poison(sandbox: Sandbox) -> None:
    """Let the service refuse events of poison, whatever else it refuses."""
    read = sandbox._space._read_event

    def read_event(item: Json, path: str) -> EventInput:
        event = read(item, path)
        if event.transaction_id.endswith("_poison"):
            raise CheckError(f"{path}event is not wanted")
        return event

    sandbox._space._read_event = read_event  # type: ignore[method-assign]  # a service that knows more rules


def events(prefix: str) -> list[Event]:
    """Make events of which the last is poison."""
    names = [*map(str, range(NUMBER)), "poison"]
    return [Event(CUSTOMER, "review.created", f"{prefix}_{name}", {"n": name}) for name in names]


async def run_async(sandbox: Sandbox, report: Report, folder: Path) -> None:
    """Do everything with the async client, its batcher, its stream of events and an outbox."""
    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK) as client:
        await _calls(client, sandbox, report)
        try:
            report.batch(await client.batch(events("batch")))
        except PerkamoApiError as error:
            if not report.has("batch.failed_item", "refused whole"):
                report.failed("batch", error)
        outcomes = [outcome async for outcome in emit_many(client, events("many"))]
        report.outcomes("emit_many", outcomes)
        settled: dict[str, object] = {}

        async def emit(event: Event) -> None:
            try:
                settled[str(event.transaction_id)] = await batcher.emit_event(event)
            except PerkamoError as error:
                settled[str(event.transaction_id)] = error

        async with Batcher(client) as batcher, anyio.create_task_group() as tasks:
            for event in events("batcher"):
                tasks.start_soon(emit, event)
        _batcher(report, settled)
        drained = False
        async with Outbox(folder / "outbox") as outbox:
            for event in events("outbox"):
                await outbox.put(event)
            with anyio.move_on_after(OUTBOX_SECONDS):
                stats = await outbox.drain(client)
                counts = (stats.delivered, stats.pending, stats.dead)
                report.note(f"outbox: delivered, pending and dead are {counts}", fine=counts == (NUMBER, 0, 1))
                letters = [letter.transaction_id async for letter in outbox.dead()]
                report.note(f"outbox: dead are {letters}", fine=letters == ["outbox_poison"])
                drained = True
            report.note("outbox: stands still", fine=drained)
    report.ledger(sandbox, ["many", "batcher", "outbox"])


async def _calls(client: AsyncPerkamoClient, sandbox: Sandbox, report: Report) -> None:
    async def read(what: str, call: Callable[[], Awaitable[object]], *, missing: bool = False) -> None:
        try:
            await call()
        except PerkamoNotFoundError as error:
            report.may_be_missing(what, error, if_=missing)
        except PerkamoError as error:
            report.failed(what, error)

    await read("identify", lambda: client.identify(CUSTOMER, {"name": "Ada"}))
    order = Event(CUSTOMER, "purchase.completed", "order_1", {"amount": 12900})
    for what, event, conflict in (
        ("emit", order, False),
        ("emit once more", order, report.has("duplicate.answer", "conflict")),
        ("emit otherwise", order.with_context({"amount": 1}), report.has("duplicate.other_body", "conflict")),
    ):
        try:
            result = await client.emit_event(event)
        except PerkamoConflictError as error:
            report.note(f"{what}: {error}", fine=conflict)
        except PerkamoError as error:
            report.failed(what, error)
        else:
            report.note(f"{what} is not accepted", fine=result.accepted)
    await read("customer", lambda: client.customer(CUSTOMER))
    await read("nobody", lambda: client.customer("nobody"), missing=report.has("customer.unknown", "404"))
    await read("program", client.program)
    await read("catalog", client.event_catalog)
    await read("usage", lambda: client.request("GET", "/v1/usage"), missing=report.has("usage", "missing"))
    await read("token", lambda: client.create_browser_token(sandbox.browser_key, CUSTOMER))
    try:
        token = await client.create_stream_token(sandbox.browser_key, CUSTOMER)
        async with client.subscribe_customer(CUSTOMER, token) as stream:
            await stream.receive()
    except PerkamoError as error:
        report.failed("stream", error)
    report.note("nothing of the customer is kept", fine=bool((await client.customer(CUSTOMER)).raw))


def run_sync(sandbox: Sandbox, report: Report, folder: Path) -> None:
    """Do everything with the sync client, its batcher, its stream of events and an outbox, and import a file."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK) as client:
        calls: dict[str, Callable[[], object]] = {
            "sync identify": lambda: client.identify(CUSTOMER, {"name": "Ada"}),
            "sync customer": lambda: client.customer(CUSTOMER),
            "sync program": client.program,
            "sync catalog": client.event_catalog,
            "sync token": lambda: client.create_browser_token(sandbox.browser_key, CUSTOMER),
        }
        for what, call in calls.items():
            try:
                call()
            except PerkamoError as error:
                report.failed(what, error)
        try:
            report.batch(client.batch(events("sync_batch")))
        except PerkamoApiError as error:
            if not report.has("batch.failed_item", "refused whole"):
                report.failed("sync batch", error)
        report.outcomes("sync_emit_many", sync_emit_many(client, events("sync_many")))
        settled: dict[str, object] = {}

        def emit(event: Event) -> None:
            try:
                settled[str(event.transaction_id)] = batcher.emit_event(event)
            except PerkamoError as error:
                settled[str(event.transaction_id)] = error

        with SyncBatcher(client) as batcher:
            threads = [threading.Thread(target=emit, args=(event,)) for event in events("sync_batcher")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        _batcher(report, {name.removeprefix("sync_"): one for name, one in settled.items()})
        with SyncOutbox(folder / "sync_outbox") as outbox:
            for event in events("sync_outbox"):
                outbox.put(event)
            stats = outbox.drain(client)
        counts = (stats.delivered, stats.pending, stats.dead)
        report.note(f"sync outbox: delivered, pending and dead are {counts}", fine=counts == (NUMBER, 0, 1))
    report.ledger(sandbox, ["sync_many", "sync_batcher", "sync_outbox"])
    _import(report, folder)
    report.ledger(sandbox, ["import"])


def _batcher(report: Report, settled: dict[str, object]) -> None:
    failed = settled.pop("batcher_poison", None)
    report.note("batcher: an event has no answer", fine=len(settled) == NUMBER)
    good = all(getattr(one, "accepted", False) and not isinstance(one, Exception) for one in settled.values())
    report.note(f"batcher: a good event is not accepted, {settled}", fine=good)
    report.note(
        "batcher: poison is accepted", fine=isinstance(failed, PerkamoError) and classify_result(failed) != "accepted"
    )


def _import(report: Report, folder: Path) -> None:
    file = folder / "events.jsonl"
    file.write_bytes(b"".join(event.to_bytes() + b"\n" for event in events("import")))
    rejected = folder / "events.jsonl.rejected.jsonl"
    with suppress(FileNotFoundError):
        rejected.unlink()
    code = main(["import", str(file)])
    report.note(f"import: exit code {code}", fine=code == 3)
    lines = [json.loads(line)["line"] for line in rejected.read_text("utf-8").splitlines()] if rejected.exists() else []
    report.note(f"import: refused are {lines}", fine=lines == [NUMBER + 1])
