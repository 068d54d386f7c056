"""stats: how old what waits is, what passes, and why nothing does."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from perkamo import AsyncPerkamoClient, Event, Outbox, OutboxStats
from perkamo.outbox.sqlite import tables
from perkamo.sandbox import Sandbox, Status
from tests.outbox.sqlite.box import Box

pytestmark = pytest.mark.anyio


async def reach(outbox: Outbox, is_so: Callable[[OutboxStats], bool]) -> OutboxStats:
    """Wait until the stats are as expected, and return them."""
    while not is_so(stats := await outbox.stats()):  # noqa: ASYNC110 - a relay's doing
        await anyio.sleep(0.01)
    return stats


async def test_an_empty_outbox_has_no_age_and_no_trouble(outbox: Outbox) -> None:
    """Nothing waits, nothing was sent; catches an age of 1970."""
    stats = await outbox.stats()

    assert (stats.oldest_age, stats.last_delivery, stats.delivered_last_minute) == (None, None, 0)
    assert (stats.last_error, stats.paused, stats.paused_until, stats.spaces) == (None, None, None, ())


async def test_the_age_is_that_of_the_oldest_event_that_waits(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, client: AsyncPerkamoClient
) -> None:
    """Right to a second, and gone with the event; catches the age of the newest, or of one that was delivered."""
    now = 1_790_000_000.0
    monkeypatch.setattr(tables, "_wall_time", lambda: now)
    for number, age in enumerate((3600, 60, 0)):
        now = 1_790_000_000.0 + 3600 - age
        await outbox.put(Event("u", "e", f"t{number}"))

    now += 5
    stats = await outbox.stats()
    async with client:
        after = await outbox.drain(client)

    assert stats.oldest_age == pytest.approx(3605, abs=0.01)
    assert [(space.space, space.pending) for space in stats.spaces] == [("", 3)]
    assert (after.oldest_age, after.delivered_last_minute, after.pending) == (None, 3, 0)
    assert after.last_delivery == datetime.fromtimestamp(now, UTC)


async def test_a_clock_that_was_set_back_makes_no_negative_age(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event from the future is as old as one of now; catches an alert on a number below nothing."""
    await outbox.put(Event("u", "e", "t"))
    monkeypatch.setattr(tables, "_wall_time", lambda: 1_000_000_000.0)

    assert (await outbox.stats()).oldest_age == 0


PAUSES = {401: (Status(401), 50, 60), 429: (Status(429, {"retry-after": "30"}), 25, 32), 503: (Status(503), 0, 1)}
"""For each status: the fault, and the least and the most seconds for which everything waits."""


@pytest.mark.parametrize("status", PAUSES)
async def test_a_pause_says_why_and_until_when(
    status: int, sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """While the service refuses, and no longer; catches a pause that outlives its cause."""
    fault, least, most = PAUSES[status]
    sandbox.faults.rate(1.0, fault, seed=1)
    await outbox.put(Event("u", "e", "t"))

    async with client, outbox.relay(client):
        stats = await reach(outbox, lambda stats: stats.paused is not None)
    sandbox.faults.clear()

    assert stats.paused is not None
    assert str(status) in stats.paused
    assert stats.last_error == stats.paused
    assert stats.paused_until is not None or status == 503
    if stats.paused_until is not None:
        assert least <= (stats.paused_until - datetime.now(UTC)).total_seconds() <= most
    [mine] = [space for space in stats.spaces if space.space]
    assert (mine.paused, mine.pending) == (stats.paused, 0)  # no key was accepted yet, so that it belongs to none


async def test_what_passed_again_is_told_as_the_last_error_only(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """After an outage the error stays to be read, and nothing is paused; catches an alarm that never ends."""
    sandbox.faults.next("POST /v1/events:batch", Status(503))
    await outbox.put(Event("u", "e", "t"))

    async with client:
        stats = await outbox.drain(client)

    assert (stats.paused, stats.paused_until, stats.delivered) == (None, None, 1)
    assert stats.last_error is not None
    assert "503" in stats.last_error
    [space] = stats.spaces
    assert space.last_error_at is not None
    assert space.last_delivery is not None
    assert space.last_error_at <= space.last_delivery


async def test_each_space_is_counted_by_itself(client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """Two Spaces in one directory; catches figures of one under the name of the other."""
    shop, other = (Outbox(tmp_path / "outbox", space=name) for name in ("shop", "other"))
    async with shop, other, client:
        await shop.put(Event("u", "e", "s1"))
        await shop.put(Event("u", "e", "s2"))
        await other.put(Event("u", "e", "o1"))
        await shop.drain(client)
        await other.put(Event("u", "e", "o2"))
        stats = await other.stats()

    assert [(one.space, one.pending, one.delivered_last_minute) for one in stats.spaces] == [
        ("other", 2, 0),
        ("shop", 0, 2),
    ]
    assert (stats.pending, stats.delivered_last_minute) == (2, 2)


async def test_the_counts_are_those_of_one_moment(outbox: Outbox, tmp_path: Path) -> None:
    """Whatever shares the transaction; catches a total that counts what the Spaces do not."""
    await outbox.put(Event("u", "e", "first"))
    other = Box(tmp_path / "outbox")
    waiting = outbox._sqlite._writer._jobs
    found: list[OutboxStats] = []

    async def look() -> None:
        found.append(await outbox.stats())

    async with anyio.create_task_group() as tasks:
        with other.database.transaction():  # the outbox waits for its lock meanwhile
            tasks.start_soon(look)
            while not waiting:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(outbox.put, Event("u", "e", "second"))
            while len(waiting) < 2:
                await anyio.lowlevel.checkpoint()
    other.database.close()

    [stats] = found
    assert (stats.accepted, stats.pending, [space.pending for space in stats.spaces]) == (1, 1, [1])
    assert (await outbox.stats()).pending == 2
