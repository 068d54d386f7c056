"""A relay against a service that answers oddly, and a store that fails: what goes on, what waits, what is given up."""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from perkamo import AsyncPerkamoClient, Event, Outbox, OutboxStats, PerkamoError
from perkamo.errors import PerkamoConfigurationError
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.store import Lease
from perkamo.runtime.clock import Clock
from perkamo.runtime.file_locks import FileLock
from tests.outbox.clocks import HardlyWaiting
from tests.outbox.service import HANG, POISONS, WAITING_POISONS, Service, running_service

pytestmark = [pytest.mark.anyio, pytest.mark.slow_on_each_backend]


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that accepts everything, until a test says otherwise."""
    with running_service() as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncPerkamoClient]:
    """A client of it that is not patient."""
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url, timeout=0.5) as client:
        yield client


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox whose relays hardly wait between two tries."""
    async with Outbox(tmp_path / "outbox") as outbox:
        outbox._clock = HardlyWaiting()
        yield outbox


def event(name: str | int) -> Event:
    """Make an event."""
    return Event("customer", "review.created", f"review_{name}")


async def settled(outbox: Outbox, condition: Callable[[OutboxStats], bool]) -> OutboxStats:
    """Wait until the counts are as wished."""
    with anyio.fail_after(30):
        while True:
            stats = await outbox.stats()
            if condition(stats):
                return stats
            await anyio.sleep(0.01)


