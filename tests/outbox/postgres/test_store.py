"""The store in PostgreSQL: what it claims, settles, keeps apart and counts."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import psycopg
import pytest
from attrs import evolve

from perkamo import Event, Hook, PerkamoOutboxError, PostgresOutbox, hooks
from perkamo.outbox.postgres import store as store_module
from perkamo.outbox.postgres.store import PostgresStore
from perkamo.outbox.store import UNCOUNTED, Lease, OutboxStats, Settlement
from tests.outbox.postgres.claiming import MINE, OwnTime, ids, take_all
from tests.outbox.postgres.server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The store works in threads; what runs them is seen in the relay's tests."""
    return "asyncio"


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


async def test_an_event_is_called_back_unless_something_happened_to_it_since(
    store: PostgresStore, put: Callable[..., list[str]]
) -> None:
    """Who took it keeps it, and what failed anew waits; catches one relay's news that undoes another's."""
    names = put("waits", "failed anew", "is on its way")
    lease = await take_all(store)
    waits, failed, taken = lease.events
    await store.settle(lease, Settlement(MINE, later=[(waits, 5, 60.0), (failed, 6, 60.0), (taken, 5, 0.0)]))
    assert ids((await take_all(store)).events) == [names[2]]

    due = [evolve(one, failures=5) for one in lease.events]
    await store.settle(Lease(), Settlement(MINE, due=due))

    assert [ids((await take_all(store)).events) for _ in range(2)] == [[names[0]], []]


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
    """Whatever this side's clock says; catches a lease that a machine with a wrong clock ends or keeps forever."""
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


async def test_the_counts_are_those_of_one_moment(
    store: PostgresStore, put: Callable[..., list[str]], server: Server, schema: str
) -> None:
    """Whatever is committed between the statements; catches Spaces with more than the total."""
    put(1)
    found: list[OutboxStats] = []

    async def count() -> None:
        found.append(await store.count())

    with psycopg.connect(server.dsn) as other:
        other.execute(f'LOCK TABLE "{schema}".spaces IN ACCESS EXCLUSIVE MODE'.encode())
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(4):
                tasks.start_soon(count)
                while not server.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                put(2, 3)
                other.rollback()

    [stats] = found
    assert (stats.pending, [space.pending for space in stats.spaces]) == (1, [1])
    assert (await store.count()).pending == 3
