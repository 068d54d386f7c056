"""Rule I of the stream: it ends at once in every state, and leaves nothing behind."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Awaitable, Callable

import anyio
import pytest

from perkamo import Customer, CustomerStream, PerkamoError, PerkamoStreamError
from perkamo.stream.stream import StreamState
from tests.faults.rawserver import Connection, RawServer, Script
from tests.stream.scripts import (
    HEAD,
    OwnedTime,
    collect,
    event,
    gone,
    points,
    refusing,
    sending,
    stalling,
    subscribe,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Waiting(OwnedTime):
    """A clock whose sleeps last until they are cancelled."""

    async def sleep(self, seconds: float) -> None:
        """Sleep forever."""
        self.slept.append(seconds)
        await anyio.sleep_forever()


async def endless_supplier() -> str:
    """A supplier that never answers."""
    await anyio.sleep_forever()
    raise AssertionError


STATES: list[tuple[str, Script, StreamState]] = [
    ("asking for the token", gone, "connecting"),
    ("waiting for the head", stalling(head=b"HTTP/1.1 200"), "connecting"),
    ("waiting for the body of an error", stalling(head=b"HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\n"), "connecting"),
    ("waiting for an update", stalling(b"data: "), "open"),
    ("waiting for the next attempt", refusing("503 No"), "waiting"),
]
states = pytest.mark.parametrize(("name", "script", "state"), STATES, ids=[row[0] for row in STATES])


def subscribed(name: str, server: RawServer, time: Waiting) -> CustomerStream:
    """A stream that comes to stand still in the state of this name."""
    return subscribe(server, endless_supplier if "token" in name else "token_1", time=time)


async def standing(stream: CustomerStream, state: StreamState, server: RawServer, name: str) -> None:
    """Wait until the stream stands still in its state."""
    await until(lambda: stream.state == state and ("token" in name or len(server.requests) == 1))
    await anyio.wait_all_tasks_blocked()


def all_closed(server: RawServer) -> bool:
    """Whether every script of the server saw its client go."""
    return not any(thread.is_alive() for thread in server._threads[1:])


@states
async def test_cancelling_ends_a_stream_in_every_state(name: str, script: Script, state: StreamState) -> None:
    """The cancellation passes through, the connection is closed at once, and no request follows; I1, F7."""
    with RawServer(script) as server:
        stream = subscribed(name, server, Waiting())
        async with anyio.create_task_group() as group:
            group.start_soon(stream.receive)
            await standing(stream, state, server, name)
            group.cancel_scope.cancel()

        assert stream.state == "closed"
        assert await stream.receive() is None
        await until(lambda: all_closed(server))
        assert len(server.requests) == (0 if "token" in name else 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@states
async def test_cancelling_a_task_of_asyncio_ends_a_stream(name: str, script: Script, state: StreamState) -> None:
    """``task.cancel()`` raises CancelledError, which is not retried, and leaves no task; I1."""
    before = asyncio.all_tasks()
    with RawServer(script) as server:
        stream = subscribed(name, server, Waiting())
        task = asyncio.ensure_future(stream.receive())
        await standing(stream, state, server, name)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert stream.state == "closed"
        await until(lambda: all_closed(server))
        assert asyncio.all_tasks() == before


@states
async def test_closing_from_another_task_ends_the_iteration(name: str, script: Script, state: StreamState) -> None:
    """The consumer's loop just stops, in every state; when ``aclose`` returns, the connection is closed; I1."""
    with RawServer(script) as server:
        stream = subscribed(name, server, Waiting())
        ended: list[float] = []

        async def consume() -> None:
            ended.extend(points([update async for update in stream]))
            ended.append(-1)
            assert await stream.receive() is None  # also before the other task has gone on

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await standing(stream, state, server, name)
            await stream.aclose()
            assert stream.state == "closed"
            assert stream._connection is None

        assert ended == [-1]
        await until(lambda: all_closed(server))
        assert len(server.requests) == (0 if "token" in name else 1)


@pytest.mark.parametrize("way", ["break", "return", "raise", "aclose"])
async def test_leaving_the_loop_closes_the_connection(way: str) -> None:
    """However the block is left, the service sees the connection go, and nobody asks again; I1, I2."""

    async def consume(stream: CustomerStream) -> None:
        async with stream:
            async for _ in stream:
                if way == "return":
                    return
                if way == "raise":
                    raise KeyError
                if way == "break":
                    break
                await stream.aclose()

    with RawServer(stalling(event(1))) as server:
        stream = subscribe(server)
        if way == "raise":
            with pytest.raises(KeyError):
                await consume(stream)
        else:
            await consume(stream)

        await until(lambda: all_closed(server))
        assert len(server.requests) == 1
        assert stream.state == "closed"


async def test_a_stream_that_failed_is_not_started_again() -> None:
    """After an error, as after an end, iterating stops at once and sends nothing; I3."""
    with RawServer(refusing("404 No")) as server:
        stream = subscribe(server)
        with pytest.raises(PerkamoStreamError):
            await collect(stream)

        assert [update async for update in stream] == []
        assert len(server.requests) == 1