@pytest.mark.parametrize("how", ["relay", "drain"])
@pytest.mark.parametrize("kind", POISONS)
async def test_one_event_holds_up_no_other(
    kind: str, how: str, service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Whatever the service answers to it; it is a dead letter or waits by itself, and is never taken for delivered."""
    service.poison(POISONS)
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
    outbox._clock = WaitingATenth()
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
    outbox._clock = HardlyWaiting()
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


async def test_a_relay_is_left_by_another_task_than_entered_it(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """As an async fixture of pytest-asyncio does; catches "cancel scope in a different task"."""
    stack = AsyncExitStack()

    async def enter() -> None:
        await stack.enter_async_context(outbox.relay(client))

    async def leave() -> None:
        await stack.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
    await outbox.put(event(1))
    await settled(outbox, lambda stats: not stats.pending)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)

    assert list(service.applied) == ["review_1"]


async def test_what_a_cancelled_relay_had_taken_is_free_at_once(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """The next one need not wait for a lease to end."""
    service.answer = lambda _, __: HANG
    await outbox.put(event(1))
    with anyio.CancelScope() as scope:
        async with outbox.relay(client):
            with anyio.fail_after(20):
                while not service.requests:  # noqa: ASYNC110 - the service runs in a thread
                    await anyio.sleep(0.01)
            scope.cancel()
            await anyio.sleep_forever()
    service.answer = lambda _, __: None

    with anyio.fail_after(5):
        stats = await outbox.drain(client)

    assert stats.delivered == 1


async def test_a_key_supplier_that_fails_for_a_while_is_trouble_that_passes(service: Service, outbox: Outbox) -> None:
    """At the start it is an error; later it is told, tried again, and waited out."""
    works = True

    def key() -> str:
        if not works:
            raise OSError("the vault is sealed")
        return "sk_test_x"

    async with AsyncPerkamoClient(key, base_url=service.url) as client:
        async with outbox.relay(client) as relay:
            works = False
            await outbox.put(event(1))
            await settled(outbox, lambda _: relay.trouble is not None)
            trouble = relay.trouble
            works = True
            relay._pace._not_before = 0  # a configuration that is wrong is tried again after a minute
            relay._tell()
            await settled(outbox, lambda stats: not stats.pending)
            await settled(outbox, lambda _: relay.trouble is None)
        works = False
        with pytest.raises(PerkamoConfigurationError):
            async with outbox.relay(client):
                pass

    assert isinstance(trouble, PerkamoConfigurationError)


async def test_a_hook_that_raises_is_trouble_and_tells_nothing(service: Service, outbox: Outbox) -> None:
    """A caller's own error ends no relay; its text, which may hold anything, is in no log."""
    broken = True

    async def hook(_: httpx.Request) -> None:
        if broken:
            raise ZeroDivisionError("sk_test_secret")

    async with (
        httpx.AsyncClient(event_hooks={"request": [hook]}) as own,
        AsyncPerkamoClient("sk_test_x", base_url=service.url, http_client=own) as client,
        outbox.relay(client) as relay,
    ):
        await outbox.put(event(1))
        await settled(outbox, lambda _: relay.trouble is not None)
        assert "secret" not in str(relay.trouble)
        broken = False
        relay._pace._not_before = 0
        relay._tell()
        await settled(outbox, lambda stats: not stats.pending)


@pytest.mark.parametrize("error", [PerkamoOutboxStorageError("locked", retryable=True), ZeroDivisionError("odd")])
@pytest.mark.parametrize("method", ["take", "settle", "rebind"])
async def test_a_store_that_fails_for_a_while_ends_no_relay(  # noqa: PLR0917 - fixtures
    method: str,
    error: Exception,
    service: Service,
    client: AsyncPerkamoClient,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told, tried again, and what was delivered is not sent again for that."""
    original = getattr(outbox._store, method)
    failures = iter([error, error])

    async def failing(*args: object) -> object:
        if (failure := next(failures, None)) is not None:
            raise failure
        return await original(*args)

    monkeypatch.setattr(outbox._store, method, failing)
    monkeypatch.setattr("perkamo.outbox.relay._STORE_PAUSE", 0.05)
    caplog.set_level(logging.INFO)
    await outbox.put(event(1))
    async with outbox.relay(client) as relay:
        await settled(outbox, lambda stats: not stats.pending)
        await settled(outbox, lambda _: relay.trouble is None)

    assert list(service.requests) == [["review_1"]]
    assert ("Events wait" in caplog.text) == (method != "rebind")  # which is not asked for here
    assert "odd" not in caplog.text


async def test_a_drain_raises_what_keeps_the_store_from_working(
    client: AsyncPerkamoClient, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where time alone does not mend it; an operator's command must not wait for that."""

    async def failing(*_: object) -> Lease:
        raise PerkamoOutboxStorageError("newer")

    monkeypatch.setattr(outbox._store, "take", failing)

    with anyio.fail_after(10), pytest.raises(PerkamoOutboxStorageError, match="newer"):
        await outbox.drain(client)


RELAYING = """
import sys, time
from perkamo import PerkamoClient, SyncOutbox
outbox = SyncOutbox(sys.argv[1])
with PerkamoClient("sk_test_x", base_url=sys.argv[2]) as client, outbox.relay(client):
    print("relaying", flush=True)
    sys.stdin.read()
"""
PUTTING = """
import os, sys
from perkamo import Event, SyncOutbox
outbox = SyncOutbox(sys.argv[1])
for number in range(50):
    outbox.put(Event("u", "review.created", f"left_{number}"))
os.kill(os.getpid(), 9)
"""


def open_lock(path: Path) -> int:
    """Open a lock's file beside all others who have it open."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
async def test_a_relay_that_stands_still_holds_up_nobody(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox, tmp_path: Path
) -> None:
    """Another delivers what a third process left, and a drain returns; catches a process that owns what it put."""
    path = str(tmp_path / "outbox")
    lock = FileLock(tmp_path / "outbox" / "outbox.lock", open_lock, 10)
    await outbox.put(event(1))
    async with await anyio.open_process([sys.executable, "-c", RELAYING, path, service.url]) as stopped:
        try:
            assert stopped.stdout is not None
            await BufferedByteReceiveStream(stopped.stdout).receive_until(b"relaying\n", 100)
            await settled(outbox, lambda stats: not stats.pending)
            with lock:  # so not in the midst of a commit
                stopped.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it is about to be so
            lock.forget()
            await anyio.run_process([sys.executable, "-c", PUTTING, path], check=False)

            with anyio.fail_after(20):
                stats = await outbox.drain(client)
        finally:
            stopped.kill()

    assert (stats.accepted, stats.delivered) == (51, 51)
    assert len(service.applied) == 51


FAMINE = """
import os, resource, sys, time
from perkamo import Event, PerkamoClient, SyncOutbox
outbox = SyncOutbox(sys.argv[1])
with PerkamoClient("sk_test_x", base_url=sys.argv[2], timeout=2) as client, outbox.relay(client) as relay:
    if sys.argv[3] == "open":
        outbox.put(Event("u", "e", "before"))
        while outbox.stats().pending:
            time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hog = []
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        try:
            while True:
                hog.append(os.dup(0))
        except OSError:
            time.sleep(0.01)
    for number in hog:
        os.close(number)
    for number in range(10):
        outbox.put(Event("u", "e", f"after_{number}"))
    end = time.monotonic() + 20
    while (pending := outbox.stats().pending) and time.monotonic() < end:
        time.sleep(0.05)
    print(pending, relay.trouble)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("outbox_is", ["open", "not open yet"])
async def test_a_lack_of_descriptors_passes(outbox_is: str, service: Service, tmp_path: Path) -> None:
    """Everything goes on once there are some; catches a relay that ended without a word."""
    command = [sys.executable, "-c", FAMINE, str(tmp_path / "outbox"), service.url, outbox_is]

    done = await anyio.run_process(command, check=False)

    assert (done.stdout, done.returncode) == (b"0 None\n", 0), done.stderr.decode()
    assert sum(service.applied.values()) == (11 if outbox_is == "open" else 10)


async def test_trouble_of_the_service_is_told_once(
    service: Service, client: AsyncPerkamoClient, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """One line when events begin to wait and one when they pass again, however long it lasts."""
    caplog.set_level(logging.INFO)
    failures = iter([503] * 20)
    service.answer = lambda _, __: next(failures, None)
    await outbox.put(event(1))

    async with outbox.relay(client) as relay:
        await settled(outbox, lambda stats: not stats.pending)
        assert isinstance(relay.trouble, PerkamoError | None)

    said = [record.getMessage() for record in caplog.records if record.name == "perkamo.outbox"]
    assert len([line for line in said if line.startswith("Events wait")]) == 1
    assert len([line for line in said if line.startswith("Events pass")]) == 1
