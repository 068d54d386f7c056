"""The sync twins: threads share batches, outboxes and streams through the one loop of the process."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perkamo.batching.sync_batcher import SyncBatcher
from perkamo.batching.sync_bulk import sync_emit_many
from perkamo.errors import PerkamoApiError, PerkamoClosedError
from perkamo.events import Event
from perkamo.models import EventIngestResponse
from perkamo.outbox.errors import PerkamoOutboxConflictError
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.sandbox import Sandbox, Status
from perkamo.sync_client import PerkamoClient

BATCH = "POST /v1/events:batch"


@pytest.fixture
def sync_client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A sync client of the sandbox."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        yield client


def test_callers_in_different_threads_share_batches(sandbox: Sandbox, sync_client: PerkamoClient) -> None:
    """Thirty threads that emit at the same moment make one request, and each gets its own result."""
    results: dict[int, EventIngestResponse] = {}
    together = threading.Barrier(30)

    def emit(number: int) -> None:
        together.wait()
        results[number] = batcher.emit(f"customer_{number}", "purchase.completed", {"amount": 100 * (number + 1)})

    with SyncBatcher(sync_client, max_delay=2.0, max_events=30) as batcher:
        threads = [threading.Thread(target=emit, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert len(sandbox.requests) == 1
    assert {number: result.wallet_state["points"] for number, result in results.items()} == {
        number: number + 1 for number in range(30)
    }


def test_a_sync_batcher_tells_errors_and_closes(sandbox: Sandbox, sync_client: PerkamoClient) -> None:
    """Errors reach the calling thread, and after the block nothing is taken any more."""
    sandbox.faults.next(BATCH, Status(422), times=1)

    with SyncBatcher(sync_client) as batcher, pytest.raises(PerkamoApiError):
        batcher.emit("customer", "review.created")

    with pytest.raises(PerkamoClosedError):
        batcher.emit("customer", "review.created")


def test_a_sync_outbox_keeps_relays_and_counts(sandbox: Sandbox, sync_client: PerkamoClient, tmp_path: Path) -> None:
    """Put, relay in the background, drain, dead letters and counts, all from plain threads."""
    sandbox.faults.next(BATCH, Status(422), times=1)
    with SyncOutbox(tmp_path) as outbox:
        outbox.put(Event("u", "review.created", "dead"))
        refused = outbox.drain(sync_client)
        with pytest.raises(PerkamoOutboxConflictError):
            outbox.put(Event("other", "review.created", "dead"))
        letters = [letter.transaction_id for letter in outbox.dead()]
        requeued = outbox.requeue()
        with outbox.relay(sync_client) as relay:
            for number in range(50):
                outbox.put(Event("u", "review.created", f"review_{number}"))
            deadline = time.monotonic() + 20
            while outbox.stats().pending and time.monotonic() < deadline:
                time.sleep(0.005)
        stats = outbox.stats()

    assert (refused.dead, letters, requeued, relay.trouble) == (1, ["dead"], 1, None)
    assert (stats.accepted, stats.delivered, stats.pending, len(sandbox.events())) == (51, 51, 0, 51)


def test_an_exception_in_a_relay_block_reaches_the_caller(sync_client: PerkamoClient, tmp_path: Path) -> None:
    """The background ends with the block, however it is left, and swallows nothing."""
    with SyncOutbox(tmp_path) as outbox, pytest.raises(ZeroDivisionError), outbox.relay(sync_client):
        raise ZeroDivisionError


def test_putters_in_many_threads_share_commits(tmp_path: Path) -> None:
    """Sixteen threads, each put acknowledged, none lost and none twice."""
    with SyncOutbox(tmp_path) as outbox:

        def put(name: int) -> None:
            for number in range(25):
                outbox.put(Event("u", "e", f"{name}_{number}"))

        threads = [threading.Thread(target=put, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert outbox.stats().accepted == 400


def test_a_stream_is_read_in_the_callers_thread(sandbox: Sandbox, sync_client: PerkamoClient) -> None:
    """The caller's generator may block, and may use the sync client itself, without freezing the loop of all."""
    threads: set[int] = set()

    def stream() -> Iterator[Event]:
        for number in range(450):
            threads.add(threading.get_ident())
            if number % 200 == 0:
                sync_client.program()
            yield Event(f"customer_{number}", "review.created", f"review_{number}")

    outcomes = list(sync_emit_many(sync_client, stream(), concurrency=1))

    assert threads == {threading.get_ident()}
    assert [outcome.position for outcome in outcomes] == list(range(450))
    assert all(outcome.error is None for outcome in outcomes)
    assert len(sandbox.events()) == 450


def test_a_script_that_closes_nothing_ends_soon_and_loses_nothing(tmp_path: Path) -> None:
    """P15: the relay and the outbox of a legacy script must not hold up its exit."""
    script = """
import sys
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.sync_client import PerkamoClient
client = PerkamoClient("sk_test_x", base_url="http://localhost:9")
outbox = SyncOutbox(sys.argv[1])
relay = outbox.relay(client)
relay.__enter__()
for number in range(20):
    outbox.put({"user_id": "u", "event": "e", "transaction_id": str(number)})
"""
    started = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0
    assert time.monotonic() - started < 25
    with SyncOutbox(tmp_path) as outbox:
        assert outbox.stats().pending == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_batcher_stays_with_the_process_that_entered_it(sandbox: Sandbox) -> None:
    """A forked child's emit raises at once; catches a wait for tasks that only the parent has."""
    with (
        PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client,
        SyncBatcher(client, max_delay=0.01) as batcher,
    ):
        assert batcher.emit("u", "e").accepted
        pid = os.fork()
        if pid == 0:
            try:
                batcher.emit("u", "e")
            except PerkamoClosedError:
                os._exit(3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert batcher.emit("u", "e").accepted
