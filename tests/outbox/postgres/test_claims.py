"""Claims beside open transactions and other claims, and by customer."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import psycopg
import pytest

from perkamo import Event, PerkamoConfigurationError, PostgresOutbox, outbox_schema
from perkamo.outbox.postgres import statements
from perkamo.outbox.postgres import store as store_module
from perkamo.outbox.postgres.store import Order, PostgresStore
from perkamo.outbox.store import Lease, Settlement
from perkamo.postgres import Rows
from tests.outbox.postgres.claiming import MINE, OwnTime, ids, take_all
from tests.outbox.postgres.server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The store works in threads; what runs them is seen in the relay's tests."""
    return "asyncio"


async def test_an_event_that_commits_late_is_found_within_a_second(
    server: Server, schema: str, store: PostgresStore, put: Callable[..., list[str]], clock: OwnTime
) -> None:
    """Trap 2: the hint of where to look is a hint; catches ids taken for the order of commits."""
    outbox = PostgresOutbox(schema=schema)
    with psycopg.connect(server.dsn) as early:
        outbox.put(early, Event("customer", "review.created", "review_early"))
        put(*range(300))
        leases = [await take_all(store) for _ in range(2)]
        early.commit()
    hinted = await take_all(store)
    clock.seconds += 1.01
    put("more")
    swept = await take_all(store)

    assert [len(one.events) for one in (*leases, hinted)] == [100, 100, 100]
    assert "review_early" not in ids(hinted.events)
    assert ids(swept.events) == ["review_early", "review_more"]


