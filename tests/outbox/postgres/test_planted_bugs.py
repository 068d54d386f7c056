"""Each promise is broken on purpose, and the scenario that is to notice does: at a named point, in every run.

Without the bug, the same scenario does no harm; or its silence would mean nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from attrs import define

from perkamo import AsyncPerkamoClient, Event, PostgresOutbox, outbox_schema
from perkamo.outbox.postgres import connections, statements
from perkamo.outbox.postgres.put import Answer, Putting, Query, Steps
from perkamo.outbox.postgres.store import PostgresStore
from perkamo.outbox.relay import Relay
from perkamo.outbox.settling import SIZES
from perkamo.outbox.store import Lease, Settlement
from perkamo.postgres import DURABLE, Database
from perkamo.runtime.clock import Clock
from tests.outbox.postgres.server import Server
from tests.outbox.service import HANG, running_service

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """The bugs are ours, and not the database's."""
    version: int = request.param
    return version


@pytest.fixture
def anyio_backend() -> str:
    """What is planted is planted in both."""
    return "asyncio"


@define
class Shop:
    """A schema with outbox and orders, and what scenarios need of them."""

    server: Server
    schema: str
    patch: pytest.MonkeyPatch
    stores: list[PostgresStore]

    def store(self, clock: Clock = Clock(), options: str = "") -> PostgresStore:
        """Return a store as of a machine of its own."""
        self.stores.append(PostgresStore(Database(self.server.dsn + options), self.schema, None, clock))
        return self.stores[-1]

    def put(self, event: Event) -> None:
        """Put an event, and commit."""
        with psycopg.connect(self.server.dsn) as connection:
            PostgresOutbox(schema=self.schema).put(connection, event)

    def kept(self) -> int:
        """Count the events that wait."""
        [[number]] = self.server.execute(f'SELECT count(*) FROM "{self.schema}".events')
        return int(number)

    def change(self, name: str, old: str, new: str = "") -> None:
        """Change the text of a statement."""
        text: str = getattr(statements, name)
        assert old in text
        self.patch.setattr(statements, name, text.replace(old, new))


