"""testing: the two clients, in whatever event loops they are used, leave nothing behind and do not wait."""

import asyncio
import gc
import threading
import time
from datetime import UTC, datetime

import anyio
import pytest

from perkamo import AsyncPerkamoClient, PerkamoClient, PerkamoClosedError, PerkamoServerError
from perkamo.sandbox import Sandbox, Stall, Status
from perkamo.testing.clients import QUICK, async_client, sync_client
from perkamo.transport import sockets
from tests.clocks import NotedWaits, by_clock


def open_sockets() -> set[sockets.PlainSocket]:
    """Return the sockets of all clients that are open at the moment."""
    gc.collect()
    return {one for one in sockets._open if one._socket.fileno() >= 0}


async def buy(client: AsyncPerkamoClient) -> None:
    """Emit one event."""
    await client.emit("customer_123", "purchase.completed", {"amount": 12900})


def test_the_sync_client_works_and_needs_no_closing(perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient) -> None:
    """One call, one request, one event."""
    perkamo_client.emit("customer_123", "purchase.completed", {"amount": 12900})

    perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123", context={"amount": 12900})
    assert len(perkamo_sandbox.requests) == 1


@pytest.mark.anyio
async def test_the_async_client_works_and_needs_no_closing(
    perkamo_sandbox: Sandbox, async_perkamo_client: AsyncPerkamoClient
) -> None:
    """On asyncio and trio, without a fixture that knows which."""
    await buy(async_perkamo_client)

    perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123", context={"amount": 12900})
    assert len(perkamo_sandbox.requests) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_client_serves_one_loop_after_another(
    backend: str, perkamo_sandbox: Sandbox, async_perkamo_client: AsyncPerkamoClient
) -> None:
    """As in a sync test that runs some loops of its own."""
    for _ in range(3):
        anyio.run(buy, async_perkamo_client, backend=backend)

    perkamo_sandbox.assert_emitted("purchase.completed", times=3)


def in_standing_loop(client: AsyncPerkamoClient, keep: list[asyncio.AbstractEventLoop]) -> None:
    """Use the client in a loop that is not closed, as a plugin's that serves many tests."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(buy(client))
    keep.append(loop)


def test_the_sockets_of_a_loop_that_stands_still_are_closed(perkamo_sandbox: Sandbox) -> None:
    """Its loop watches them no more; catches a session's loop that holds every test's, until no file is left."""
    before = open_sockets()
    loops: list[asyncio.AbstractEventLoop] = []
    with async_client(perkamo_sandbox) as client:
        in_standing_loop(client, loops)
        assert len(open_sockets() - before) == 1

    left = open_sockets() - before

    assert not left
    [loop] = loops
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_the_sockets_of_a_trio_run_that_has_ended_are_closed(perkamo_sandbox: Sandbox) -> None:
    """Though the client lives on; catches sockets that wait for the garbage collector."""
    before = open_sockets()
    with async_client(perkamo_sandbox) as client:
        anyio.run(buy, client, backend="trio")

    assert not open_sockets() - before


def test_the_sockets_of_a_loop_in_another_thread_are_closed_there(perkamo_sandbox: Sandbox) -> None:
    """As an application's server runs in one; catches a loop whose selector is changed under its feet."""
    before = open_sockets()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with async_client(perkamo_sandbox) as client:
        asyncio.run_coroutine_threadsafe(buy(client), loop).result(20)
        assert len(open_sockets() - before) == 1

    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)

    assert not open_sockets() - before
    loop.close()


def test_a_call_still_under_way_at_the_end_fails(perkamo_sandbox: Sandbox) -> None:
    """A task that a test left behind; catches one that tries again in the next test's sandbox, or waits forever."""
    perkamo_sandbox.faults.next("POST /v1/events", Stall(0))
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        with async_client(perkamo_sandbox) as client:
            task = loop.create_task(buy(client))
            while not perkamo_sandbox.requests:
                loop.run_until_complete(asyncio.sleep(0))

        with pytest.raises(PerkamoClosedError):
            loop.run_until_complete(asyncio.wait_for(task, 20))

    assert len(perkamo_sandbox.requests) == 1


def test_a_call_in_another_thread_ends_with_its_test(perkamo_sandbox: Sandbox) -> None:
    """Its loop sleeps in the system and must be woken; catches sockets that are closed from the wrong thread."""
    perkamo_sandbox.faults.next("POST /v1/events", Stall(0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with async_client(perkamo_sandbox) as client:
            call = asyncio.run_coroutine_threadsafe(buy(client), loop)
            while not perkamo_sandbox.requests:
                time.sleep(0.005)

        with pytest.raises(PerkamoClosedError):
            call.result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_is_closed_after_its_test(backend: str, perkamo_sandbox: Sandbox) -> None:
    """A call after that is refused; catches one that reaches the next test's sandbox."""
    with async_client(perkamo_sandbox) as client, sync_client(perkamo_sandbox) as sync:
        anyio.run(buy, client, backend=backend)

    with pytest.raises(PerkamoClosedError):
        anyio.run(buy, client, backend=backend)
    with pytest.raises(PerkamoClosedError):
        sync.program()


def test_a_client_that_the_test_closed_itself_is_fine(
    perkamo_sandbox: Sandbox, async_perkamo_client: AsyncPerkamoClient, perkamo_client: PerkamoClient
) -> None:
    """As an application under test does with its own."""

    async def use() -> None:
        async with async_perkamo_client as client:
            await buy(client)

    anyio.run(use)
    perkamo_client.close()

    with pytest.raises(PerkamoClosedError):
        anyio.run(buy, async_perkamo_client)


def test_retries_do_not_wait(
    perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient, async_perkamo_client: AsyncPerkamoClient
) -> None:
    """As many attempts as usual, however the dice fall; catches tests that sleep through every armed fault."""
    clock = NotedWaits(drawn=1.0)
    by_clock(perkamo_client._async, clock)
    by_clock(async_perkamo_client, clock)
    perkamo_sandbox.faults.next("POST /v1/events", Status(503), times=6)

    with pytest.raises(PerkamoServerError) as sync:
        perkamo_client.emit("customer_123", "purchase.completed")
    with pytest.raises(PerkamoServerError) as other:
        anyio.run(buy, async_perkamo_client)

    assert (sync.value.attempts, other.value.attempts) == (3, 3)
    assert not any(clock.asked)


def test_the_wait_that_the_service_asks_for_is_kept() -> None:
    """An application's own handling of Retry-After can be tested; catches an error at once instead of a wait."""
    assert QUICK.wait(1, 2.0, 30, jitter=1.0) == 2.0


@pytest.mark.perkamo(now=datetime(2020, 1, 1, tzinfo=UTC))
def test_a_stopped_clock_costs_no_request(
    perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient, async_perkamo_client: AsyncPerkamoClient
) -> None:
    """Both clients sign by it from the first call on; catches a 401 in the log, and a fault that it uses up."""
    perkamo_client.emit("customer_123", "purchase.completed")
    anyio.run(buy, async_perkamo_client)

    assert [request.status for request in perkamo_sandbox.requests] == [200, 200]
    assert perkamo_sandbox.clock.now() == datetime(2020, 1, 1, tzinfo=UTC)


def test_the_assertion_is_a_method_of_every_sandbox() -> None:
    """Also of one that a test made by itself, without a socket."""
    sandbox = Sandbox()

    sandbox.assert_emitted("purchase.completed", times=0)

    with pytest.raises(AssertionError, match="no event was applied"):
        sandbox.assert_emitted("purchase.completed")
