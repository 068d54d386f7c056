"""The tables of an outbox: what is put, leased, settled and counted, on a real SQLite."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perkamo.outbox.errors import PerkamoOutboxConflictError, PerkamoOutboxFullError
from perkamo.outbox.record import Counts
from perkamo.outbox.sqlite import tables as tables_module
from perkamo.outbox.sqlite.tables import Tables
from perkamo.outbox.store import Lease, Settlement
from tests.outbox.sqlite.box import HERE, ROOM, SIZES, THERE, Box, ids


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An empty outbox."""
    box = Box(tmp_path / "outbox")
    yield box
    box.database.close()


def test_what_was_put_is_leased_in_order_and_byte_for_byte(box: Box) -> None:
    """The oldest first, with the bytes of the put."""
    box.put("b", "a", "c", body=b'{"exact":1}')

    lease = box.take()

    assert ids(lease) == ["b", "a", "c"]
    assert {event.body for event in lease.events} == {b'{"exact":1}'}
    assert box.counts == Counts(pending=3, size=33)


def test_the_same_event_is_kept_once(box: Box) -> None:
    """Putting an event again after a doubtful answer must not make two of it, in one commit or in two."""
    box.put("a", "a")
    box.put("a")

    assert box.counts.accepted == 1


def test_another_event_under_a_known_id_is_refused(box: Box) -> None:
    """Only one of the two could ever be applied: the caller must know, also when the first is leased or dead."""
    box.put("a")
    box.refuse(box.take())
    box.put("b")
    box.take()

    for known in ("a", "b"):
        with pytest.raises(PerkamoOutboxConflictError):
            box.put(known, body=b"other")

    assert box.counts == Counts(pending=1, dead=1, size=4)


def test_a_full_outbox_refuses_and_keeps_what_it_has(box: Box) -> None:
    """The limit counts bytes of events; an event that is here already needs no room."""
    box.put("a", body=b"x" * 60, room=100)

    with pytest.raises(PerkamoOutboxFullError, match="max_bytes"):
        box.put("b", body=b"x" * 60, room=100)
    box.put("a", body=b"x" * 60, room=100)

    assert ids(box.take()) == ["a"]


def test_the_disk_needs_little_more_than_the_bytes_of_the_events(box: Box, tmp_path: Path) -> None:
    """Expect the 100 bytes of the operations guide; catches an index, or a copy of the body, that doubles the size."""
    count, body = 3000, b"x" * 270
    box.put(*(f"order_{number}" for number in range(count)), body=body)
    box.database.close()

    size = sum(path.stat().st_size for path in (tmp_path / "outbox").glob("*.sqlite3"))

    assert 50 < size / count - len(body) < 110


def test_a_lease_is_bounded_in_events_and_bytes(box: Box) -> None:
    """A request stays small, yet one large event is always taken."""
    box.put("big", body=b"x" * 1000)
    box.put(*(f"small {number}" for number in range(150)), body=b"x" * 10)

    assert ids(box.take(max_bytes=20)) == ["big"]
    assert len(ids(box.take(max_bytes=55))) == 5
    assert len(ids(box.take())) == 100


def test_what_is_leased_is_not_leased_again_before_the_lease_ends(box: Box) -> None:
    """Two relays never have one event; the second learns when to look again, and that something waits."""
    box.put("a")
    box.take(seconds=30.0)

    nothing = box.take()

    assert (ids(nothing), nothing.waiting) == ([], 1)
    assert nothing.wait is not None
    assert 0 < nothing.wait <= 30


def test_a_lease_that_ended_is_taken_over_and_its_former_holder_settles_nothing(box: Box) -> None:
    """Fencing: the late answer of a relay that stood still deletes nothing, and counts nothing twice."""
    box.put("a")
    late = box.take(seconds=0.0)
    current = box.take()

    box.refuse(late)
    box.put_off(late, 9, 0.0)
    box.deliver(late)

    assert ids(current) == ["a"]
    assert box.counts == Counts(pending=1, size=2)
    box.deliver(current)
    box.deliver(current)
    assert box.counts == Counts(delivered=1)


def test_a_late_answer_does_not_settle_the_next_event_of_that_row(box: Box) -> None:
    """SQLite uses a row's number again; the token is of the lease, not of the row."""
    box.put("a")
    late = box.take(seconds=0.0)
    box.deliver(box.take())
    box.put("b")
    box.take()

    box.deliver(late)

    assert box.counts == Counts(delivered=1, pending=1, size=2)


def test_leases_of_the_dead_are_taken_over_at_once(box: Box, tmp_path: Path) -> None:
    """Whoever has died, by its lock, holds nobody up; one that lives does."""
    box.put("a")
    other = Box(tmp_path / "outbox")
    other.take(seconds=600.0)
    held_up = box.take()

    box.dead_users.add(other.database.directory.user)
    taken_over = box.take()
    other.database.close()

    assert (ids(held_up), ids(taken_over)) == ([], ["a"])
    assert held_up.wait is not None
    assert held_up.wait < 1  # to look again whether it has died


