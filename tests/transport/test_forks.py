"""Processes that are forked from one that has connections."""

import subprocess
import sys

import pytest

from tests.faults.rawserver import RawServer
from tests.processes.script import run
from tests.transport.pool import echo

HOOKLESS = """
import asyncio, ctypes, os, sys, httpx
from perkamo.transport.transport import Transport

client = httpx.AsyncClient(transport=Transport(), timeout=10)

async def ask(text):
    return (await client.post(sys.argv[1], content=text.encode())).text == text

loop = asyncio.new_event_loop()
assert loop.run_until_complete(ask("before"))
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    os._exit(0 if asyncio.run(ask("child")) else 1)
assert os.waitpid(pid, 0)[1] == 0
assert loop.run_until_complete(ask("after"))
"""
"""Forks past the interpreter, as uWSGI does."""

FORKS = """
import anyio, os, signal, sys, threading, httpx
from perkamo.transport import sockets
from perkamo.transport.transport import Transport

url, backend, count, planted = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "planted"
transport = Transport(max_connections=3)
client = httpx.AsyncClient(transport=transport, timeout=1 if planted else 20)
wrong = []
stop = False

if planted:
    one = []
    genuine = Transport._pool
    def shared(self):
        one.append(genuine(self)) if not one else None
        return one[0]
    Transport._pool = shared
    os.getpid = lambda pid=os.getpid(): pid

async def ask(text):
    return (await client.post(url, content=text.encode())).text == text

async def in_parent():
    async def work(number):
        n = 0
        while not stop:
            n += 1
            if not await ask(f"parent {number} {n}"):
                wrong.append(n)
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(work, number)
            await anyio.sleep(0.01)
        warm.set()

async def in_child(number):
    ok = []
    async def work(n):
        ok.append(await ask(f"child {number} {n}"))
    async with anyio.create_task_group() as group:
        for n in range(5):
            group.start_soon(work, n)
    return all(ok)

def child(number):
    global client  # the parent's has a jar of cookies with a lock, which another thread may have held in the fork
    client = httpx.AsyncClient(transport=transport, timeout=client.timeout)
    code = 2
    signal.alarm(5 if planted else 30)
    try:
        code = 0 if anyio.run(in_child, number, backend=backend) else 1
    finally:
        os._exit(code)

warm = threading.Event()
thread = threading.Thread(target=anyio.run, args=(in_parent,), kwargs={"backend": backend}, daemon=planted)
thread.start()
warm.wait()
if planted:
    sockets._open.clear()
codes = {}
for first in range(0, count, 4):
    pids = []
    for number in range(first, min(first + 4, count)):
        pid = os.fork()
        if pid == 0:
            child(number)
        pids.append(pid)
    for pid in pids:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        codes[code] = codes.get(code, 0) + 1
stop = True
thread.join(1 if planted else 30)
print(codes, len(wrong), thread.is_alive(), flush=True)
os._exit(0)
"""
WITHOUT_WARNINGS = ("-W", "ignore::DeprecationWarning")  # from 3.12 on, a fork with threads warns


@pytest.mark.slow_on_each_backend
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_forked_children_of_a_busy_parent_get_their_own_answers(backend: str) -> None:
    """100 forks with six calls under way: 0 wrong answers in parent and children, 0 hangs (P14)."""
    with RawServer(echo) as server:
        ended = run(FORKS, server.base_url, backend, "100", "sound", options=WITHOUT_WARNINGS)

    assert ended.out == "{0: 100} 0 False\n", ended.err


def test_the_fork_test_sees_inherited_sockets() -> None:
    """The control: with connections shared over the fork, answers go astray or children hang."""
    with RawServer(echo) as server:
        ended = run(FORKS, server.base_url, "trio", "4", "planted", options=WITHOUT_WARNINGS)

    assert ended.out != "{0: 4} 0 False\n"


IN_LOOP = """
import asyncio, os, sys, httpx
from perkamo.transport.transport import Transport

url = sys.argv[1]
client = httpx.AsyncClient(transport=Transport(), timeout=20)

async def ask(text):
    return (await client.post(url, content=text.encode())).text == text

async def main():
    assert await ask("warm")
    codes = []
    for number in range(20):
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                code = 0 if asyncio.run(ask(f"child {number}")) else 1
            finally:
                os._exit(code)
        assert all([await ask(f"parent {number} {n}") for n in range(3)])
        codes.append(os.waitpid(pid, 0)[1])
    print(codes == [0] * 20)

asyncio.run(main())
"""


def test_a_fork_out_of_a_running_loop_leaves_the_parent_undisturbed() -> None:
    """The parent's connection is still watched and still one; catches an epoll that the child has changed."""
    with RawServer(echo) as server:
        ended = run(IN_LOOP, server.base_url, options=WITHOUT_WARNINGS)

    assert ended.out == "True\n", ended.err
    assert len({request.connection for request in server.requests if b"child" not in request.body}) == 1


LET_GO = """
import anyio, os, sys, httpx
from perkamo.transport.transport import Transport

url, backend = sys.argv[1:]
transport = Transport()

async def main():
    client = httpx.AsyncClient(transport=transport, timeout=20)
    await client.post(url, content=b"warm")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # lives on without ever using the client
        os._exit(0)
    await transport.aclose()
    print("closed", flush=True)
    sys.stdin.readline()
    os.write(writing, b"x")
    os.waitpid(pid, 0)

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_living_child_does_not_keep_its_parents_connections_open(backend: str) -> None:
    """The server sees the end when the parent closes; catches an inherited descriptor."""
    with RawServer(echo) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", LET_GO, server.base_url, backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "closed\n"
        for thread in server._threads[1:]:
            thread.join(20)  # the connection's script ends when its client does
        still_open = [thread for thread in server._threads[1:] if thread.is_alive()]
        process.communicate("go\n", timeout=20)

    assert not still_open


def test_a_child_of_a_fork_without_hooks_leaves_its_parents_connections_alone() -> None:
    """They share an epoll; catches a child whose closing has the parent wait for answers that it no longer sees."""
    with RawServer(echo) as server:
        ended = run(HOOKLESS, server.base_url, options=())

    assert ended.code == 0, ended.err
    assert server.accepted == 2
