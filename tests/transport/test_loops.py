"""Event loops that share a client, one after another and at the same time."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import anyio.to_thread
import httpx
import pytest
import trio

from perkamo.transport import sockets
from perkamo.transport.response import ComingBody
from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, answer
from tests.processes.script import run
from tests.transport.pool import HELD, ask, assert_sound, client_over, echo, idle_count, lost_places
from tests.waiting import until


def test_a_client_works_in_one_loop_after_another() -> None:
    """Three ``asyncio.run`` in a row, trio between them; catches "Event loop is closed", and an old loop's socket."""
    transport = Transport(max_connections=2)
    client = httpx.AsyncClient(transport=transport, timeout=20)

    async def call(text: str) -> str:
        answers = [await ask(client, server.base_url, text) for _ in range(2)]
        assert lost_places(transport) == 0
        return answers[-1]

    with RawServer(echo) as server:
        answers = [
            asyncio.run(call("first")),
            trio.run(call, "trio"),
            asyncio.run(call("second")),
            asyncio.run(call("third")),
        ]
        asyncio.run(client.aclose())

    assert answers == ["first", "trio", "second", "third"]
    assert [request.connection for request in server.requests] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_read_that_is_thrown_away_is_no_failure(*, is_late: bool) -> None:
    """Its coroutine is closed, by a loop or when that is gone: no error comes, and idle connections stay.

    Catches a time asked of a loop that has ended, and a caller's going that counts as a dead peer.
    """
    transport = Transport()
    client = httpx.AsyncClient(transport=transport, timeout=20)

    async def begin_to_read(base_url: str) -> Coroutine[object, object, bytes]:
        async with client.stream("POST", base_url, content=HELD) as first:
            await ask(client, base_url, "second")
            await first.aread()
        assert idle_count(transport) == 2
        response = await transport.handle_async_request(client.build_request("POST", base_url, content=b"never comes"))
        assert isinstance(response.stream, ComingBody)
        reading = response.stream.__anext__()
        reading.send(None)
        if not is_late:
            reading.close()
            assert idle_count(transport) == 1
        return reading

    def echo_twice(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            if request.body == b"never comes":
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n")
            else:
                connection.send(answer(request.body))

    with RawServer(echo_twice) as server:
        asyncio.run(begin_to_read(server.base_url)).close()
        asyncio.run(client.aclose())


def test_two_loops_at_the_same_time_have_connections_of_their_own() -> None:
    """Each in a thread; catches a pool that two threads share."""
    transport = Transport(max_connections=4)

    async def many(name: str) -> bool:
        async def call(number: int) -> None:
            text = f"{name} {number}"
            for _ in range(20):
                assert await ask(client, server.base_url, text) == text

        client = httpx.AsyncClient(transport=transport, timeout=20)
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(call, number)
        transport._pool().close()
        return lost_places(transport) >= 0

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, lambda: asyncio.run(many("asyncio")))
            group.start_soon(anyio.to_thread.run_sync, lambda: trio.run(many, "trio"))

    with RawServer(echo) as server:
        asyncio.run(both())

    assert server.accepted <= 8
    assert len(server.requests) == 320


def test_a_loop_that_ended_leaves_nothing_behind() -> None:
    """The transport lives on; catches a loop, or its sockets, that it keeps in memory forever."""
    transport = Transport()
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    pools: list[weakref.ref[object]] = []

    async def call() -> None:
        client = httpx.AsyncClient(transport=transport, timeout=20)
        await ask(client, server.base_url, "a")
        assert idle_count(transport) == 1
        loops.append(weakref.ref(asyncio.get_running_loop()))
        pools.append(weakref.ref(transport._pool()))

    with RawServer(echo) as server:
        for _ in range(5):
            asyncio.run(call())
        gc.collect()

        assert [one() for one in loops] == [None] * 5
        assert [one() for one in pools] == [None] * 5
        assert len(transport._pools) == 0


def test_a_loop_that_ended_but_lives_gives_up_its_sockets() -> None:
    """When the next loop comes; catches sockets that stay open because somebody keeps the loop."""
    transport = Transport()

    async def call() -> tuple[asyncio.AbstractEventLoop, object]:
        await ask(httpx.AsyncClient(transport=transport, timeout=20), server.base_url, "a")
        return asyncio.get_running_loop(), transport._pool()

    with RawServer(echo) as server:
        kept = [asyncio.run(call()) for _ in range(3)]

        assert [loop for loop, _ in kept if loop in transport._pools] == [kept[-1][0]]
        asyncio.run(transport.aclose())

    assert not any(loop in transport._pools for loop, _ in kept)