async def test_a_claim_beside_an_open_transaction_does_not_look_at_the_dead(
    server: Server,
    schema: str,
    store: PostgresStore,
    connection: "psycopg.Connection[Any]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 2: between two sweeps the hint leads past rows that an old snapshot keeps; by counted pages, not by time."""
    outbox = PostgresOutbox(schema=schema)
    outbox.put_many(connection, [Event("customer", "review.created", f"review_{n}") for n in range(6_000)])
    connection.commit()
    with psycopg.connect(server.dsn) as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1")
        for _ in range(50):
            lease = await take_all(store)
            await store.settle(lease, Settlement(MINE, delivered=lease.events))

        hinted = await pages_of_claim(store, monkeypatch, sweeps=False)
        swept = await pages_of_claim(store, monkeypatch, sweeps=True)

    assert swept > hinted + 200  # 5,000 dead rows, about 16 to a page


async def pages_of_claim(store: PostgresStore, monkeypatch: pytest.MonkeyPatch, *, sweeps: bool) -> int:
    """Return how many pages of the table and its indexes a claim looks at, by the database's own account."""
    claim, plans = statements.CLAIM, []
    explained = claim.replace("\nWITH free", "\nEXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) WITH free")
    assert explained != claim
    run = store.database.run

    def keep_plan(script: str, parameters: Mapping[str, object]) -> list[Rows]:
        found = run(script, parameters)
        plans.append(cast("Any", found)[-1][0][0][0]["Plan"])
        return [[]]

    store._sweep_at = 0.0 if sweeps else 1e9
    with monkeypatch.context() as patch:
        patch.setattr(statements, "CLAIM", explained)
        patch.setattr(store.database, "run", keep_plan)
        with suppress(LookupError, ValueError, KeyError, TypeError):
            await take_all(store)
    return int(plans[0]["Shared Hit Blocks"]) + int(plans[0]["Shared Read Blocks"])


async def test_two_claims_at_once_never_share_an_event(
    server: Server, schema: str, new_store: Callable[..., PostgresStore], connection: "psycopg.Connection[Any]"
) -> None:
    """Trap 3: the condition stands again on the locked row; catches the 3 % that were claimed twice."""
    outbox = PostgresOutbox(schema=schema)
    outbox.put_many(connection, [Event("customer", "review.created", f"review_{n}") for n in range(3_000)])
    connection.commit()
    stores = [new_store() for _ in range(4)]
    seen: list[str] = []

    async def drain(one: PostgresStore) -> None:
        while events := (await take_all(one, sizes=(20,))).events:
            seen.extend(ids(events))

    async with anyio.create_task_group() as tasks:
        for one in stores:
            tasks.start_soon(drain, one)

    assert len(seen) == len(set(seen)) == 3_000


async def test_a_claim_judges_the_row_that_it_locks(
    server: Server,
    schema: str,
    new_store: Callable[..., PostgresStore],
    put: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 3, at a named point: a lease that is committed after the claim's snapshot and before its lock counts."""
    put(*range(40))
    found = "AND leased_until <= statement_timestamp()"
    held_up = f"{found} AND (SELECT pg_advisory_xact_lock(18)) IS NOT NULL"  # once the snapshot is taken
    assert found in statements.CLAIM
    monkeypatch.setattr(statements, "CLAIM", statements.CLAIM.replace(found, held_up, 1))
    result: list[Lease] = []

    async def claim() -> None:
        result.append(await take_all(new_store()))

    with psycopg.connect(server.dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(18)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            while not server.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            server.execute(
                f"UPDATE \"{schema}\".events SET token = 7, leased_until = clock_timestamp() + interval '1 hour' "
                "WHERE id % 2 = 0"
            )
            holder.rollback()

    assert len(result[0].events) == 20
    assert server.execute(f'SELECT count(*) FROM "{schema}".events WHERE token = 7') == [(20,)]


async def test_claims_and_settlements_have_an_isolation_of_their_own(
    server: Server, schema: str, new_store: Callable[..., PostgresStore], connection: "psycopg.Connection[Any]"
) -> None:
    """Trap 4: under a default of REPEATABLE READ or SERIALIZABLE no claim fails; catches the 45 % that did."""
    outbox = PostgresOutbox(schema=schema)
    outbox.put_many(connection, [Event("customer", "review.created", f"review_{n}") for n in range(1_000)])
    connection.commit()
    options = "&options=-c%20default_transaction_isolation%3Dserializable"
    stores = [new_store(dsn=server.dsn + options) for _ in range(3)]
    seen: list[str] = []

    async def drain(one: PostgresStore) -> None:
        while (lease := await take_all(one, sizes=(20,))).events:
            await one.settle(lease, Settlement(MINE, delivered=lease.events))
            seen.extend(ids(lease.events))

    async with anyio.create_task_group() as tasks:
        for one in stores:
            tasks.start_soon(drain, one)

    assert len(seen) == len(set(seen)) == 1_000


@pytest.mark.parametrize("order_by", [None, "customer"])
async def test_claims_commit_synchronously_whatever_the_default(
    order_by: Order, server: Server, new_store: Callable[..., PostgresStore], put: Callable[..., list[str]]
) -> None:
    """Trap 1: an application that commits asynchronously, and its settings stay as they are; catches ghost events."""
    put("one", "two", space="shop")
    dsn = f"{server.dsn}&options=-c%20synchronous_commit%3Doff"
    store = new_store(order_by, dsn)
    seen: list[str] = []
    run = store.database.run

    def run_and_ask(script: str, parameters: Any) -> Any:
        rows = run(f"{script}; SELECT current_setting('synchronous_commit')", parameters)
        seen.append(f"{'UPDATE' in script and 'leased_until = statement' in script}: {rows.pop()[0][0]}")
        return rows

    store.database.run = run_and_ask  # type: ignore[method-assign]
    lease = await take_all(store, spaces=["shop"])
    await store.settle(lease, Settlement("shop", delivered=lease.events))
    store.database.run = run  # type: ignore[method-assign]

    assert "True: on" in seen
    assert seen[-1] == "False: off"
    assert run("SELECT current_setting('synchronous_commit')", {})[-1][0][0] == "off"


async def test_of_each_customer_one_is_on_its_way_in_the_order_of_ids(
    new_store: Callable[..., PostgresStore], put: Callable[..., list[str]], clock: OwnTime
) -> None:
    """Also where one waits for another try; a dead letter lets the next go; the ring comes round to everybody."""
    for number in range(3):
        for customer in "abcd":
            put(f"{customer}{number}", customer=customer, space="shop")
    first, second = new_store("customer"), new_store("customer")
    take = partial(take_all, spaces=["shop"], sizes=(2,))

    leases = [await take(first), await take(second), await take(first), await take(second)]
    [a, b], [c, d] = leases[0].events, leases[1].events
    await first.settle(leases[0], Settlement("shop", delivered=[a], later=[(b, 1, 90.0)]))
    await second.settle(leases[1], Settlement("shop", dead=[(c, "no")], later=[(d, 1, 0.0)]))
    rest = [await take(first, sizes=(9,)), await take(second, sizes=(9,))]

    assert [ids(one.events) for one in leases[:2]] == [["review_a0", "review_b0"], ["review_c0", "review_d0"]]
    assert [one.events for one in leases[2:]] == [(), ()]
    assert sorted(ids([*rest[0].events, *rest[1].events])) == ["review_a1", "review_c1", "review_d0"]


async def test_the_ring_goes_past_customers_whose_events_are_on_their_way(
    new_store: Callable[..., PostgresStore], put: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are; catches a look at the first few customers that finds nothing free."""
    monkeypatch.setattr(store_module, "_HEADS", 1)
    for number in range(9):
        put(number, customer=f"customer{number}", space="shop")
    store = new_store("customer")
    take = partial(take_all, spaces=["shop"])
    await take(store, sizes=(7,))
    store._cursor = ""

    leases = [await take(store, sizes=(2,)) for _ in range(2)]

    assert [ids(lease.events) for lease in leases] == [["review_7"], ["review_8"]]


async def test_order_by_customer_needs_a_name_and_its_index(server: Server) -> None:
    """And check() says so; catches a relay that is slow in silence."""
    with pytest.raises(PerkamoConfigurationError, match="space"):
        PostgresOutbox(server.dsn, order_by="customer")
    with psycopg.connect(server.dsn) as connection:
        for statement in outbox_schema("plain"):
            connection.execute(statement.encode())
    outbox = PostgresOutbox(server.dsn, schema="plain", space="shop", order_by="customer")

    missing = await outbox.check()
    server.execute('DROP SCHEMA "plain" CASCADE')

    assert len(missing) == 1
    assert "--order-by customer" in missing[0]


async def test_what_stands_back_is_named_when_nothing_else_can_be_taken(
    store: PostgresStore, put: Callable[..., list[str]]
) -> None:
    """In turn, whoever put it off; catches events that wait for minutes as the relay that put them off has died."""
    names = put("a", "b", "to blame")
    lease = await take_all(store)
    for event, stands_back in zip(lease.events, (True, True, False), strict=True):
        await store.settle(lease, Settlement(MINE, later=[(event, 5, 60.0)], stands_back=stands_back))

    called: list[str] = []
    for _ in range(4):
        back = (await take_all(store)).stands_back
        assert back is not None
        called.append(back.transaction_id)
        await store.settle(Lease(), Settlement(MINE, due=[back]))
        lease = await take_all(store)
        assert [*ids(lease.events), lease.stands_back] == [back.transaction_id, None]
        await store.settle(lease, Settlement(MINE, later=[(lease.events[0], 5, 60.0)], stands_back=True))

    assert called == names[:2] * 2
