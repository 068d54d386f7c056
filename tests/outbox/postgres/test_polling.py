"""How soon a relay finds a fresh event, and how little an idle one asks, by a clock of the test's own."""

from collections.abc import Callable, Mapping

import anyio
import anyio.lowlevel
import psycopg
import pytest
from attrs import define, field

from perkamo import AsyncPerkamoClient, Delivery, DeliveryStart, Event, Hook, PostgresOutbox
from perkamo.postgres import Rows
from perkamo.runtime.clock import Clock
from tests.outbox.clocks import wholly_by_clock
from tests.outbox.postgres.server import Server
from tests.outbox.service import Service

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """The waits are on this side."""
    version: int = request.param
    return version


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.stress)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """As in the relay's other tests over this store."""
    backend: str = request.param
    return backend


class Leaping(Clock):
    """Every wait is over at once, and takes as long as it was to last; what is worked takes no time."""

    def __init__(self, lot: float) -> None:
        self.lot: float = lot
        self.seconds: float = 1000.0
        self.waits: list[float] = []

    def now(self) -> float:
        """Return the test's time."""
        return self.seconds

    def limit(self, seconds: float | None) -> anyio.CancelScope:
        """Let the time pass."""
        assert seconds is not None
        self.waits.append(seconds)
        self.seconds += seconds
        return anyio.move_on_after(0)

    def randomness(self) -> float:
        """Return the same lot each time."""
        return self.lot


@define(eq=False)
class Noting(Hook):
    """Notes when events leave, and which have been answered."""

    clock: Leaping
    sent_at: list[float] = field(factory=list)
    answered: list[Delivery] = field(factory=list)

    def on_delivery_start(self, delivery: DeliveryStart) -> None:
        """See ``Hook.on_delivery_start``."""
        self.sent_at.append(self.clock.seconds)

    def on_delivery(self, delivery: Delivery) -> None:
        """See ``Hook.on_delivery``."""
        self.answered.append(delivery)


@pytest.mark.parametrize("lot", [0.0, 1.0])
async def test_a_fresh_event_is_on_its_way_within_200_ms_and_an_idle_relay_looks_ten_times_a_second(
    lot: float, server: Server, schema: str, service: Service
) -> None:
    """Whatever lot is drawn; catches a pause that grows with idleness, and a relay that looks without a pause."""
    clock = Leaping(lot)
    hook = Noting(clock)
    outbox = PostgresOutbox(server.dsn, schema=schema, space="shop")
    wholly_by_clock(outbox, clock)
    put_at: list[float] = []
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url, hooks=[hook]) as client, outbox:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            async with outbox.relay(client):
                with anyio.fail_after(30):
                    for number in range(3):
                        asked = len(clock.waits) + 10
                        while len(clock.waits) < asked:
                            await anyio.lowlevel.checkpoint()
                        idle = clock.waits[-9:]
                        put_at.append(clock.seconds)
                        outbox.put(connection, Event("customer", "review.created", f"review_{number}"), autocommit=True)
                        while len(hook.answered) <= number:  # noqa: ASYNC110
                            await anyio.sleep(0.001)

                        assert min(idle) >= 0.08
                        assert max(idle) <= 0.2

    assert max(sent - put for sent, put in zip(hook.sent_at, put_at, strict=True)) <= 0.2


async def test_an_idle_relay_asks_little(server: Server, schema: str, service: Service) -> None:
    """One cheap query a look, and no claim but once a second; catches a claim of nothing with each look."""
    clock = Leaping(0.5)
    outbox = PostgresOutbox(server.dsn, schema=schema, space="shop")
    wholly_by_clock(outbox, clock)
    database = outbox._postgres.database
    asked: list[str] = []

    def noting(name: str, ask: Callable[[str, Mapping[str, object]], Rows | list[Rows]]) -> None:
        def note(script: str, parameters: Mapping[str, object]) -> Rows | list[Rows]:
            asked.append(name)
            return ask(script, parameters)

        setattr(database, name, note)

    async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as client, outbox, outbox.relay(client):
        with anyio.fail_after(30):
            while len(clock.waits) < 10:
                await anyio.lowlevel.checkpoint()
            noting("run", database.run)
            noting("look", database.look)
            began = clock.seconds
            while clock.seconds - began < 5:
                await anyio.lowlevel.checkpoint()

    assert asked.count("run") <= 2 * 6  # a claim and a count
    assert 20 <= asked.count("look") <= 50
