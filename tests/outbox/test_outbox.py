"""The outbox against the sandbox: what is delivered, what waits, what becomes a dead letter."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoAuthenticationError,
    PerkamoConfigurationError,
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.events import Event
from perkamo.outbox.errors import PerkamoOutboxConflictError, PerkamoOutboxFullError
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.relay import PAUSE
from perkamo.outbox.settling import MAX_SOLO_FAILURES
from perkamo.outbox.sqlite.tables import Tables
from perkamo.outbox.store import OutboxStats
from perkamo.runtime.event_loop import caller_into_loop
from perkamo.sandbox import Lost, Reset, Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.outbox.clocks import HardlyWaiting
from tests.outbox.service import running_service

pytestmark = pytest.mark.anyio
BATCH = "POST /v1/events:batch"


def event(number: int, **context: str) -> Event:
    """Make an event with an id of its own."""
    return Event(f"customer_{number}", "purchase.completed", f"order_{number}", {"amount": 5, **context})


def refuse(sandbox: Sandbox, marker: bytes, status: int) -> None:
    """Let the sandbox refuse every request with a marker in it, as the service refuses an event it does not like."""

    def handler(request: Request) -> Response | None:
        return Response(status, body=b'{"message":"no"}') if marker in request.body else None

    sandbox.add_handler(handler)


async def settled(outbox: Outbox, condition: Callable[[OutboxStats], bool]) -> OutboxStats:
    """Wait until the counts are as wished, checking the law of conservation all the while."""
    with anyio.fail_after(20):
        while True:
            stats = await outbox.stats()
            assert stats.accepted == stats.delivered + stats.pending + stats.dead
            if condition(stats):
                return stats
            await anyio.sleep(0.005)


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


@pytest.mark.parametrize(
    "fault", [Status(503), Status(429, {"retry-after": "0"}), Status(500), Lost(), Reset(before="apply")]
)
async def test_faults_that_pass_are_waited_for_and_nothing_is_applied_twice(
    sandbox: Sandbox,
    client: AsyncPerkamoClient,
    outbox: Outbox,
    fault: Status | Lost | Reset,
) -> None:
    """P1, P3: whatever became of the request, the same bytes go again and count once."""
    outbox._clock = HardlyWaiting()
    sandbox.faults.next(BATCH, fault, times=3)
    for number in range(5):
        await outbox.put(event(number))

    stats = await outbox.drain(client)

    assert (stats.delivered, len(sandbox.events()), len(sandbox.requests)) == (5, 5, 4)
    assert len({record.body for record in sandbox.requests}) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_pauses_everything_and_keeps_everything(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """F34: trackers drop such batches for good; we keep them, say so loudly once, and try no more for a while."""
    sandbox.faults.next(BATCH, Status(status), times=1)
    for number in range(3):
        await outbox.put(event(number))

    async with outbox.relay(client) as relay:
        with anyio.fail_after(10):
            while relay.trouble is None:  # noqa: ASYNC110 - users poll it too
                await anyio.sleep(0.005)
        await outbox.put(event(3))
        await anyio.wait_all_tasks_blocked()
        stats = await outbox.stats()
        assert relay._pace.seconds > PAUSE / 2

    assert (stats.pending, stats.dead, len(sandbox.requests)) == (4, 0, 1)
    assert [record.levelno for record in caplog.records if record.name == "perkamo.outbox"] == [logging.ERROR]
    assert (await outbox.drain(client)).delivered == 4


async def test_drain_raises_what_patience_does_not_mend(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """An operator's drain must not wait for ever with a wrong key; nothing is lost by the error."""
    sandbox.faults.next(BATCH, Status(401), times=1)
    await outbox.put(event(1))

    with pytest.raises(PerkamoAuthenticationError):
        await outbox.drain(client)

    assert (await outbox.stats()).pending == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_poison_event_of_a_hundred_becomes_a_dead_letter_and_the_others_pass(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, status: int
) -> None:
    """F35, F36: at most fifteen requests find the rejected one; it is kept with the reason and blocks nobody."""
    refuse(sandbox, b"poison", status)
    for number in range(100):
        await outbox.put(event(number, **({"kind": "poison"} if number == 37 else {})))

    stats = await outbox.drain(client)

    (letter,) = [letter async for letter in outbox.dead()]
    assert (stats.delivered, stats.dead, stats.pending) == (99, 1, 0)
    assert len(sandbox.requests) <= 15
    assert letter.transaction_id == "order_37"
    assert str(status) in letter.reason
    assert "customer_37" not in letter.reason + repr(letter)


