"""The store: claims, leases, fencing and settling, on both versions, with other transactions open beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import anyio
import psycopg
import pytest

from perkamo import Event, Hook, PerkamoConfigurationError, PerkamoOutboxError, PostgresOutbox, hooks, outbox_schema
from perkamo.outbox.postgres import statements
from perkamo.outbox.postgres import store as store_module
from perkamo.outbox.postgres.store import Order, PostgresStore
from perkamo.outbox.settling import SIZES
from perkamo.outbox.store import UNCOUNTED, Lease, Settlement, StoredEvent
from perkamo.postgres import Database, Rows
from perkamo.runtime.clock import Clock
from tests.outbox.postgres.server import Server

pytestmark = pytest.mark.anyio
MINE = "key:mine"
take_all = partial(PostgresStore.take, spaces=[MINE], sizes=SIZES, max_bytes=1 << 20, seconds=60.0)


@pytest.fixture
def anyio_backend() -> str:
    """The store works in threads; what runs them is seen in the relay's tests."""
    return "asyncio"


class OwnTime(Clock):
    """A clock that a test moves, for the pace of this side; leases go by the database's."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        """Return the test's time."""
        return self.seconds


@pytest.fixture
def clock() -> OwnTime:
    """The test's clock."""
    return OwnTime()


@pytest.fixture
def new_store(server: Server, schema: str, clock: OwnTime) -> Iterator[Callable[..., PostgresStore]]:
    """Make stores, each as in a process of its own."""
    databases: list[Database] = []

    def make(order_by: Order = None, dsn: str = server.dsn) -> PostgresStore:
        databases.append(Database(dsn))
        return PostgresStore(databases[-1], schema, order_by, clock)

    yield make
    for database in databases:
        database.close()


@pytest.fixture
def store(new_store: Callable[..., PostgresStore]) -> PostgresStore:
    """One of them."""
    return new_store()


@pytest.fixture
def put(schema: str, connection: "psycopg.Connection[Any]") -> Callable[..., list[str]]:
    """Put events of these names and commit; return their transaction ids."""

    def put(*names: object, customer: str = "customer", space: str | None = None) -> list[str]:
        events = [Event(customer, "review.created", f"review_{name}") for name in names]
        PostgresOutbox(schema=schema, space=space).put_many(connection, events)
        connection.commit()
        return [str(event.transaction_id) for event in events]

    return put


def ids(events: Sequence[StoredEvent]) -> list[str]:
    """Return the transaction ids of events."""
    return [event.transaction_id for event in events]


async def test_claims_go_from_the_oldest_and_nobody_gets_what_is_leased(
    store: PostgresStore, new_store: Callable[..., PostgresStore], put: Callable[..., list[str]]
) -> None:
    """Two stores share what waits, in its order; catches a lease that another does not see."""
    names = put(*range(250))

    leases = [await take_all(store), await take_all(new_store()), await take_all(store)]
    nothing = await take_all(new_store())

    assert [ids(lease.events) for lease in leases] == [names[:100], names[100:200], names[200:]]
    assert len({lease.token for lease in leases}) == 3
    assert (nothing.events, nothing.waiting, nothing.others_wait) == ((), 250, False)
    assert nothing.wait is not None
    assert 50 < nothing.wait <= 60


async def test_a_request_has_a_limit_of_bytes_and_at_least_one_event(
    store: PostgresStore, put: Callable[..., list[str]]
) -> None:
    """As many as fit, and one that fits nowhere by itself; catches a queue that one long event stops."""
    names = put(*range(3))
    size = len(Event("customer", "review.created", names[0]).to_bytes())

    first = await take_all(store, max_bytes=2 * size + 1)
    second = await take_all(store, max_bytes=1)

    assert (ids(first.events), ids(second.events)) == (names[:2], names[2:])


