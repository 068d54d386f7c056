"""A relay in trouble: what fails for a while passes, and a relay ends only when it is told to."""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from perkamo import AsyncPerkamoClient, Outbox, PerkamoError
from perkamo.errors import PerkamoConfigurationError
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.store import Lease
from perkamo.runtime.file_locks import FileLock
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.relaying import event, settled
from tests.outbox.service import HANG, Service

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

    with anyio.fail_after(10):
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
            with lock:  # so not in the middle of a commit
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
