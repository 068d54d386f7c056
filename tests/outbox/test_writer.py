"""One thread that commits for everybody: groups, errors, cancelling, and its own beginning and end."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import anyio
import anyio.to_thread
import pytest

from perkamo.outbox.errors import (
    PerkamoOutboxConflictError,
    PerkamoOutboxError,
    PerkamoOutboxFullError,
    PerkamoOutboxStorageError,
)
from perkamo.outbox.writer import Job, Writer
from perkamo.runtime.event_loop import InLoop

pytestmark = pytest.mark.anyio


class Paper:
    """What a writer writes to: a list that is kept only where its transaction ends well.

    Attributes:
        kept: What was written.
        groups: How much was written in each transaction.
    """

    def __init__(self) -> None:
        self.most_bytes = 100
        self.kept: list[object] = []
        self.groups: list[int] = []
        self.closed = 0
        self.changed = False
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    @contextmanager
    def transaction(self) -> Generator[list[object]]:
        """Keep what is written inside."""
        if self.error is not None:
            raise self.error
        self.gate.wait()
        written: list[object] = []
        yield written
        if "too big" in written:
            raise PerkamoOutboxFullError("full")
        self.kept += written
        self.groups.append(len(written))

    def has_changed(self) -> bool:
        """Tell whether others wrote."""
        changed, self.changed = self.changed, False
        return changed

    def close(self) -> None:
        """Note that it was closed."""
        self.closed += 1


@pytest.fixture
def paper() -> Paper:
    """A fresh sheet."""
    return Paper()


def write(what: object) -> Callable[[list[object]], object]:
    """Return what writes something and returns it."""

    def action(written: list[object]) -> object:
        written.append(what)
        return what

    return action


def refuse(_: list[object]) -> None:
    """Refuse a job for a reason of its own."""
    raise PerkamoOutboxConflictError("no")


async def test_what_waits_at_the_same_moment_shares_a_transaction(paper: Paper) -> None:
    """One sync for many; up to so many bytes, so that the log of a small disk stays short."""
    writer = Writer(paper)
    paper.gate.clear()

    async with anyio.create_task_group() as tasks:
        for number in range(1, 31):
            tasks.start_soon(writer.do, write(number), 9)
        await anyio.wait_all_tasks_blocked()
        paper.gate.set()

    assert sorted(map(int, map(str, paper.kept))) == list(range(1, 31))
    assert max(paper.groups) == 12  # the one with which 100 bytes are reached is the last
    assert len(paper.groups) <= 5
    await writer.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets tasks have their turns at random
async def test_what_is_asked_for_in_the_same_turn_of_the_loop_shares_a_transaction(paper: Paper) -> None:
    """After what was begun in company, and in this order; catches a relay that syncs twice for each request."""
    writer = Writer(paper)
    await writer.do(write("first"))  # the thread sleeps

    async with anyio.create_task_group() as tasks:
        asked = anyio.Event()

        async def in_company() -> None:
            asked.set()
            await writer.do(write("settle"), in_company=True)

        async def next_one() -> None:
            await asked.wait()
            await writer.do(write("take"))

        tasks.start_soon(next_one)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(in_company)

    assert paper.kept == ["first", "settle", "take"]
    assert paper.groups == [1, 2]
    await writer.aclose()


async def test_what_arrives_within_a_transaction_shares_it(paper: Paper) -> None:
    """As much as may be written at once; catches putters that wait for a second sync."""
    writer = Writer(paper)
    done = threading.Event()

    def write_two(written: list[object]) -> None:
        written.append("a")
        writer._submit(Job(write("b"), 100, done.set))
        writer._submit(Job(write("c"), 100, done.set))

    await writer.do(write_two, 0)
    assert await anyio.to_thread.run_sync(done.wait, 10)
    await writer.aclose()

    assert paper.kept == ["a", "b", "c"]
    assert paper.groups == [2, 1]


async def test_one_call_into_an_event_loop_tells_all_results_of_a_transaction(paper: Paper) -> None:
    """To each loop that asked; catches a system call for each put, after which the next group begins half full."""
    writer = Writer(paper)
    paper.gate.clear()
    calls: list[list[Callable[[], object]]] = [[], []]
    told: list[int] = []
    done = threading.Event()

    for number in range(10):
        in_loop = InLoop(calls[number % 2].append)
        writer._submit(Job(write(number), 1, partial(told.append, number), in_loop))
    writer._submit(Job(write("last"), 1, done.set))
    paper.gate.set()
    assert await anyio.to_thread.run_sync(done.wait, 10)
    await writer.aclose()

    assert paper.groups == [11]
    assert [len(functions) for functions in calls] == [1, 1]
    assert told == []
    for [tell] in calls:
        tell()
    assert sorted(told) == list(range(10))


async def test_a_refusal_concerns_its_own_job(paper: Paper) -> None:
    """The others in the same transaction are kept."""
    writer = Writer(paper)
    paper.gate.clear()
    refused: list[PerkamoOutboxError] = []

    async def ask() -> None:
        with pytest.raises(PerkamoOutboxConflictError) as caught:
            await writer.do(refuse)
        refused.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.do, write("a"))
        tasks.start_soon(ask)
        tasks.start_soon(writer.do, write("b"))
        await anyio.wait_all_tasks_blocked()
        paper.gate.set()

    assert sorted(map(str, paper.kept)) == ["a", "b"]
    assert len(refused) == 1
    await writer.aclose()


async def test_what_is_too_big_for_the_disk_keeps_out_nobody_else(paper: Paper) -> None:
    """After a full disk each is tried alone."""
    writer = Writer(paper)
    paper.gate.clear()
    full: list[str] = []

    async def ask(what: str) -> None:
        try:
            await writer.do(write(what))
        except PerkamoOutboxFullError:
            full.append(what)

    async with anyio.create_task_group() as tasks:
        for what in ("a", "too big", "b"):
            tasks.start_soon(ask, what)
        await anyio.wait_all_tasks_blocked()
        paper.gate.set()

    assert (sorted(map(str, paper.kept)), full) == (["a", "b"], ["too big"])
    await writer.aclose()


@pytest.mark.parametrize("error", [PerkamoOutboxStorageError("locked"), OSError("odd"), ZeroDivisionError()])
async def test_whatever_goes_wrong_reaches_who_waits_and_ends_nothing(paper: Paper, error: Exception) -> None:
    """The next job works; catches a thread that dies and leaves all later calls hanging."""
    writer = Writer(paper)
    paper.error = error

    with pytest.raises(type(error)):
        await writer.do(write("a"))
    paper.error = None

    assert await writer.do(write("b")) == "b"
    await writer.aclose()


async def test_a_look_that_fails_ends_nothing(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches is woken, and meets the error itself."""

    def fail() -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(paper, "has_changed", fail)
    writer = Writer(paper)

    with writer.watch() as wakeup:
        await writer.do(write("a"))
        with anyio.fail_after(10):
            await wakeup.wait(10)

    assert await writer.do(write("b")) == "b"
    await writer.aclose()


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.release)])
async def test_who_gave_up_before_it_began_is_passed_over(number: int, paper: Paper) -> None:
    """What was cancelled is not written, and thousands of them cost no more than each for itself."""
    writer = Writer(paper)
    paper.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.do, write("first"), 1000)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                for _ in range(number):
                    inner.start_soon(writer.do, write("never"))
                await anyio.wait_all_tasks_blocked()
                began = time.process_time()
                scope.cancel()
        elapsed = time.process_time() - began
        paper.gate.set()
    await writer.do(write("last"))

    assert paper.kept == ["first", "last"]
    assert elapsed < number * 0.0005  # the square of their number would take a hundred times as long
    await writer.aclose()


