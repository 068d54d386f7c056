"""Rules G and H of the stream: sizes, back-pressure and silence."""

import socket
import threading

import anyio
import pytest

from perkamo import PerkamoStreamError
from perkamo.stream.sse import MAX_EVENT_SIZE
from tests.faults.rawserver import Connection, RawServer
from tests.stream.scripts import (
    HEAD,
    OwnedTime,
    collect,
    customer,
    event,
    gone,
    points,
    resumed_at,
    sending,
    subscribe,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio


# G. Resources


@pytest.mark.parametrize("part", [b"x" * 65_536, b"x\ndata: " * 8192, b"x\nid: 1\nevent: y\ndata:" * 4096])
async def test_an_event_without_end_fails_and_is_not_asked_for_again(part: bytes) -> None:
    """Little more than the limit is read, and the connection closed; asking again would bring the same; G1, G2."""
    sent = 0

    def script(connection: Connection) -> None:
        nonlocal sent
        connection.read_request()
        connection.send(HEAD + b"data: ")
        while True:
            connection.send(part)
            sent += len(part)

    with RawServer(script) as server, pytest.raises(PerkamoStreamError, match="larger than 1048576") as caught:
        await collect(subscribe(server))

    assert len(server.requests) == 1
    assert not caught.value.retryable
    await until(lambda: not server._threads[1].is_alive())  # the server's end is closed as well
    assert sent < 64 * MAX_EVENT_SIZE


async def test_events_before_an_oversized_one_are_delivered() -> None:
    """The error comes after them, even where the oversized event ends in the same piece."""
    with RawServer(sending(event(1, "1"), event(2, "2"), b"data: " + b"x" * (MAX_EVENT_SIZE + 1))) as server:
        async with subscribe(server) as stream:
            first, second = await stream.receive(), await stream.receive()
            with pytest.raises(PerkamoStreamError, match="larger"):
                await stream.receive()

    assert first is not None
    assert second is not None
    assert points([first, second]) == [1, 2]
    assert stream.last_event_id == "2"


async def test_many_large_events_pass() -> None:
    """The limit is for one event: thirty of nine tenths of it come through; G3."""
    padded = customer(1)[:-1] + b',"pad":"' + b"x" * (MAX_EVENT_SIZE * 9 // 10) + b'"}'

    with RawServer(sending(*[b"data: " + padded + b"\n\n"] * 30), gone) as server:
        updates = await collect(subscribe(server))

    assert len(updates) == 30


async def test_a_slow_consumer_slows_the_service() -> None:
    """Nothing is read ahead: while nobody asks for an update, the service can't send more than sockets hold; G5."""
    sent = 0

    def script(connection: Connection) -> None:
        nonlocal sent
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        connection.read_request()
        connection.send(HEAD)
        connection.socket.settimeout(0.25)
        part = event(1) * 200
        try:
            while sent < 200_000_000:
                connection.send(part)
                sent += len(part)
        except TimeoutError:
            blocked.set()
            connection.stall()

    blocked = threading.Event()
    with RawServer(script) as server, anyio.fail_after(60):
        async with subscribe(server) as stream:
            await stream.receive()
            await until(blocked.is_set)

    assert sent < 50_000_000


# H. Silence


async def test_silence_is_a_lost_connection() -> None:
    """No byte for the idle timeout: the connection is closed and made again, resumed; not a moment earlier; H1."""
    time = OwnedTime()
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + event(1, "1"))
        connection.stall()
        closed.set()

    with RawServer(script, sending(event(2, "2")), gone) as server:
        stream = subscribe(server, time=time, idle_timeout=60)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, stream)
            await until(lambda: stream.last_event_id == "1")
            await anyio.wait_all_tasks_blocked()
            time.advance(59.9)
            await anyio.wait_all_tasks_blocked()
            assert (stream.state, server.accepted) == ("open", 1)
            time.advance(0.2)

    assert closed.is_set()
    assert resumed_at(server) == [None, "1", "2"]


async def test_any_byte_ends_the_silence() -> None:
    """Comments, and even half of one, keep a quiet stream open as long as they come; they are no updates; H2, H6."""
    time = OwnedTime()
    beats = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + event(1, "1"))
        for byte in (b":", b"x", b"\n", b"\n", b"d", b":"):
            beats.acquire()
            connection.send(byte)
        connection.stall()

    with RawServer(script, gone) as server:
        stream = subscribe(server, time=time, idle_timeout=60)
        updates: list[float] = []

        async def consume() -> None:
            updates.extend(points(await collect(stream)))

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await until(lambda: stream.last_event_id == "1")
            for _ in range(6):
                await anyio.wait_all_tasks_blocked()
                before = time.limits
                time.advance(40)
                beats.release()
                await until(lambda before=before: time.limits > before)  # type: ignore[misc]  # mypy can't infer a lambda's defaults
            assert (stream.state, server.accepted) == ("open", 1)
            await anyio.wait_all_tasks_blocked()
            time.advance(61)

    assert updates == [1]
    assert len(server.requests) == 2


async def test_without_a_timeout_silence_may_last() -> None:
    """None waits forever; H3."""
    time = OwnedTime()
    go = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + event(1, "1"))
        go.wait(30)
        connection.send(event(2, "2"))

    with RawServer(script, gone) as server:
        stream = subscribe(server, time=time, idle_timeout=None)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, stream)
            await until(lambda: stream.last_event_id == "1")
            await anyio.wait_all_tasks_blocked()
            time.advance(1_000_000)
            await anyio.wait_all_tasks_blocked()
            assert (stream.state, server.accepted) == ("open", 1)
            go.set()

    assert resumed_at(server) == [None, "2"]


async def test_the_callers_own_pace_is_no_silence() -> None:
    """The limit counts while the stream waits for bytes, not while the consumer is busy with an update; H4."""
    time = OwnedTime()

    with RawServer(sending(event(1, "1"), event(2, "2")), gone) as server:
        async with subscribe(server, time=time, idle_timeout=60) as stream:
            first = await stream.receive()
            time.advance(3600)
            second = await stream.receive()

            assert first is not None
            assert second is not None
            assert points([first, second]) == [1, 2]
            assert len(server.requests) == 1


async def test_the_default_timeout_outlasts_httpx() -> None:
    """Five seconds, which httpx takes, would kill a quiet stream: ours are sixty, without a total limit; H3, H4."""
    with RawServer(gone) as server:
        stream = subscribe(server)

    assert stream._subscription.idle_timeout == 60


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
async def test_an_update_is_out_before_the_next_byte_comes(end: bytes) -> None:
    """With the blank line's last byte the update is delivered, whatever ends its lines; H5."""
    received = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + event(1).replace(b"\n", end))
        if received.wait(30):
            connection.send(event(2).replace(b"\n", end))

    with RawServer(script, gone) as server, anyio.fail_after(20):
        async with subscribe(server) as stream:
            await stream.receive()
            received.set()
            second = await stream.receive()

    assert second is not None
    assert points([second]) == [2]
