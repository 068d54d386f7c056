"""Outbox: what was put is delivered once, whoever relays it and whatever ends a process."""

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.outbox.errors import PerkamoOutboxConflictError, PerkamoOutboxFullError
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.sqlite.tables import Tables
from perkamo.outbox.store import OutboxStats
from perkamo.runtime.event_loop import caller_into_loop
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request
from tests.outbox.putting import BATCH, event, settled

pytestmark = pytest.mark.anyio


async def test_what_was_put_is_delivered_while_the_relay_runs(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """The ordinary case: events put before and during the relay arrive, byte for byte and in order."""
    await outbox.put(event(0))

    async with outbox.relay(client):
        for number in range(1, 250):
            await outbox.put(event(number))
        stats = await settled(outbox, lambda stats: not stats.pending)

    assert [sent.transaction_id for sent in sandbox.events()] == [f"order_{number}" for number in range(250)]
    assert (stats.accepted, stats.delivered, stats.size) == (250, 250, 0)


async def test_an_event_that_is_put_is_delivered_at_once(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay is woken by a put; it does not merely look again after a while."""
    monkeypatch.setattr("perkamo.outbox.relay._LOOK_AGAIN", 3600.0)
    async with outbox.relay(client):
        await anyio.wait_all_tasks_blocked()

        await outbox.put(event(1))

        await settled(outbox, lambda stats: not stats.pending)
    assert len(sandbox.events()) == 1


async def test_put_fixes_id_moment_and_bytes(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """What the caller does to the context afterwards changes nothing, and the made-up id is handed back."""
    context = {"amount": 5}
    kept = await outbox.put({"user_id": "u", "event": "purchase.completed", "context": context})
    context["amount"] = 6

    await outbox.drain(client)

    (sent,) = sandbox.events()
    assert (sent.transaction_id, sent.occurred_at, dict(sent.context)) == (
        kept.transaction_id,
        kept.occurred_at,
        {"amount": 5},
    )


async def test_the_same_event_twice_earns_once_and_another_is_refused(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """A put that is made again after a doubtful answer is safe; two different events under one id are a mistake."""
    first = event(1)
    await outbox.put(first)
    await outbox.put(first)
    with pytest.raises(PerkamoOutboxConflictError):
        await outbox.put(event(1, other="content"))

    stats = await outbox.drain(client)

    assert (stats.accepted, stats.delivered, len(sandbox.events())) == (1, 1, 1)


async def test_an_event_that_can_not_be_sent_is_refused_at_once(outbox: Outbox) -> None:
    """Nothing is kept of what the service would never take."""
    with pytest.raises(PerkamoValidationError):
        await outbox.put({"user_id": "u", "event": "e", "context": {"xp": 1}})

    assert (await outbox.stats()).accepted == 0


async def test_a_full_outbox_refuses_and_takes_again_once_it_has_room(
    client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """max_bytes is counted over all that use the directory; nothing that was accepted is dropped."""
    async with Outbox(tmp_path, max_bytes=400) as outbox, Outbox(tmp_path, max_bytes=400) as other:
        first = await outbox.put(event(1))
        await other.put(event(2))
        for full in (outbox, other):
            with pytest.raises(PerkamoOutboxFullError):
                await full.put(event(3))
        await other.put(first)  # it is there already, and needs no room

        await outbox.drain(client)
        await other.put(event(3))

        stats = await outbox.stats()
        assert (stats.accepted, stats.delivered, stats.pending) == (3, 2, 1)


async def test_a_relay_delivers_what_a_killed_process_left(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """All processes share one database: what a dead one put is delivered at once, and counted once."""
    script = """
import anyio, os, sys
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.relay import PAUSE
async def main():
    outbox = Outbox(sys.argv[1])
    for number in range(150):
        await outbox.put({"user_id": "u", "event": "e", "transaction_id": f"left_{number}"})
    os.kill(os.getpid(), 9)
anyio.run(main)
"""
    await outbox.put(event(0))
    await anyio.run_process([sys.executable, "-c", script, str(tmp_path / "outbox")], check=False)

    before = await outbox.stats()
    async with outbox.relay(client):
        after = await settled(outbox, lambda stats: not stats.pending)

    assert (before.accepted, before.pending, before.files) == (151, 151, 1)
    assert (after.accepted, after.delivered, len(sandbox.events())) == (151, 151, 151)


async def test_what_one_process_puts_is_on_its_way_in_another_within_200_ms(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """Web workers put, one process relays; catches a relay that looks for others' events every few seconds."""
    script = """
import sys, time
from perkamo import Event, SyncOutbox
outbox = SyncOutbox(sys.argv[1])
for line in sys.stdin:
    outbox.put(Event("u", "review.created", line.strip()))
    print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""
    arrived: list[float] = []

    def note(_: Request) -> None:
        arrived.append(time.clock_gettime(time.CLOCK_MONOTONIC))

    sandbox.add_handler(note)
    delays: list[float] = []
    command = [sys.executable, "-c", script, str(tmp_path / "outbox")]
    async with await anyio.open_process(command) as process, outbox.relay(client):
        assert process.stdin is not None
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(30):
            for number in range(12):
                await process.stdin.send(f"review_{number}\n".encode())
                put_at = float(await lines.receive_until(b"\n", 100))
                while len(arrived) <= number:  # noqa: ASYNC110 - the sandbox notes it in a thread of its own
                    await anyio.sleep(0.002)
                delays.append(arrived[number] - put_at)
        await process.stdin.aclose()

    assert sorted(delays)[len(delays) // 2] < 0.2, delays


async def test_several_relays_share_what_waits(sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """Each event is leased by one of them at a time; catches two that send the same rows."""
    async with Outbox(tmp_path) as putting, Outbox(tmp_path) as first, Outbox(tmp_path) as second:
        for number in range(1000):
            await putting.put(event(number))
        async with first.relay(client), second.relay(client):
            stats = await settled(putting, lambda stats: not stats.pending)

    assert (stats.accepted, stats.delivered, len(sandbox.events())) == (1000, 1000, 1000)
    assert sum(record.body.count(b'"transaction_id"') for record in sandbox.requests) == 1000


async def test_a_relay_block_ends_soon_while_the_service_hangs(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """P15: leaving the block waits for nothing that takes long, and what waits stays."""
    sandbox.faults.next(BATCH, Status(503, {"retry-after": "300"}), times=1)
    await outbox.put(event(1))
    started = time.monotonic()

    async with outbox.relay(client) as relay:
        with anyio.fail_after(10):
            while relay.trouble is None:  # noqa: ASYNC110 - users poll it too
                await anyio.sleep(0.005)

    assert time.monotonic() - started < 30
    assert isinstance(relay.trouble, PerkamoServerError)
    assert (await outbox.stats()).pending == 1


async def test_cancelled_putters_and_relays_leave_the_counts_right(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """A put that returned is kept, one that was cancelled is kept or not, and nothing is left hanging."""
    returned: list[str] = []

    async def put_one(number: int) -> None:
        returned.append(str((await outbox.put(event(number))).transaction_id))

    async with outbox.relay(client):
        for start in range(0, 200, 10):
            with anyio.move_on_after(0.002):
                async with anyio.create_task_group() as tasks:
                    for number in range(start, start + 10):
                        tasks.start_soon(put_one, number)
    await outbox.stats()  # what was cancelled while it was being committed is committed now
    stats = await outbox.drain(client)

    delivered = [sent.transaction_id for sent in sandbox.events()]
    assert set(returned) <= set(delivered)
    assert len(delivered) == len(set(delivered)) == stats.accepted == stats.delivered


async def test_an_exception_in_a_relay_block_reaches_the_caller_as_it_is(
    client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """An application catches its own errors; a group that the relay's tasks made of them would slip through."""
    with pytest.raises(ZeroDivisionError):
        async with outbox.relay(client):
            raise ZeroDivisionError


async def test_a_put_that_is_cancelled_before_it_began_is_not_kept(outbox: Outbox) -> None:
    """While the disk is slow, whoever gives up waiting and tries elsewhere must not find the event sent as well."""
    busy, go_on = anyio.Event(), threading.Event()

    async def hold_up() -> None:
        def action(_: Tables) -> None:
            busy_here(busy.set)
            go_on.wait(10)

        await outbox._sqlite._writer.do(action)

    busy_here = caller_into_loop()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_up)
        await busy.wait()
        with anyio.move_on_after(0.05) as scope:
            await outbox.put(event(1))
        go_on.set()

    assert scope.cancelled_caught
    assert (await outbox.stats()).accepted == 0


async def test_a_forked_child_puts_beside_its_parent(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """Pitfall 9: a child that exits normally must not checkpoint or unlink the log of its parent's open file."""
    script = """
import os, sys, anyio
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.relay import PAUSE
outbox = Outbox(sys.argv[1])
async def put(name):
    for number in range(20):
        await outbox.put({"user_id": "u", "event": "e", "transaction_id": f"{name}_{number}"})
anyio.run(put, "before")
child = os.fork()
if child == 0:
    anyio.run(put, "child")
    sys.exit(0)
os.waitpid(child, 0)
anyio.run(put, "after")
os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path / "outbox")]
    done = await anyio.run_process(command, check=False)

    stats = await outbox.drain(client)

    assert [line for line in done.stderr.splitlines() if b"tmpfs" not in line] == []
    assert (stats.accepted, stats.delivered, stats.files, stats.set_aside) == (60, 60, 1, 0)
    assert len(sandbox.events()) == 60


async def test_a_hundred_restarts_use_one_file(outbox: Outbox, tmp_path: Path) -> None:
    """Pitfall 24: gunicorn's max_requests must not fill the directory."""
    for number in range(100):
        async with Outbox(tmp_path / "outbox") as restarted:
            await restarted.put(event(number))

    stats = await outbox.stats()

    assert (stats.accepted, stats.pending, stats.files) == (100, 100, 1)


async def test_rows_of_an_older_process_are_sent_byte_for_byte(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """F79: an upgrade must not rewrite what waits: the service compares transaction ids, humans compare bytes."""
    odd = event(1, text="ř/\\\u2028", figure="1")
    await outbox.put(odd)
    await outbox.aclose()
    (path,) = (tmp_path / "outbox").glob("*.sqlite3")
    with sqlite3.connect(path) as connection:
        (body,) = connection.execute("SELECT body FROM events").fetchone()
    connection.close()

    await outbox.drain(client)

    assert body == odd.to_bytes()
    assert sandbox.requests[-1].body == b'{"events":[' + body + b"]}"


async def test_a_damaged_row_is_a_dead_letter_and_blocks_nobody(
    client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """Bytes that are not those that were put are not sent, and are kept for a human."""
    await outbox.put(event(1))
    await outbox.put(event(2))
    await outbox.aclose()
    (path,) = (tmp_path / "outbox").glob("*.sqlite3")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = ? WHERE transaction_id = ?", (b'{"x":1}', "order_1"))
    connection.close()

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (1, 1)


def test_one_outbox_serves_several_threads_and_loops(tmp_path: Path) -> None:
    """A put is answered in the loop that asked, whichever thread it runs in, and they share commits."""
    outbox = Outbox(tmp_path)

    def run(name: str) -> None:
        async def put() -> None:
            for number in range(50):
                await outbox.put({"user_id": "u", "event": "e", "transaction_id": f"{name}_{number}"})

        anyio.run(put, backend="trio" if int(name) % 2 else "asyncio")

    threads = [threading.Thread(target=run, args=(str(name),)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert anyio.run(outbox.stats).accepted == 300
    anyio.run(outbox.aclose)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "ending", ["return", "sys.exit(3)", "raise ValueError", "os._exit(0)", "os.kill(os.getpid(), 15)"]
)
def test_a_process_ends_soon_and_keeps_what_it_put(ending: str, tmp_path: Path) -> None:
    """P15: no way of ending waits for the service, hangs, or loses what was put."""
    script = f"""
import anyio, os, sys
from perkamo.client import AsyncPerkamoClient
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.relay import PAUSE
outbox = Outbox(sys.argv[1])
async def main():
    async with AsyncPerkamoClient("sk_test_x", base_url="http://localhost:9") as client, outbox.relay(client):
        for number in range(20):
            await outbox.put({{"user_id": "u", "event": "e", "transaction_id": str(number)}})
        {ending}
anyio.run(main)
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, timeout=60)

    async def count() -> OutboxStats:
        async with Outbox(tmp_path) as outbox:
            return await outbox.stats()

    assert time.monotonic() - started < 25
    assert anyio.run(count).pending == 20