async def test_what_failed_before_travels_with_its_like(store: PostgresStore, put: Callable[..., list[str]]) -> None:
    """By tens, then alone, and what never failed in hundreds; catches a poison that is bisected among fresh ones."""
    names = put(*range(30))
    lease = await take_all(store)
    later = [(event, 4 if number < 15 else 5, 0.0) for number, event in enumerate(lease.events[:20])]
    later += [(event, 0, 0.0) for event in lease.events[20:]]
    await store.settle(lease, Settlement(MINE, later=later))

    found = [await take_all(store) for _ in range(4)]

    assert [ids(one.events) for one in found[:2]] == [names[:10], names[10:15]]
    assert [ids(one.events) for one in found[2:]] == [names[15:16], names[16:17]]
    assert found[0].events[0].failures == 4


async def test_settling_binds_deletes_keeps_and_buries(store: PostgresStore, put: Callable[..., list[str]]) -> None:
    """Each event as the settlement says, and what it does not name stays leased; catches a batch settled as one."""
    names = put(*range(5))
    lease = await take_all(store)
    one, two, three, four, _ = lease.events

    settled = Settlement(
        MINE,
        accepted=True,
        delivered=[one],
        dead=[(two, "it's 100 %\0 wrong")],
        later=[(three, 1, 0.0), (four, 1, 90.0)],
    )
    await store.settle(lease, settled)
    again, stats = await take_all(store), await store.count()

    assert ids(again.events) == [names[2]]
    assert (stats.accepted, stats.delivered, stats.pending, stats.dead) == (5, 1, 3, 1)
    assert [(one.transaction_id, one.reason) for one in await store.dead(0, 9)] == [(names[1], "it's 100 %  wrong")]
    assert (await take_all(store, spaces=["key:other"])).waiting == 1  # the one that was not named is bound to nobody


async def test_a_late_answer_changes_nothing(
    server: Server, schema: str, store: PostgresStore, new_store: Callable[..., PostgresStore], put: Callable[..., Any]
) -> None:
    """Whose lease ran out settles nothing of the next holder's; catches a settlement by id alone."""
    names = put("one")
    late = await take_all(store, seconds=0.0)
    current = await take_all(new_store())
    [event] = late.events

    for settlement in (
        Settlement(MINE, delivered=[event]),
        Settlement(MINE, dead=[(event, "no")]),
        Settlement(MINE, later=[(event, 3, 0.0)]),
    ):
        await store.settle(late, settlement)
    rows = server.execute(f'SELECT token, failures FROM "{schema}".events')
    await store.settle(current, Settlement(MINE, delivered=current.events))
    await store.settle(current, Settlement(MINE, delivered=current.events))

    assert ids(current.events) == names
    assert rows == [(current.token, 0)]
    assert (await store.count()).delivered == 1


async def test_a_dead_relays_leases_run_out_by_the_databases_clock(
    server: Server, schema: str, new_store: Callable[..., PostgresStore], put: Callable[..., list[str]], clock: OwnTime
) -> None:
    """Whatever this side's clock says; catches a lease that a machine with a wrong clock ends or keeps for ever."""
    names = put("one")
    await take_all(new_store(), seconds=30.0)

    clock.seconds += 600
    too_early = await take_all(new_store())
    clock.seconds -= 1200
    server.execute(f'UPDATE "{schema}".events SET leased_until = clock_timestamp()')
    taken_over = await take_all(new_store())

    assert (too_early.events, too_early.waiting) == ((), 1)
    assert ids(taken_over.events) == names


async def test_spaces_are_kept_apart(store: PostgresStore, put: Callable[..., list[str]]) -> None:
    """A relay gets its own and what is bound to none, and hears of others; catches a key that earns elsewhere."""
    put("theirs", space="theirs")
    mine = put("mine")

    lease = await take_all(store)
    await store.settle(lease, Settlement(MINE, delivered=lease.events))
    nothing = await take_all(store)

    assert ids(lease.events) == mine
    assert (nothing.waiting, nothing.others_wait) == (0, True)


