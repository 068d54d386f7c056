"""A relay: events that fail hold up no others, and what waits can be read."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from perkamo import AsyncPerkamoClient, Outbox
from perkamo.errors import PerkamoConfigurationError
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.relaying import event, settled
from tests.outbox.service import POISONS, WAITING_POISONS, Service

pytestmark = [pytest.mark.anyio, pytest.mark.slow_on_each_backend]


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncPerkamoClient]:
    """A client of it that is not patient."""
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url, timeout=0.5) as client:
        yield client


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox whose relays hardly wait between two tries."""
    async with Outbox(tmp_path / "outbox") as outbox:
        by_clock(outbox, HardlyWaiting())
        yield outbox


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", ["relay", "drain"])
@pytest.mark.parametrize("kind", POISONS)
async def test_one_event_holds_up_no_other(
    kind: str, how: str, service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Whatever the service answers to it; it is a dead letter or waits by itself, and is never taken for delivered."""
    service.poison(POISONS)
    client = client.with_options(timeout=1.0 if kind == "hang" else 10.0)  # none but the hanging request shall time out
    names = [*range(20), f"poison-{kind}", *range(20, 130)]
    for name in names:
        await outbox.put(event(name))

    if how == "drain":
        with anyio.fail_after(40):
            stats = await outbox.drain(client)
    else:
        async with outbox.relay(client) as relay:
            stats = await settled(
                outbox, lambda stats: stats.delivered == 130 and (stats.dead > 0 or kind in WAITING_POISONS)
            )
            if kind in WAITING_POISONS:
                await settled(outbox, lambda _: relay.trouble is None)

    assert (stats.delivered, stats.dead, stats.pending) == ((130, 0, 1) if kind in WAITING_POISONS else (130, 1, 0))
    assert set(service.applied) == {f"review_{name}" for name in range(130)}
    assert set(service.applied.values()) == {1}
    assert len(service.requests) < 80


async def test_a_relay_needs_a_request_on_its_way(client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """A concurrency of 0 is refused where it is given; catches a relay that waits silently."""
    for call in (outbox.drain(client, concurrency=0), outbox.relay(client, concurrency=0).__aenter__()):
        with pytest.raises(PerkamoConfigurationError, match="concurrency"):
            await call


class WaitingATenth(Clock):
    """Draws lots such that a wait between two tries is a tenth of the longest possible one."""

    def randomness(self) -> float:
        """Return a tenth."""
        return 0.1


@pytest.mark.parametrize("kinds", [("500", "500"), ("502", "close", "503")], ids="-".join)
async def test_several_poison_events_in_a_row_hold_up_no_other(
    kinds: tuple[str, ...], service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Each stands back until the others had their turns; catches two that are tried in turn, ever more slowly."""
    by_clock(outbox, WaitingATenth())
    service.poison(POISONS)
    for name in (*range(20), *(f"{number}-poison-{kind}" for number, kind in enumerate(kinds)), *range(20, 60)):
        await outbox.put(event(name))

    async with outbox.relay(client):
        stats = await settled(outbox, lambda stats: stats.delivered == 60)

    assert stats.dead + stats.pending == len(kinds)
    assert set(service.applied) == {f"review_{name}" for name in range(60)}


async def test_a_second_drain_returns_though_the_one_event_never_passes(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """It was given up before; catches a drain that waits for others to pass where there are none."""
    service.poison(POISONS)
    for name in ("poison-502", 1, 2):
        await outbox.put(event(name))

    with anyio.fail_after(40):
        first = await outbox.drain(client)
        second = await outbox.drain(client)

    assert (first.pending, second.pending, second.delivered) == (1, 1, 2)


async def test_what_waits_can_be_read(service: Service, client: AsyncPerkamoClient, outbox: Outbox) -> None:
    """Oldest first, over pages, with its bytes and failures, and no dead letter; catches what can only be counted."""
    service.poison(POISONS)
    before = datetime.now(UTC) - timedelta(seconds=1)  # a database may have a clock of its own
    names = ["poison-502", "poison-422", *range(150)]
    for name in names:
        await outbox.put(event(name))
    first = [one async for one in outbox.waiting()]
    with anyio.fail_after(40):
        await outbox.drain(client)
    [last] = [one async for one in outbox.waiting()]

    assert [one.transaction_id for one in first] == [f"review_{name}" for name in names]
    assert {one.failures for one in first} == {0}
    assert all(before <= one.put_at <= datetime.now(UTC) + timedelta(seconds=1) for one in first)
    assert [one.put_at for one in first] == sorted(one.put_at for one in first)
    assert (last.transaction_id, last.body, last.put_at) == (first[0].transaction_id, first[0].body, first[0].put_at)
    assert last.failures > 0
    assert "review" not in repr(last)


@pytest.mark.parametrize("kind", ["502", "500"])
async def test_a_drain_returns_though_the_last_event_never_passes(
    kind: str, service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Nothing is left to be tried beside it; catches a drain that waits for it forever."""
    by_clock(outbox, HardlyWaiting())
    service.poison(POISONS)
    for name in (1, 2, f"poison-{kind}"):
        await outbox.put(event(name))

    with anyio.fail_after(40):
        stats = await outbox.drain(client)

    assert (stats.pending, stats.dead, stats.delivered) == (1, 0, 2)


async def test_others_overtake_a_request_that_hangs(service: Service, outbox: Outbox) -> None:
    """After two seconds; catches a relay that has one request on its way and waits for it."""
    service.poison(POISONS)
    await outbox.put(event("poison-hang"))
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as patient, outbox.relay(patient) as relay:
        with anyio.fail_after(20):
            while not service.requests:  # noqa: ASYNC110 - the service runs in a thread
                await anyio.sleep(0.01)
        for number in range(10):
            await outbox.put(event(number))
        began = anyio.current_time()
        await settled(outbox, lambda stats: stats.delivered == 10)
        elapsed = anyio.current_time() - began

        assert relay.trouble is None
    assert elapsed < 8  # the hanging request takes ten seconds


async def test_events_are_sent_in_the_order_in_which_they_were_put(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """One request after the other, also where some fail for a moment."""
    failures = iter([503, None, 503, 503])
    service.answer = lambda _, __: next(failures, None)
    for number in range(450):
        await outbox.put(event(number))

    await outbox.drain(client)

    assert list(service.applied) == [f"review_{number}" for number in range(450)]


async def test_what_the_service_asks_of_one_relay_all_obey(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """A 429 slows every relay of the directory; catches fifty workers that each learn it for themselves."""
    service.answer = lambda _, __: 429
    await outbox.put(event(1))
    async with Outbox(tmp_path / "outbox") as other, outbox.relay(client) as first:
        await settled(outbox, lambda _: first.trouble is not None)
        number = len(service.requests)
        async with other.relay(client):
            await other.put(event(2))
            paused = await other._store.take([await _space(client)], (100,), 1 << 20, 1.0)
    assert number == 1
    assert (list(paused.events), paused.waiting) == ([], 2)


async def _space(client: AsyncPerkamoClient) -> str:
    return f"key:{(await client.space_fingerprint())[:32]}"
