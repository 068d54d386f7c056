"""Small disks that fill up, by what the outbox keeps or by another program, and what passes once there is room."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import anyio
import pytest

from perkamo import AsyncPerkamoClient, Event, Outbox, PerkamoOutboxFullError
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.disks import Kind, fill, small_disk
from tests.outbox.service import Service
from tests.waiting import until

pytestmark = pytest.mark.anyio

DISKS: list[tuple[Kind, int]] = [("tmpfs", 8), ("ext4", 32)]


@pytest.fixture(params=DISKS, ids=[kind for kind, _ in DISKS])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    kind, megabytes = request.param
    with small_disk(tmp_path / "disk", megabytes, kind) as is_small:
        if not is_small:
            pytest.skip(f"no {kind} can be mounted here")
        yield tmp_path / "disk"


def event(number: int, size: int = 12_000) -> Event:
    """Return an event of about so many bytes."""
    return Event("u", "review.created", f"review_{number}", {"text": "x" * size})


async def put_until_full(outbox: Outbox) -> int:
    """Put large events, then small ones, until none fits; return how many were acknowledged."""
    numbers = count()
    kept: list[int] = []

    async def put_some(size: int) -> None:
        with suppress(PerkamoOutboxFullError):
            while (number := next(numbers)) < 10_000:
                await outbox.put(event(number, size))
                kept.append(number)

    for size in (12_000, 4000, 1000, 100):
        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(put_some, size)
    return len(kept)


@pytest.mark.slow_on_each_backend
async def test_a_disk_that_the_outbox_itself_has_filled_drains(disk: Path, service: Service) -> None:
    """Everything passes, each once, also after a restart, and puts work again; catches rows that nobody can delete."""
    async with Outbox(disk / "outbox") as outbox:
        kept = await put_until_full(outbox)

    async with (
        AsyncPerkamoClient("sk_test_x", base_url=service.url) as client,
        Outbox(disk / "outbox") as outbox,
    ):
        by_clock(outbox, HardlyWaiting())
        with anyio.fail_after(30):
            stats = await outbox.drain(client)
        await outbox.put(event(10_000))

    assert kept > 300
    assert (stats.delivered, stats.pending, stats.missing) == (kept, 0, 0)
    assert len(service.applied) == kept
    assert set(service.applied.values()) == {1}
    assert sum(path.stat().st_size for path in (disk / "outbox").iterdir()) < 2_500_000


async def test_a_full_disk_shows_its_counts(disk: Path) -> None:
    """To a process that begins then, which can't open the database; catches a monitor that is blind in the outage."""
    async with Outbox(disk / "outbox") as outbox:
        for number in range(3):
            await outbox.put(event(number, 100))
    hog = fill(disk)

    async with Outbox(disk / "outbox") as outbox:
        full = await outbox.stats()
        with pytest.raises(PerkamoOutboxFullError):
            await outbox.put(event(3))
    hog.unlink()
    async with Outbox(disk / "outbox") as outbox:
        after = await outbox.stats()

    assert (full.accepted, full.pending, full.oldest_age, full.spaces) == (3, 3, None, ())
    assert (after.accepted, after.pending, after.missing, len(after.spaces)) == (3, 3, 0, 1)


async def test_a_full_disk_without_an_outbox_has_no_counts(disk: Path) -> None:
    """Nothing was noted there; catches zeros that nobody counted."""
    (disk / "outbox").mkdir(mode=0o700)
    (disk / "outbox" / "outbox.lock").touch(mode=0o600)
    fill(disk)

    async with Outbox(disk / "outbox") as outbox:
        with pytest.raises(PerkamoOutboxFullError):
            await outbox.stats()


@pytest.mark.parametrize("waiting", [0, 200])
async def test_a_relay_that_begins_on_a_full_disk_waits_for_room(disk: Path, waiting: int, service: Service) -> None:
    """It tells why, and delivers once another program has given the disk back; catches a relay that ended."""
    async with Outbox(disk / "outbox") as outbox:
        for number in range(waiting):
            await outbox.put(event(number, 2000))
    hog = fill(disk)

    async with (
        AsyncPerkamoClient("sk_test_x", base_url=service.url) as client,
        Outbox(disk / "outbox") as outbox,
        outbox.relay(client) as relay,
    ):
        with pytest.raises(PerkamoOutboxFullError):
            await outbox.put(event(waiting))
        await until(lambda: relay.trouble is not None)
        trouble = relay.trouble
        hog.unlink()
        await outbox.put(event(waiting))
        await until(lambda: relay.trouble is None and len(service.applied) == waiting + 1)

    assert isinstance(trouble, PerkamoOutboxFullError)
    assert set(service.applied.values()) == {1}
