"""After an outage: what failed in it leaves as soon as the service answers again."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from perkamo import AsyncPerkamoClient, Outbox
from perkamo.outbox.store import Lease, Settlement
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import by_clock
from tests.outbox.relaying import event, settled
from tests.outbox.service import Service
from tests.outbox.sqlite.box import HERE, Box, ids

pytestmark = [pytest.mark.anyio]


class Hurrying(Clock):
    """A relay's clock by which its pauses hardly last, while the store puts events off in real seconds."""

    _SPEED = 2000

    def now(self) -> float:
        """Return seconds, of which there are many in one."""
        return self._read() * self._SPEED

    def limit(self, seconds: float | None) -> anyio.CancelScope:
        """Wait for as many of these seconds."""
        return super().limit(seconds and seconds / self._SPEED)

    async def sleep(self, seconds: float) -> None:
        """Wait for as many of these seconds."""
        await super().sleep(seconds / self._SPEED)

    def randomness(self) -> float:
        """Draw the longest."""
        return 1.0


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncPerkamoClient]:
    """A client of it."""
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as client:
        yield client


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox."""
    async with Outbox(tmp_path / "outbox") as outbox:
        by_clock(outbox, Hurrying())
        yield outbox


@pytest.mark.slow_on_each_backend
@pytest.mark.parametrize("number", [1, 7])
async def test_what_failed_alone_in_an_outage_leaves_when_it_is_over(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox, number: int
) -> None:
    """Though each was told to wait for minutes, so that others go first; catches events that wait for nobody."""
    outage = iter([503] * 25)
    service.answer = lambda _, __: next(outage, None)
    for name in range(number):
        await outbox.put(event(name))

    async with outbox.relay(client):
        await settled(outbox, lambda stats: not stats.pending)

    assert sorted(service.applied) == [f"review_{name}" for name in range(number)]
    assert max(len(request) for request in list(service.requests)[-number:]) == 1


def test_an_event_is_called_back_unless_something_happened_to_it_since(tmp_path: Path) -> None:
    """Who took it keeps it, and what failed anew waits; catches one relay's news that undoes another's."""
    box = Box(tmp_path / "outbox")
    box.put("waits", "failed anew", "is on its way")
    lease = box.take()
    waits, failed, taken = lease.events
    box.settle(lease, Settlement(HERE, later=[(waits, 5, 60.0), (failed, 6, 60.0), (taken, 5, 0.0)]))
    assert ids(box.take()) == [taken.transaction_id]

    box.settle(Lease(), Settlement(HERE, due=[evolve(one, failures=5) for one in lease.events]))

    assert [ids(box.take()), ids(box.take())] == [[waits.transaction_id], []]
    box.database.close()


def test_what_stands_back_is_named_when_nothing_else_can_be_taken(tmp_path: Path) -> None:
    """In turn, whoever put it off; catches events that wait for minutes as the relay that put them off has died."""
    box = Box(tmp_path / "outbox")
    box.put("a", "b", "to blame", "later")
    leases = [box.take(max_bytes=1) for _ in range(3)]
    for lease, stands_back in zip(leases, (True, True, False), strict=True):
        box.settle(lease, Settlement(HERE, later=[(lease.events[0], 5, 60.0)], stands_back=stands_back))
    assert box.take().stands_back is None  # there was another to take

    called: list[str] = []
    for _ in range(4):
        back = box.take().stands_back
        assert back is not None
        called.append(back.transaction_id)
        box.settle(Lease(), Settlement(HERE, due=[back]))
        lease = box.take()
        assert [*ids(lease), lease.stands_back] == [back.transaction_id, None]
        box.settle(lease, Settlement(HERE, later=[(lease.events[0], 5, 60.0)], stands_back=True))

    assert called == ["a", "b"] * 2
    box.database.close()


@pytest.mark.slow_on_each_backend
async def test_what_failed_alone_leaves_when_its_relay_has_ended_in_the_outage(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Another relay delivers it at once; catches events that wait for minutes after a deploy in an outage."""
    service.answer = lambda _, __: 503
    for name in range(3):
        await outbox.put(event(name))
    async with outbox.relay(client):
        await settled(outbox, lambda _: len(service.requests) >= 15)
    service.answer = lambda _, __: None

    async with outbox.relay(client):
        await settled(outbox, lambda stats: not stats.pending)

    assert sorted(service.applied) == [f"review_{name}" for name in range(3)]