@pytest.fixture
def shop(server: Server, schema: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop."""
    shop = Shop(server, schema, monkeypatch, [])
    yield shop
    for store in shop.stores:
        store.database.close()


def event(amount: int = 1) -> Event:
    """Make an event."""
    return Event("customer", "purchase.completed", "order-1", {"amount": amount}, "2026-06-01T10:00:00.000Z")


async def take(store: PostgresStore, seconds: float = 60.0) -> Lease:
    """Claim what waits."""
    return await store.take(["key:mine"], SIZES, 1 << 20, seconds)


# Each scenario plants its bug if asked, and tells whether harm was done.


async def settle_before_the_answer(shop: Shop, is_planted: bool) -> bool:
    """The relay dies while the service has not answered."""
    if is_planted:
        deliver = Relay._deliver

        async def settle_first(self: Relay, lease: Lease, space: str, sent_at: float) -> None:
            await self._store.settle(lease, Settlement(space, accepted=True, delivered=lease.events))
            await deliver(self, lease, space, sent_at)

        shop.patch.setattr(Relay, "_deliver", settle_first)
    shop.put(event())
    with running_service() as service:
        service.answer = lambda *_: HANG
        async with AsyncPerkamoClient("sk_test_x", base_url=service.url) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(Relay(shop.store(), client).run)
                    while not service.requests:  # noqa: ASYNC110 - the service runs in a thread
                        await anyio.sleep(0.01)
                    scope.cancel()
            service.answer = lambda *_: None
            await Relay(shop.store(), client, until_empty=True).run()
        return not service.applied


async def no_fencing(shop: Shop, is_planted: bool) -> bool:
    """Whose lease ran out got a refusal, and the next holder gets an acceptance."""
    if is_planted:
        for name in ("DELIVERED", "DEAD", "LATER"):
            shop.change(name, " AND token = %(token)s" if name == "DELIVERED" else " AND e.token = %(token)s")
    shop.put(event())
    first, second = shop.store(), shop.store()
    late, current = await take(first, seconds=0.0), await take(second)
    await first.settle(late, Settlement("key:mine", dead=[(late.events[0], "no")]))
    await second.settle(current, Settlement("key:mine", delivered=current.events))
    stats = await first.count()
    return (stats.delivered, stats.dead) != (1, 0)


async def delete_by_id_alone(shop: Shop, is_planted: bool) -> bool:
    """Whose lease ran out answers when the next holder has delivered, and another event waits under the id."""
    if is_planted:
        shop.change("DELIVERED", " AND token = %(token)s")
    shop.put(event())
    first, second = shop.store(), shop.store()
    late, current = await take(first, seconds=0.0), await take(second)
    await second.settle(current, Settlement("key:mine", delivered=current.events))
    shop.put(event(amount=2))
    await first.settle(late, Settlement("key:mine", delivered=late.events))
    return shop.kept() == 0


async def lease_by_the_clients_clock(shop: Shop, is_planted: bool) -> bool:
    """The clock of one machine is ten minutes ahead."""

    class Ahead(Clock):
        def now(self) -> float:
            return super().now() + 600

    if is_planted:
        run = PostgresStore._run

        def by_own_clock(self: PostgresStore, script: str, parameters: Any) -> Any:
            moment = f"(timestamptz '2026-01-01' + {self._clock.now()} * interval '1 second')"
            return run(self, script.replace("statement_timestamp()", moment), parameters)

        shop.patch.setattr(PostgresStore, "_run", by_own_clock)
    shop.put(event())
    await take(shop.store())
    return bool((await take(shop.store(Ahead()))).events)


async def put_outside_the_transaction(shop: Shop, is_planted: bool) -> bool:
    """The order is rolled back after the put."""
    outbox = PostgresOutbox(schema=shop.schema)
    with (
        psycopg.connect(shop.server.dsn) as connection,
        psycopg.connect(shop.server.dsn, autocommit=True) as beside,
    ):
        if is_planted:
            outbox.put(beside, event(), autocommit=True)
        else:
            outbox.put(connection, event())
        connection.rollback()
    return shop.kept() > 0


async def asynchronous_claim(shop: Shop, is_planted: bool) -> bool:
    """The database crashes after the claim; the application commits asynchronously."""
    if is_planted:
        shop.change("CLAIM", DURABLE)
    server = Server(18, {"wal_writer_delay": "10s", "autovacuum": "off", "synchronous_commit": "off"})
    try:
        server.start()
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE orders (id integer)")
            for statement in outbox_schema():
                connection.execute(statement.encode())
            connection.execute("SET synchronous_commit = on")
        outbox, store = PostgresOutbox(), PostgresStore(Database(server.dsn), "perkamo", None, Clock())
        for number in range(5):  # the log is written every ten seconds: hardly ever at just this moment
            with psycopg.connect(server.dsn) as connection:
                connection.execute("INSERT INTO orders VALUES (%s)", (number,))
                outbox.put(connection, event().with_transaction_id(f"order-{number}"))
            claimed = await take(store)
            store.database.close()
            server.crash()
            assert claimed.events
            if (number,) not in server.execute("SELECT id FROM orders"):
                return True
            server.execute("DELETE FROM perkamo.events")
        return False
    finally:
        server.remove()


async def condition_only_in_the_subquery(shop: Shop, is_planted: bool) -> bool:
    """Another claims between the look at the rows and the claim."""
    condition = "AND leased_until <= statement_timestamp()"
    if is_planted:
        shop.change("CLAIM", " FOR UPDATE SKIP LOCKED")
        shop.change("CLAIM", " AND e.leased_until <= statement_timestamp()")
    shop.put(event())
    slow, quick = shop.store(), shop.store()
    await slow.count()
    unhurried = statements.CLAIM
    found: list[Lease] = []

    async def claim() -> None:
        found.append(await take(slow))

    with psycopg.connect(shop.server.dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(18)")
        held_up = f"{condition} AND (SELECT pg_advisory_xact_lock(18)) IS NOT NULL"
        shop.change("CLAIM", condition, held_up)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"
            while not shop.server.execute(waiting):  # noqa: ASYNC110 - the database is another process
                await anyio.sleep(0.01)
            shop.patch.setattr(statements, "CLAIM", unhurried)
            found.append(await take(quick))
            holder.rollback()
    assert found[0].events
    return all(lease.events for lease in found)


async def compare_without_a_loop(shop: Shop, is_planted: bool) -> bool:
    """A relay delivers and deletes the row between the insert and the look."""
    if is_planted:
        original = Putting.steps

        def once(self: Putting, space: str, events: Any) -> Steps:
            inner = original(self, space, events)
            answer = yield next(inner)
            try:
                query = inner.send(answer)
            except StopIteration:  # inserted at once
                return
            yield query

        shop.patch.setattr(Putting, "steps", once)
    shop.put(event())
    ask_psycopg = connections._psycopg

    def delivered_meanwhile(connection: Any, autocommit: bool) -> Callable[[Query], Answer]:
        ask = ask_psycopg(connection, autocommit)

        def ask_late(query: Query) -> Answer:
            if query.returns_rows:
                shop.server.execute(f'DELETE FROM "{shop.schema}".events')
            return ask(query)

        return ask_late

    shop.patch.setitem(connections._SYNC, "psycopg.Connection", delivered_meanwhile)
    shop.put(event(amount=2))
    return shop.kept() == 0


SCENARIOS = (
    settle_before_the_answer,
    no_fencing,
    delete_by_id_alone,
    lease_by_the_clients_clock,
    put_outside_the_transaction,
    asynchronous_claim,
    condition_only_in_the_subquery,
    compare_without_a_loop,
)


@pytest.mark.parametrize("is_planted", [True, False], ids=["planted", "as it is"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_planted_bug_is_caught(scenario: Callable[[Shop, bool], Any], is_planted: bool, shop: Shop) -> None:
    """It does harm, and without it there is none; catches a test that would notice nothing."""
    assert await scenario(shop, is_planted) == is_planted
