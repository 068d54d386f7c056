"""A stream ends with its client: in every state, in every loop and thread, and says why."""

import gc
import threading
import weakref

import anyio
import anyio.lowlevel
import pytest

from perkamo import AsyncPerkamoClient, CustomerStream, PerkamoClient, PerkamoClosedError, ReconnectPolicy
from perkamo.sandbox import Sandbox, Status
from perkamo.stream.stream import StreamState
from tests.faults.rawserver import RawServer, Script
from tests.stream.scripts import event, gone, refusing, sending, stalling
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATIENT = ReconnectPolicy(base_delay=300.0, max_delay=300.0)
TOKEN = "the token"

STATES: list[tuple[str, Script, StreamState]] = [
    (TOKEN, gone, "connecting"),
    ("the head", stalling(head=b"HTTP/1.1 200"), "connecting"),
    ("an update", stalling(b"data: "), "open"),
    ("the next attempt", refusing("503 No"), "waiting"),
]
states = pytest.mark.parametrize(("name", "script", "state"), STATES, ids=[row[0] for row in STATES])


async def endless_supplier() -> str:
    """A supplier that never answers."""
    await anyio.sleep_forever()
    raise AssertionError


def all_closed(server: RawServer) -> bool:
    """Whether every script of the server saw its client go."""
    return not any(thread.is_alive() for thread in server._threads[1:])


async def ends_with_its_client(stream: CustomerStream) -> None:
    """Expect the next update to be an error that names the client."""
    with anyio.fail_after(20), pytest.raises(PerkamoClosedError, match="the client was closed, and the stream with it"):
        await stream.receive()


@states
async def test_a_stream_that_waits_is_woken(name: str, script: Script, state: StreamState) -> None:
    """Whatever it waits for; catches a task that outlives the application's shutdown for minutes."""
    with RawServer(script) as server:
        client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url)
        stream = client.subscribe_customer(
            "customer_123", endless_supplier if name == TOKEN else "token_1", reconnect=PATIENT
        )
        async with anyio.create_task_group() as group:
            group.start_soon(ends_with_its_client, stream)
            await until(lambda: stream.state == state and (name == TOKEN or len(server.requests) == 1))
            await anyio.wait_all_tasks_blocked()

            await client.aclose()

        assert stream.state == "closed"
        assert await stream.receive() is None
        await until(lambda: all_closed(server))
        assert len(server.requests) == (0 if name == TOKEN else 1)


async def test_a_busy_consumer_is_told_at_its_next_update() -> None:
    """Nothing that came before is delivered as if all were well; catches an orphan that is noticed a minute later."""
    with RawServer(sending(event(1), event(2))) as server:
        client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url)
        async with client.subscribe_customer("customer_123", "token_1", reconnect=PATIENT) as stream:
            assert await stream.receive() is not None
            await client.aclose()
            await ends_with_its_client(stream)

        await until(lambda: all_closed(server))


async def test_a_stream_in_the_loop_of_another_thread_is_woken_there() -> None:
    """The client may serve several loops; catches a scope that is cancelled from the wrong thread."""
    with RawServer(stalling(b"data: ")) as server:
        client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url)
        stream = client.subscribe_customer("customer_123", "token_1", reconnect=PATIENT)
        thread = threading.Thread(target=anyio.run, args=(ends_with_its_client, stream), daemon=True)
        thread.start()
        await until(lambda: stream.state == "open")

        await client.aclose()

        await anyio.to_thread.run_sync(thread.join, 20)
        assert not thread.is_alive()
        assert stream.state == "closed"


async def test_a_view_that_is_closed_ends_no_stream() -> None:
    """Neither its own nor its client's: it needs no closing; catches a library that ends its application's streams."""
    with RawServer(sending(event(1)), sending(event(2))) as server:
        async with AsyncPerkamoClient("sk_test_x", base_url=server.base_url) as client:
            view = client.with_options(timeout=5)
            at_once = ReconnectPolicy(base_delay=0, max_delay=0)
            async with view.subscribe_customer("customer_123", "token_1", reconnect=at_once) as stream:
                first = await stream.receive()
                await view.aclose()
                second = await stream.receive()

    assert first is not None
    assert second is not None


async def test_a_client_does_not_keep_streams_alive() -> None:
    """It knows thousands in its life; catches a list that only grows."""
    with RawServer(gone, gone, gone) as server:
        async with AsyncPerkamoClient("sk_test_x", base_url=server.base_url) as client:
            streams = [client.subscribe_customer("customer_123", "token_1") for _ in range(3)]
            for stream in streams:
                assert await stream.receive() is None
            watched = [weakref.ref(stream) for stream in streams]
            del stream, streams
            gc.collect()

            assert [reference() for reference in watched] == [None, None, None]
            assert not client._streams.close_notifier._streams


def test_a_synchronous_stream_ends_with_its_client(sandbox: Sandbox) -> None:
    """One thread iterates, another closes the client; catches an iteration that goes on forever."""
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Status(503))
    client = PerkamoClient(sandbox.api_key, base_url=sandbox.base_url)
    stream = client.subscribe_customer(
        "customer_123", lambda: client.create_stream_token(sandbox.browser_key, "customer_123"), reconnect=PATIENT
    )
    caught: list[Exception] = []

    def iterate() -> None:
        try:
            for _ in stream:
                pass
        except PerkamoClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=iterate, daemon=True)
    thread.start()
    while stream.state != "waiting" or not sandbox.requests:
        thread.join(0.005)

    client.close()

    thread.join(20)
    assert not thread.is_alive()
    assert "the client was closed" in str(caught[0])