async def test_dead_letters_wait_again_on_request(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """After the cause was mended, the very same bytes are sent."""
    sandbox.faults.next(BATCH, Status(422), times=1)
    kept = await outbox.put(event(1))
    await outbox.drain(client)

    assert await outbox.requeue("no such id") == 0
    assert await outbox.requeue("order_1") == 1
    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (1, 0)
    assert sandbox.requests[-1].body == b'{"events":[' + kept.to_bytes() + b"]}"


async def test_an_event_that_breaks_the_service_does_not_block_the_others_for_ever(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Pitfall 16: a steady 500 for one event becomes a dead letter once the others are seen to pass."""
    outbox._clock = HardlyWaiting()
    refuse(sandbox, b"poison", 500)
    for number in range(10):
        await outbox.put(event(number, **({"kind": "poison"} if number == 0 else {})))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (9, 1)


async def test_an_outage_makes_no_dead_letters(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """When nothing passes, no single event is to blame, however long it lasts."""
    outbox._clock = HardlyWaiting()
    sandbox.faults.next(BATCH, Status(500), times=40)
    for number in range(4):
        await outbox.put(event(number))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (4, 0)


async def test_a_conflict_is_given_five_chances(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """F33: what 409 means is unpublished; it may pass, and if it does not, it blocks nobody."""
    outbox._clock = HardlyWaiting()
    refuse(sandbox, b"poison", 409)
    await outbox.put(event(1, kind="poison"))
    await outbox.put(event(2))

    async with outbox.relay(client):
        stats = await settled(outbox, lambda stats: not stats.pending)

    alone = [record for record in sandbox.requests if b"poison" in record.body and b"order_2" not in record.body]
    assert (stats.delivered, stats.dead, len(alone)) == (1, 1, MAX_SOLO_FAILURES)


async def test_a_wrong_number_of_results_settles_nothing(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """F37: never guess by position; sending again is safe."""
    outbox._clock = HardlyWaiting()
    one = (
        b'{"applied":true,"duplicate":false,"delta":[],"leveled_up":false,"unlocked":[],"wallet_state":{},"level":null}'
    )
    sandbox.faults.sequence(
        BATCH, [Status(200, body=b'{"results":[' + one + b"]}"), Status(200, body=b"{}"), Status(200, body=b"<html>")]
    )
    for number in range(2):
        await outbox.put(event(number))

    stats = await outbox.drain(client)

    assert (stats.delivered, len(sandbox.events()), len(sandbox.requests)) == (2, 2, 4)


async def accepted_by(outbox: Outbox, client: AsyncPerkamoClient, sandbox: Sandbox, number: int) -> None:
    """Let an event wait for this client's key: the service accepted the key, and could not take the event."""
    sandbox.faults.sequence(BATCH, [Status(200, body=UNDECIDED), Status(503)])
    await outbox.put(event(number))
    async with outbox.relay(client):
        await settled(outbox, lambda _: len(sandbox.requests) > 1)


UNDECIDED = (
    b'{"results":[{"applied":false,"duplicate":false,"delta":[],"leveled_up":false,"unlocked":[],"wallet_state":{}}]}'
)


async def test_events_are_never_sent_with_another_key(
    sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """Pitfall 23: staging's rows stay where they are when production's key comes along, in this process or the next."""
    with Sandbox(seed=1) as other_sandbox:
        async with (
            AsyncPerkamoClient(other_sandbox.api_key, base_url=other_sandbox.base_url) as other,
            Outbox(tmp_path) as outbox,
        ):
            await accepted_by(outbox, other, other_sandbox, 1)
            await outbox.aclose()
            later = Outbox(tmp_path)
            await later.put(event(2))

            stats = await later.drain(client)
            stats_of_others = await later.drain(other)
            await later.aclose()

        assert [sent.transaction_id for sent in sandbox.events()] == ["order_2"]
        assert [sent.transaction_id for sent in other_sandbox.events()] == ["order_1"]
        assert (stats.pending, stats_of_others.pending) == (1, 0)


async def test_a_relay_with_a_wrong_key_captures_nothing(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Events are bound to a key once the service has accepted it; catches an outbox that one wrong start blocks."""
    sandbox.faults.next(BATCH, Status(401), times=1)
    async with AsyncPerkamoClient("sk_test_wrong", base_url=sandbox.base_url) as wrong:
        await outbox.put(event(1))
        with pytest.raises(PerkamoAuthenticationError):
            await outbox.drain(wrong)
        await outbox.put(event(2))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.pending, len(sandbox.events())) == (2, 0, 2)


async def test_a_key_that_rotates_while_a_relay_runs_needs_nothing_further(outbox: Outbox, tmp_path: Path) -> None:
    """One function supplied both keys, so they are of one Space: all arrives, also what waited under the old one."""
    key = ["sk_test_old"]
    is_down = False
    outbox._clock = HardlyWaiting()
    with running_service() as service:
        service.answer = lambda _, __: 503 if is_down else None
        async with AsyncPerkamoClient(lambda: key[0], base_url=service.url) as rotating, outbox.relay(rotating):
            await outbox.put(event(1))
            await settled(outbox, lambda stats: not stats.pending)
            is_down = True
            await outbox.put(event(2))
            await settled(outbox, lambda _: len(service.requests) > 1)
            key[0] = "sk_test_new"
            for number in range(3, 12):
                await outbox.put(event(number))
            is_down = False
            await settled(outbox, lambda stats: not stats.pending)
            is_down = True
            await outbox.put(event(12))  # it waits, bound to the new key

        is_down = False
        async with Outbox(tmp_path / "outbox") as restarted, AsyncPerkamoClient(key[0], base_url=service.url) as new:
            stats = await restarted.drain(new)

    assert (stats.delivered, stats.pending) == (12, 0)
    assert sorted(service.applied.values()) == [1] * 12


async def test_a_named_space_needs_nothing_when_the_key_changes(
    sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """Events are bound to the name: the next key delivers them, and an outbox of another name does not."""
    async with AsyncPerkamoClient("sk_test_former", base_url=sandbox.base_url) as former:
        async with Outbox(tmp_path, space="commerce-live") as outbox:
            await accepted_by(outbox, former, sandbox, 1)
        async with Outbox(tmp_path, space="commerce-test") as other:
            elsewhere = await other.drain(client)
    sandbox.faults.clear()

    async with Outbox(tmp_path, space="commerce-live") as outbox:
        stats = await outbox.drain(client)

    assert (elsewhere.pending, stats.delivered, stats.pending) == (1, 1, 0)


@pytest.mark.parametrize("name", ["", "key:abc", "a\nb", "x" * 101, 5])
async def test_what_is_no_name_of_a_space_is_refused(name: str, tmp_path: Path) -> None:
    """A wrong name is told at once, and nothing is made."""
    with pytest.raises(PerkamoConfigurationError, match="space must"):
        Outbox(tmp_path / "outbox", space=name)

    assert not (tmp_path / "outbox").exists()


async def test_events_of_a_former_key_are_said_to_wait_and_can_be_rebound(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """After a change of the key nothing is stuck in silence: it is logged once, and one call hands the events over."""
    async with AsyncPerkamoClient("sk_test_former", base_url=sandbox.base_url) as former:
        await accepted_by(outbox, former, sandbox, 1)
    sandbox.faults.clear()
    caplog.clear()

    stuck = await outbox.drain(client)
    said = [record.getMessage() for record in caplog.records if record.name == "perkamo.outbox"]
    rebound = await outbox.rebind(client)
    stats = await outbox.drain(client)

    assert (stuck.pending, rebound, stats.delivered, len(sandbox.events())) == (1, 1, 1, 1)
    assert len(said) == 1
    assert "another Space or key" in said[0]


async def test_the_key_is_nowhere_in_the_files(sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """P10: neither the key nor a plain hash of it is kept."""
    async with Outbox(tmp_path) as outbox:
        await accepted_by(outbox, client, sandbox, 1)

        kept = b"".join([await file.read_bytes() async for file in anyio.Path(tmp_path).iterdir()])

    assert b"order_1" in kept
    for secret in (sandbox.api_key, sha256(sandbox.api_key.encode()).hexdigest()):
        assert secret.encode() not in kept
    assert sha256(sandbox.api_key.encode()).digest() not in kept


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

    assert time.monotonic() - started < 5
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
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, timeout=30)

    async def count() -> OutboxStats:
        async with Outbox(tmp_path) as outbox:
            return await outbox.stats()

    assert time.monotonic() - started < 8
    assert anyio.run(count).pending == 20