async def test_a_thread_that_can_not_start_is_a_typed_error_and_the_next_call_works(
    paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of processes or memory; catches an outbox that is wedged from then on."""
    writer = Writer(paper)

    def fail(function: Callable[[], object], name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("perkamo.outbox.writer.start_thread", fail)
    with pytest.raises(PerkamoOutboxStorageError, match="can't be started") as caught:
        await writer.do(write("a"))
    await writer.aclose()
    monkeypatch.undo()

    assert caught.value.retryable
    with anyio.fail_after(10):
        assert await writer.do(write("b")) == "b"
    assert paper.kept == ["b"]
    await writer.aclose()


async def test_closing_finishes_what_was_asked_for_and_it_begins_anew(paper: Paper) -> None:
    """Whoever puts after a close starts the thread again."""
    writer = Writer(paper)
    await writer.aclose()
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(writer.do, write(number))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(writer.aclose)

    await writer.do(write("again"))
    await writer.aclose()

    assert len(paper.kept) == 51
    assert paper.closed == 2


async def test_a_thread_that_was_closed_ends_where_another_begins_at_once(paper: Paper) -> None:
    """Both would write at a time, each of them under the lock; catches a hang after a quick restart (1 in 30)."""
    writer = Writer(paper)
    former = await writer.do(lambda _: threading.current_thread())
    ended = threading.Event()

    def begin_anew() -> None:
        done = threading.Event()
        writer._submit(Job(write("a"), 0, done.set))
        assert done.wait(10)
        ended.set()

    writer._close(begin_anew)

    assert await anyio.to_thread.run_sync(ended.wait, 10)
    await anyio.to_thread.run_sync(former.join, 2)
    assert (former.is_alive(), paper.kept) == (False, ["a"])
    assert await writer.do(lambda _: threading.current_thread()) is not former
    await writer.aclose()


async def test_what_is_asked_for_at_the_very_end_begins_anew(paper: Paper) -> None:
    """Between the last look and the end; catches a put that hangs until the next one comes."""
    writer = Writer(paper)
    done = threading.Event()

    class Jobs(deque[Job[list[object]]]):
        """Has no job, and then has one."""

        def __len__(self) -> int:
            number = super().__len__()
            if paper.closed == 1 and not self.were_asked_for:
                self.were_asked_for = True
                asking = threading.Thread(target=writer._submit, args=(Job(write("late"), 0, done.set),))
                asking.start()
                asking.join(0.1)
            return number

        were_asked_for = False

    await writer.do(write("a"))
    writer._jobs = Jobs()
    await writer.aclose()

    assert await anyio.to_thread.run_sync(done.wait, 10)
    assert paper.kept == ["a", "late"]
    await writer.aclose()


async def test_who_watches_is_woken_by_what_others_did(paper: Paper) -> None:
    """Within a tenth of a second or so, and not without a cause."""
    writer = Writer(paper)
    await writer.do(write("a"))
    with writer.watch() as wakeup:
        began = anyio.current_time()
        await wakeup.wait(0.3)
        without_a_cause = anyio.current_time() - began
        paper.changed = True
        began = anyio.current_time()
        await wakeup.wait(10)
        woken = anyio.current_time() - began

    assert without_a_cause >= 0.29
    assert woken < 5
    await writer.aclose()


def test_it_serves_threads_and_event_loops_of_all_kinds_at_once(paper: Paper) -> None:
    """Each is answered in the loop that asked."""
    writer = Writer(paper)

    def run(backend: str) -> None:
        async def ask() -> None:
            for number in range(100):
                assert await writer.do(write(number)) == number

        anyio.run(ask, backend=backend)

    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    writer.close(10)

    assert len(paper.kept) == 600
    assert paper.closed == 1
