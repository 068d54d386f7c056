"""What the service refuses, delays or breaks at, and the dead letters that follow."""

import logging

import anyio
import pytest

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoAuthenticationError,
)
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.relay import PAUSE
from perkamo.outbox.settling import MAX_SOLO_FAILURES
from perkamo.sandbox import Lost, Reset, Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.putting import BATCH, event, settled

pytestmark = pytest.mark.anyio


def refuse(sandbox: Sandbox, marker: bytes, status: int) -> None:
    """Let the sandbox refuse every request with a marker in it, as the service refuses an event it does not like."""

    def handler(request: Request) -> Response | None:
        return Response(status, body=b'{"message":"no"}') if marker in request.body else None

    sandbox.add_handler(handler)


@pytest.mark.parametrize(
    "fault", [Status(503), Status(429, {"retry-after": "0"}), Status(500), Lost(), Reset(before="apply")]
)
async def test_faults_that_pass_are_waited_for_and_nothing_is_applied_twice(
    sandbox: Sandbox,
    client: AsyncPerkamoClient,
    outbox: Outbox,
    fault: Status | Lost | Reset,
) -> None:
    """P1, P3: whatever happened to the request, the same bytes go again and count once."""
    by_clock(outbox, HardlyWaiting())
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
    """An operator's drain must not wait forever with a wrong key; nothing is lost by the error."""
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
    by_clock(outbox, HardlyWaiting())
    refuse(sandbox, b"poison", 500)
    for number in range(10):
        await outbox.put(event(number, **({"kind": "poison"} if number == 0 else {})))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (9, 1)


async def test_an_outage_makes_no_dead_letters(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """When nothing passes, no single event is to blame, however long it lasts."""
    by_clock(outbox, HardlyWaiting())
    sandbox.faults.next(BATCH, Status(500), times=40)
    for number in range(4):
        await outbox.put(event(number))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.dead) == (4, 0)


async def test_a_conflict_is_given_five_chances(sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """F33: what 409 means is unpublished; it may pass, and if it does not, it blocks nobody."""
    by_clock(outbox, HardlyWaiting())
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
    by_clock(outbox, HardlyWaiting())
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