def test_a_lease_from_before_the_machine_was_started_anew_holds_nobody_up(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock counts from the start of the machine; a lease that ends in weeks by it was made before that."""
    box.put("a", "b")
    clock = [3_000_000.0]
    monkeypatch.setattr(tables_module, "boot_time", lambda: clock[0])
    box.put_off(box.take(seconds=30.0), 1, 300.0)
    clock[0] = 5.0

    assert ids(box.take()) == ["a", "b"]


def test_an_event_that_was_put_off_waits_by_itself(box: Box) -> None:
    """The others pass; it is taken again when its time has come, with its failures."""
    box.put("a", "b")
    box.put_off(box.take(max_bytes=1), 1, 60.0)

    others = box.take()
    nothing = box.take()

    assert ids(others) == ["b"]
    assert nothing.waiting == 2


def test_events_that_failed_travel_with_their_like(box: Box) -> None:
    """Those of other numbers of failures travel in requests of their own, as many together as these allow."""
    box.put(*"abcdef")
    box.put_off(box.take(), 2, 0.0)
    box.put("new")

    leases = [ids(box.take()) for _ in range(4)]

    assert leases == [["a", "b"], ["c", "d"], ["e", "f"], ["new"]]


def test_events_go_to_the_space_that_they_are_bound_to(box: Box) -> None:
    """Pitfall 23: rows of one Space never leave with another's key, and are said to wait."""
    box.put("a")
    box.put("b", space=THERE)

    assert ids(box.take()) == ["a"]
    assert box.take().others_wait
    assert not box.take("key:neither", HERE, THERE).others_wait
    assert ids(box.take(THERE)) == []


def test_what_no_space_was_known_for_is_bound_when_the_service_has_accepted_the_key(box: Box) -> None:
    """A wrong key captures nothing; catches binding when events are taken."""
    box.put("a")
    box.put_off(lease := box.take(THERE), 0, 0.0, accepted=False)
    box.put_off(box.take(), 0, 0.0, accepted=True)

    assert ids(lease) == ["a"]
    assert ids(box.take(THERE)) == []
    assert ids(box.take()) == ["a"]


def test_a_pause_holds_up_all_relays_of_the_space(box: Box, tmp_path: Path) -> None:
    """What the service asks of one relay, all obey; other Spaces are not concerned."""
    box.put("a", "b")
    box.put("c", space=THERE)
    lease = box.take(max_bytes=1)
    later = [(event, 0, 0.0) for event in lease.events]
    box.settle(lease, Settlement(HERE, later=later, pause=30.0, error="429"))
    other = Box(tmp_path / "outbox")

    held_up = other.take()
    elsewhere = other.take(THERE)
    other.database.close()

    assert (ids(held_up), held_up.waiting) == ([], 3)
    assert held_up.wait is not None
    assert 25 < held_up.wait <= 30
    assert ids(elsewhere) == ["a", "b", "c"]


def test_dead_letters_keep_their_reason_and_can_wait_again(box: Box) -> None:
    """Nothing that was refused is deleted; requeue lets one or all wait again."""
    box.put(*"abc")
    box.refuse(box.take())
    letters = box.dead()

    with box.database.transaction() as tables:
        moved = [tables.requeue("b", 10), tables.requeue("b", 10), tables.requeue(None, 1), tables.requeue(None, 10)]

    assert [(letter.transaction_id, letter.reason) for letter in letters] == [(one, f"no {one}") for one in "abc"]
    assert moved == [1, 0, 1, 1]
    assert ids(box.take()) == ["a", "b", "c"]
    assert box.counts == Counts(pending=3, size=6)


def test_rebinding_takes_what_belongs_to_other_keys_and_leaves_named_spaces_alone(box: Box) -> None:
    """After a change of the key; names were given so that they need none of it."""
    box.put("dead", space=THERE)
    box.refuse(box.take(THERE))
    box.put("a")
    box.put("b", space=THERE)
    box.put("c", space="named")

    with box.database.transaction() as tables:
        moved = tables.rebind(HERE, None, 10)
        one_more = tables.rebind(HERE, "named", 10)
        tables.requeue(None, 10)

    assert (moved, one_more) == (2, 1)
    assert ids(box.take()) == ["dead", "a", "b", "c"]


def test_damaged_bytes_are_reported(box: Box) -> None:
    """A changed body is found before it is sent; the same bytes as a text are sound; catches an error of all."""
    box.put("a", "b", "c", body=b'{"amount":1}')
    with box.database.transaction() as tables:
        tables.connection.execute("UPDATE events SET body = ? WHERE id = 1", (b'{"amount":9}',))
        tables.connection.execute("UPDATE events SET body = CAST(body AS TEXT) WHERE id = 2")
        tables.connection.execute("INSERT INTO leases VALUES (3, 1, NULL, 0, '-100')")

    assert [event.is_damaged for event in box.take().events] == [True, False, False]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["deliver", "refuse", "put off", "late"]), st.just(0)),
        st.tuples(st.just("requeue"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["reopen", "fail"]), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_accepted_is_delivered_plus_pending_plus_dead_at_every_moment(
    steps: Sequence[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """P4: after any steps the counts equal what an exact model says and what the tables hold."""
    box = Box(tmp_path_factory.mktemp("box"))
    model: Counter[str] = Counter()
    late = Lease()
    for step, number in steps:
        if step == "put":
            before = box.counts.accepted
            box.put(f"tx{number}", body=b"abc")
            model["accepted"] += box.counts.accepted - before
        elif step in {"deliver", "refuse", "put off", "late"}:
            lease = box.take(max_bytes=4, seconds=0.0 if step == "late" else 60.0)
            if step == "deliver":
                box.deliver(lease)
                model["delivered"] += len(lease.events)
            elif step == "refuse":
                box.refuse(lease)
            elif step == "put off":
                box.put_off(lease, number, 0.0)
            else:
                box.take()
                delivered = box.counts.delivered
                box.deliver(late)
                model["delivered"] += box.counts.delivered - delivered
                late = lease
        elif step == "requeue":
            with box.database.transaction() as tables:
                tables.requeue(f"tx{number}", 1)
        elif step == "reopen":
            box.database.close()
        else:
            with pytest.raises(PerkamoOutboxFullError):
                box.put("never", room=0)

        counts = box.counts
        assert counts.accepted == counts.delivered + counts.pending + counts.dead == model["accepted"]
        assert counts.delivered == model["delivered"]
        assert [counts.pending, counts.dead] == box.rows()
        assert counts.size == 3 * sum(box.rows())
    box.database.close()


def test_deliveries_count_for_a_minute(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that nobody sets; catches figures that only ever grow, and some that outlive a restart."""
    now = 1000.0
    monkeypatch.setattr(tables_module, "boot_time", lambda: now)
    counted = []
    for now in (1000.0, 1050.0, 1070.0, 1200.0, 3.0):
        box.put(str(now))
        box.deliver(box.take())
        with box.database.transaction() as tables:
            counted += [space.delivered_last_minute for space in tables.spaces()]

    assert counted == [1, 2, 2, 1, 1]


def test_the_trace_context_of_the_first_put_is_kept(box: Box) -> None:
    """Beside the event, through a lease; catches one that a repeated put takes over."""
    with box.database.transaction() as tables:
        for context in ("00-first", "00-second"):
            tables.put("a", "", b"{}", 1000, context)

    assert [event.trace_context for event in box.take().events] == ["00-first"]


def steps(box: Box, work: Callable[[Tables], object]) -> int:
    """Count the steps of SQLite's machine that some work takes, in hundreds."""
    hundreds = 0

    def count() -> None:
        nonlocal hundreds
        hundreds += 1

    with box.database.transaction() as tables:
        tables.connection.set_progress_handler(count, 100)
        work(tables)
        tables.connection.set_progress_handler(None, 0)
    return hundreds


@pytest.mark.parametrize(("space", "is_dead"), [(THERE, False), (HERE, True)], ids=["another key's", "dead"])
def test_the_work_does_not_grow_with_rows_that_are_not_ours(box: Box, space: str, *, is_dead: bool) -> None:
    """Twenty thousand of them cost not one step more; catches a scan of the table in any of what is done often."""

    def put(tables: Tables) -> None:
        for n in range(50):
            tables.put(f"ours {n}", HERE, b"{}", ROOM)

    def work() -> list[int]:
        numbers = [steps(box, put)]
        leases: list[Lease] = []
        numbers.append(steps(box, lambda tables: leases.append(take(tables))))
        refused = Settlement(HERE, dead=[(leases[0].events[0], "no")], delivered=leases[0].events[1:])
        numbers.append(steps(box, lambda tables: tables.settle(leases[0], refused)))
        numbers.append(steps(box, lambda tables: tables.requeue("ours 0", 1)))
        numbers.append(steps(box, lambda tables: leases.append(take(tables))))
        numbers.append(steps(box, take))
        box.deliver(leases[1])
        return numbers

    def take(tables: Tables) -> Lease:
        return tables.take([HERE], SIZES, ROOM, 60.0, lambda _: False)

    work()
    before = work()
    with box.database.transaction() as tables:
        rows = ((f"other {n}", space, "no" if is_dead else None) for n in range(20_000))
        tables.connection.executemany(
            "INSERT INTO events(transaction_id, space, put_at, reason, checksum, body) VALUES (?, ?, 0, ?, 0, '')", rows
        )
        tables.count_rows()

    after = work()

    assert sum(before) > 10
    assert [more - less for more, less in zip(after, before, strict=True) if more > less + 1] == []