async def test_two_iterations_at_once_are_an_error() -> None:
    """The second one fails and says so; the first one goes on undisturbed."""
    go = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD)
        if go.wait(30):
            connection.send(event(1))

    with RawServer(script, gone) as server:
        stream = subscribe(server)
        updates: list[float] = []

        async def consume() -> None:
            updates.extend(points(await collect(stream)))

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await until(lambda: stream.state == "open")
            with pytest.raises(PerkamoStreamError, match="already being iterated"):
                await stream.receive()
            go.set()

    assert updates == [1]


async def test_closing_twice_and_before_the_beginning_is_fine() -> None:
    """Nothing is sent, nothing is raised."""
    with RawServer(gone) as server:
        stream = subscribe(server)
        await stream.aclose()
        await stream.aclose()

        assert await stream.receive() is None
        assert server.accepted == 0
        assert stream.state == "closed"


async def test_a_stream_left_open_is_named_with_its_remedy() -> None:
    """Dropping an open stream is a ResourceWarning that says what to write."""
    with RawServer(stalling(event(1))) as server:
        dropped = [subscribe(server)]
        await dropped[0].receive()
        client, connection = dropped[0]._client, dropped[0]._connection
        with pytest.warns(ResourceWarning, match="async with") as caught:
            dropped.clear()

        assert "CustomerStream open" in str(caught[0].message)
        assert connection is not None
        assert client is not None
        await connection.aclose()
        await client.aclose()


async def test_nothing_is_left_behind() -> None:
    """A hundred streams that are broken off leave neither warnings nor open connections."""
    with RawServer(stalling(event(1), event(2))) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            async with subscribe(server) as stream:
                async for _ in stream:
                    break
        await until(lambda: all_closed(server))
        gc.collect()

    assert [str(one.message) for one in caught] == []
    assert server.accepted == 100


async def test_a_refused_connection_is_closed_at_once() -> None:
    """An answer that is no stream is let go before the next attempt, also where its body never ends."""
    endless = stalling(head=HEAD.replace(b"200 OK", b"503 No"))

    with RawServer(endless, endless, stalling(event(1))) as server:
        async with subscribe(server) as stream:
            await stream.receive()

            await until(lambda: not any(thread.is_alive() for thread in server._threads[1:3]))


async def test_states_are_told_in_order() -> None:
    """``on_state`` sees connecting, open, waiting and closed, each once it begins; ``state`` agrees."""
    seen: list[StreamState] = []

    with RawServer(sending(event(1)), refusing("503 No"), gone) as server:
        stream = subscribe(server, on_state=seen.append)
        assert stream.state == "waiting"
        await collect(stream)

    assert seen == ["connecting", "open", "waiting", "connecting", "waiting", "connecting", "closed"]


async def test_an_observer_that_fails_ends_the_stream() -> None:
    """Its error is not swallowed, and the connection is closed."""

    def observer(state: StreamState) -> None:
        if state == "open":
            raise KeyError(state)

    with RawServer(stalling(event(1))) as server:
        with pytest.raises(KeyError):
            await collect(subscribe(server, on_state=observer))

        await until(lambda: all_closed(server))


# Callbacks


async def _later(seen: list[float], customer: Customer) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(customer.wallets["points"])


def _callbacks(seen: list[float]) -> list[Callable[[Customer], Awaitable[None] | None]]:
    return [lambda customer: seen.append(customer.wallets["points"]), lambda customer: _later(seen, customer)]


@pytest.mark.parametrize("which", [0, 1], ids=["sync", "async"])
async def test_run_calls_back_for_each_customer(which: int) -> None:
    """As the JavaScript client does, with functions of either kind, one after the other; then the stream is closed."""
    seen: list[float] = []

    with RawServer(sending(event(1), event(2)), gone) as server, anyio.fail_after(30):
        stream = subscribe(server)
        await stream.run(_callbacks(seen)[which])

    assert seen == [1, 2]
    assert stream.state == "closed"


async def test_run_hands_its_error_to_on_error() -> None:
    """With ``on_error`` the error that ended the stream goes there, and only that; without it, it is raised."""
    errors: list[PerkamoError] = []

    with RawServer(refusing("404 No")) as server:
        await subscribe(server).run(lambda _: None, errors.append)
        with pytest.raises(PerkamoStreamError):
            await subscribe(server).run(lambda _: None)

    assert [type(error) for error in errors] == [PerkamoStreamError]


async def test_an_error_of_the_callback_is_raised() -> None:
    """What the caller's own function raises is the caller's, also where it is one of ours; the stream is closed."""

    def failing(_: Customer) -> None:
        raise PerkamoError("of the caller")

    errors: list[PerkamoError] = []
    with RawServer(stalling(event(1))) as server:
        stream = subscribe(server)
        with pytest.raises(PerkamoError, match="of the caller"):
            await stream.run(failing, errors.append)

        await until(lambda: all_closed(server))
    assert errors == []