async def test_rebinding_takes_what_belongs_to_a_key_and_leaves_names(
    store: PostgresStore, put: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps, all of them, with the dead letters; catches a loop that ends after its first step."""
    monkeypatch.setattr(store_module, "_AT_ONCE", 7)
    names = put(*range(30))
    put("named", space="named")
    lease = await take_all(store)
    await store.settle(
        lease,
        Settlement(
            MINE, accepted=True, dead=[(lease.events[0], "no")], later=[(event, 0, 0.0) for event in lease.events[1:]]
        ),
    )

    assert await store.rebind("key:next", "key:nobody's") == 0
    assert await store.rebind("key:next", MINE) == 29
    assert await store.rebind("key:last", None) == 29
    assert await store.requeue(None) == 1
    assert ids((await take_all(store, spaces=["key:last"])).events) == [*names[1:], names[0]]
    assert ids((await take_all(store, spaces=["named"])).events) == ["review_named"]


async def test_dead_letters_wait_again_at_the_end_once(
    store: PostgresStore, put: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them or all, in steps, under new numbers; a second death updates the letter (trap 5)."""
    monkeypatch.setattr(store_module, "_AT_ONCE", 3)
    names = put(*range(8))
    lease = await take_all(store)
    await store.settle(lease, Settlement(MINE, accepted=True, dead=[(event, "first") for event in lease.events]))
    pages = [await store.dead(0, 5), await store.dead((await store.dead(0, 5))[-1].row, 5)]

    assert await store.requeue(names[3]) == 1
    assert await store.requeue("unknown") == 0
    assert await store.requeue(None) == 7
    again = await take_all(store)
    await store.settle(again, Settlement(MINE, dead=[(again.events[0], "second")]))

    assert [one.transaction_id for page in pages for one in page] == names
    assert ids(again.events) == [names[3], *names[:3], *names[4:]]
    assert [(one.transaction_id, one.reason) for one in await store.dead(0, 9)] == [(names[3], "second")]


async def test_a_letter_of_an_id_that_died_before_is_updated(
    server: Server, schema: str, store: PostgresStore, put: Callable[..., list[str]]
) -> None:
    """Trap 5: two under one id, by a race of put and settle, end as one letter; catches a unique violation."""
    names = put("one")
    server.execute(
        f'INSERT INTO "{schema}".dead_letters (space, transaction_id, customer, put_at, reason, body) '
        f"SELECT space, transaction_id, customer, put_at, 'first', body FROM \"{schema}\".events"
    )
    lease = await take_all(store)

    await store.settle(lease, Settlement(MINE, dead=[(lease.events[0], "second")]))

    assert [(one.transaction_id, one.reason) for one in await store.dead(0, 9)] == [(names[0], "second")]
    assert (await store.count()).pending == 0


async def test_what_the_service_asks_of_one_all_obey(
    store: PostgresStore, new_store: Callable[..., PostgresStore], put: Callable[..., list[str]], clock: OwnTime
) -> None:
    """A pause is the table's; another Space goes on; nothing is asked of the database meanwhile that takes long."""
    put(*range(3))
    theirs = put("theirs", space="theirs")
    lease = await take_all(store, sizes=(1,))
    await store.settle(
        lease, Settlement(MINE, accepted=True, later=[(lease.events[0], 0, 0.0)], pause=30.0, error="429")
    )

    other = new_store()
    paused = [await take_all(one) for one in (store, other, other)]
    asked = await take_all(other, spaces=["theirs"], sizes=(1,))
    clock.seconds += 20
    still = await take_all(other)

    for lease in (*paused, still):
        assert (lease.events, lease.waiting) == ((), UNCOUNTED)
    assert paused[1].wait is not None
    assert 20 < paused[1].wait <= 30
    assert ids(asked.events) in ([theirs[0]], ["review_1"])


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


@pytest.mark.parametrize("version", [None, 0, 2])
async def test_a_schema_of_another_version_is_refused(
    version: int | None, server: Server, schema: str, new_store: Callable[..., PostgresStore]
) -> None:
    """With what to run; an older or newer one is never guessed at."""
    server.execute(f'UPDATE "{schema}".version SET version = {version}' if version is not None else "SELECT 1")
    if version is None:
        server.execute(f'DROP TABLE "{schema}".version')

    with pytest.raises(PerkamoOutboxError, match=r"perkamo outbox sql|newer release") as caught:
        await take_all(new_store())

    assert not caught.value.retryable


async def test_check_names_tables_and_rights_that_are_missing(server: Server, schema: str) -> None:
    """Each by its name, and what a role may not do; catches a check that only reads the version."""
    role = schema.encode().hex()
    server.execute(f'CREATE ROLE "{role}" LOGIN')
    outbox = PostgresOutbox(f"{server.dsn}&user={role}", schema=schema)
    try:
        blind = await outbox.check()
        with pytest.raises(PerkamoOutboxError, match="perkamo outbox check"):
            await outbox.stats()
        server.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"')
        server.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"')
        whole = await outbox.check()
        server.execute(f'REVOKE UPDATE, DELETE ON "{schema}".events FROM "{role}"')
        server.execute(f'DROP TABLE "{schema}".dead_letters')
        partly = await outbox.check()
    finally:
        await outbox.aclose()
        server.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')

    assert "USAGE" in blind[0]
    assert whole == []
    assert partly == [
        "The table dead_letters is missing.",
        "A relay needs UPDATE, DELETE on events, which this role lacks.",
    ]


async def test_the_sum_of_deliveries_outlives_their_rows(
    server: Server, schema: str, new_store: Callable[..., PostgresStore], put: Callable[..., list[str]]
) -> None:
    """Old ones become one row, and the count stays; catches a table that grows with each request."""
    for number in range(5):
        put(number)
        store = new_store()
        lease = await take_all(store)
        await store.settle(lease, Settlement(MINE, delivered=lease.events))
        server.execute(f"UPDATE \"{schema}\".deliveries SET at = at - interval '2 minutes'")
    store = new_store()
    await store.settle(Lease(), Settlement(MINE))

    assert server.execute(f'SELECT events FROM "{schema}".deliveries') == [(5,)]
    assert (await store.count()).delivered == 5


async def test_the_stats_tell_age_deliveries_and_why_everything_waits(
    store: PostgresStore, put: Callable[..., list[str]], server: Server, schema: str
) -> None:
    """By the database's clock, and of each Space; catches an age of the newest, and a pause that outlives its cause."""
    put(1, space="mine")
    server.execute(f"UPDATE \"{schema}\".events SET put_at = put_at - interval '1 hour'")
    put(2, 3, space="mine")
    put(4, space="other")
    first = await take_all(store, spaces=["mine"], sizes=(1,))
    await store.settle(first, Settlement("mine", accepted=True, delivered=first.events))
    server.execute(f"UPDATE \"{schema}\".events SET put_at = put_at - interval '10 minutes' WHERE space = 'mine'")
    later = await take_all(store, spaces=["mine"])
    waits = [(event, 1, 0.0) for event in later.events]
    await store.settle(later, Settlement("mine", later=waits, error="503", retry_in=20.0))
    paused = await store.count()
    again = await take_all(store, spaces=["mine"])
    await store.settle(again, Settlement("mine", accepted=True, delivered=again.events))
    passed = await store.count()

    [mine, other] = paused.spaces
    assert (mine.space, mine.pending, mine.delivered_last_minute, mine.paused) == ("mine", 2, 1, "503")
    assert mine.oldest_age == pytest.approx(600, abs=30)
    assert mine.paused_until is not None
    assert 0 < (mine.paused_until - datetime.now(UTC)).total_seconds() <= 21
    assert (other.space, other.pending, other.paused, other.last_delivery) == ("other", 1, None, None)
    assert (paused.paused, paused.last_error, paused.pending) == ("503", "503", 3)
    assert paused.oldest_age == mine.oldest_age
    assert (passed.paused, passed.paused_until, passed.last_error) == (None, None, "503")
    assert (passed.delivered_last_minute, passed.pending) == (3, 1)
    assert passed.last_delivery is not None
    assert passed.last_delivery.tzinfo is UTC


async def test_the_trace_context_of_who_puts_comes_with_the_event(
    store: PostgresStore, put: Callable[..., list[str]]
) -> None:
    """One event or several; catches an order whose delivery can't be followed."""

    class Traced(Hook):
        def on_put(self) -> str:
            return "00-trace"

    traced = Traced()
    hooks.install(traced)
    try:
        put(1)
        put(2, 3)
    finally:
        hooks.uninstall(traced)
    put(4)

    lease = await take_all(store)
    assert [event.trace_context for event in lease.events] == [*["00-trace"] * 3, None]