def test_a_transport_that_nobody_closes_frees_its_sockets_with_itself(no_collector: None) -> None:
    """The collector would end them in any order; catches a cycle, and a socket that warns of its own."""
    transport = Transport()
    before = set(sockets._open)

    async def call(transport: Transport) -> asyncio.AbstractEventLoop:
        await ask(httpx.AsyncClient(transport=transport, timeout=20), server.base_url, "a")
        return asyncio.get_running_loop()

    with RawServer(echo) as server:
        loop = asyncio.run(call(transport))  # kept, and its connections with it
        [socket] = map(weakref.ref, set(sockets._open) - before)
        assert socket() is not None
        del transport

        assert socket() is None
    assert loop.is_closed()


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.anyio
async def test_a_transport_that_is_dropped_closes_its_sockets(no_collector: None, *, elsewhere: bool) -> None:
    """In a loop that continues, also by another thread; catches a loop that keeps them for as long as it watches."""
    held = [Transport()]
    with RawServer(echo) as server:
        await ask(httpx.AsyncClient(transport=held[0], timeout=20), server.base_url, "a")
        [connection] = [one for idle in held[0]._pool()._idle.values() for one in idle]
        stream = connection._stream
        assert isinstance(stream, sockets.PlainSocket)
        bare = stream._socket
        del connection, stream
        if elsewhere:
            await anyio.to_thread.run_sync(held.clear)
        else:
            held.clear()

        await until(lambda: bare.fileno() < 0)


class EndedTogether(asyncio.SelectorEventLoop):
    """An event loop that holds whoever finds it closed until another thread has found the same."""

    found: threading.Barrier | None = None

    def is_closed(self) -> bool:
        """Tell whether it is closed, the first time once two threads want to know."""
        if self.found is not None:
            with suppress(threading.BrokenBarrierError):
                self.found.wait(10)
            self.found = None
        return super().is_closed()


def test_two_loops_that_find_the_same_ended_loop_both_work() -> None:
    """One of their threads closes its sockets; catches the ``KeyError`` of the other, which comes too late."""
    transport = Transport()

    async def call(text: str) -> str:
        return await ask(httpx.AsyncClient(transport=transport, timeout=20), server.base_url, text)

    with RawServer(echo) as server, ThreadPoolExecutor(2) as threads:
        with asyncio.Runner(loop_factory=EndedTogether) as runner:
            runner.run(call("ended"))
            ended = runner.get_loop()
        assert isinstance(ended, EndedTogether)
        both = ended.found = threading.Barrier(2)
        answers = list(threads.map(lambda text: asyncio.run(call(text)), ["one", "other"]))

    assert answers == ["one", "other"]
    assert not both.broken
    assert ended not in transport._pools


class Proactor(asyncio.SelectorEventLoop):
    """An event loop that watches no sockets for others, as the usual one of Windows."""

    def add_reader(self, *_: object) -> None:
        """Refuse."""
        raise NotImplementedError

    def add_writer(self, *_: object) -> None:
        """Refuse."""
        raise NotImplementedError

    def remove_reader(self, *_: object) -> bool:
        """Refuse."""
        raise NotImplementedError

    def remove_writer(self, *_: object) -> bool:
        """Refuse."""
        raise NotImplementedError


def test_a_loop_that_watches_no_sockets_will_do() -> None:
    """Calls, a blocked upload and a cancelled call; catches what only epoll can do."""
    transport = Transport(max_connections=1)

    async def main() -> None:
        async with client_over(transport) as client:
            text = "x" * 3_000_000
            assert await ask(client, server.base_url, text) == text
            with anyio.move_on_after(0):
                await ask(client, server.base_url, "cancelled")
            await assert_sound(transport, client, server.base_url)

    with RawServer(echo) as server, asyncio.Runner(loop_factory=Proactor) as runner:
        runner.run(main())

    assert len(server.requests) >= 2


SILENT = """
import asyncio, sys, httpx, anyio
from perkamo.transport.transport import Transport

transport = Transport()
async def main():
    client = httpx.AsyncClient(transport=transport, timeout=20)
    print((await client.post(sys.argv[1], content=b"a")).text)

anyio.run(main, backend=sys.argv[2])
anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_that_never_closes_ends_without_a_word(backend: str) -> None:
    """The client's own class warns, once; catches warnings about sockets that no user knows of."""
    with RawServer(echo) as server:
        ended = run(SILENT, server.base_url, backend, options=("-W", "error", "-X", "dev"))

    assert (ended.code, ended.out, ended.err) == (0, "a\na\n", "")
