"""sync_client: Ctrl-C, threads, key suppliers, and running loops."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context

import anyio
import anyio.to_thread
import pytest

from perkamo import PerkamoAsyncUsageWarning, PerkamoClient, PerkamoError
from perkamo.sandbox import Sandbox
from tests.faults.rawserver import Connection, RawServer, answer
from tests.processes.script import finish, run, start

SLOW = """
import sys, time
from perkamo import PerkamoClient

client = PerkamoClient("sk_test_slow", base_url=sys.argv[1], timeout=30)
print("READY")
try:
    client.emit("u", "slow")
except KeyboardInterrupt:
    print("interrupted", time.time())
print(client.emit("u", "e").accepted)
client.close()
"""


def test_ctrl_c_ends_a_slow_call_on_the_wire_too_and_the_next_one_works() -> None:
    """SIGINT: KeyboardInterrupt at once, the request cancelled, a second use fine; catches a request that goes on."""
    assert any(interrupt_a_slow_call() < 0.5 for _ in range(3))  # 50 ms on a quiet machine


def interrupt_a_slow_call() -> float:
    """Return how many seconds after the signal the call had ended; all else holds each time."""
    hung_up = threading.Event()

    def first(connection: Connection) -> None:
        connection.read_request()
        process.send_signal(signal.SIGINT)
        sent.append(time.time())
        if not connection.read_some(1):
            hung_up.set()

    def second(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(answer())

    sent: list[float] = []
    with RawServer(first, second) as server:
        process = start(SLOW, [server.base_url], ["-X", "dev", "-W", "error"])
        ended = finish(process)
        assert hung_up.wait(10)

    assert (ended.code, ended.err) == (0, "")
    ready, interrupted, accepted = ended.out.splitlines()
    assert (ready, accepted) == ("READY", "True")
    return float(interrupted.split()[1]) - sent[0]


def echo(connection: Connection) -> None:
    """Answer each request with the customer that it asks for."""
    while (request := connection.read_request()) is not None:
        connection.send(answer(b'{"user_id":"%s"}' % request.line.split()[1].rsplit("/", 1)[-1].encode()))


@pytest.mark.no_cover
@pytest.mark.release
def test_sixty_four_threads_get_their_own_answers() -> None:
    """64 x 1,000 calls on one client: each answer is of its request (P16); catches answers that cross."""
    with RawServer(echo) as server, PerkamoClient("sk_test", base_url=server.base_url) as client:

        def thousand(number: int) -> int:
            names = [f"{number}-{n}" for n in range(1000)]
            return sum(client.customer(name).user_id == name for name in names)

        with ThreadPoolExecutor(64) as pool:
            right = sum(pool.map(thousand, range(64)))

        assert right == 64_000
        assert server.accepted <= 100
    assert [thread for thread in threading.enumerate() if thread.name.startswith("anyio")] == []


def test_a_key_supplier_that_blocks_does_not_block_other_calls(sandbox: Sandbox) -> None:
    """One client's vault hangs, another client goes on; catches a supplier that runs on the loop."""
    asked, go_on = threading.Event(), threading.Event()

    def vault() -> str:
        asked.set()
        assert go_on.wait(20)
        return sandbox.api_key

    with (
        PerkamoClient(vault, base_url=sandbox.base_url) as slow,
        PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as quick,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(slow.program)
        assert asked.wait(20)
        assert quick.program().meta.status == 200
        assert not waiting.done()
        go_on.set()
        assert waiting.result(20).meta.status == 200


tenant: ContextVar[str] = ContextVar("tenant")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_key_supplier_sees_the_caller_s_context(sandbox: Sandbox, asynchronous: bool) -> None:
    """Each thread's own context variable reaches the supplier; catches the loop thread's context."""
    seen: list[str] = []

    def supplier() -> str:
        seen.append(tenant.get())
        return sandbox.api_key

    async def async_supplier() -> str:
        return supplier()

    with PerkamoClient(async_supplier if asynchronous else supplier, base_url=sandbox.base_url) as client:
        for name in ("one", "two"):
            context = copy_context()
            context.run(tenant.set, name)
            context.run(client.program)

    assert seen == ["one", "two"]


def test_a_sync_call_in_an_async_supplier_is_refused(sandbox: Sandbox) -> None:
    """It would wait for itself; catches the deadlock."""

    async def supplier() -> str:
        client.program()
        return sandbox.api_key

    client = PerkamoClient(supplier, base_url=sandbox.base_url)
    with client, pytest.raises(PerkamoError, match="api_key function raised PerkamoError"):
        client.program()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_in_a_running_loop_works_and_names_the_line_to_write(sandbox: Sandbox, backend: str) -> None:
    """It warns and answers; catches a frozen loop that nobody explains (row F54)."""

    async def handler() -> int:
        return client.program().meta.status

    async def in_a_worker() -> int:
        return await anyio.to_thread.run_sync(lambda: client.program().meta.status)

    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        if backend == "asyncio":
            with pytest.warns(PerkamoAsyncUsageWarning, match=r"await client\.program\(\.\.\.\)"):
                assert anyio.run(handler) == 200
        assert anyio.run(in_a_worker, backend=backend) == 200


def test_closing_one_client_leaves_others_alone(sandbox: Sandbox) -> None:
    """They share the loop and nothing else; catches a portal that ends with the first client."""
    first = PerkamoClient(sandbox.api_key, base_url=sandbox.base_url)
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as second:
        first.program()
        second.program()
        first.close()

        assert second.program().meta.status == 200


def test_the_whole_of_a_sync_program_runs_clean_under_dev_mode(sandbox: Sandbox) -> None:
    """Python -X dev -W error prints nothing; catches an unclosed socket, loop or coroutine."""
    code = """
    import sys
    from perkamo import PerkamoClient, PerkamoError

    with PerkamoClient(sys.argv[1], base_url=sys.argv[2]) as client:
        client.identify("u", {"a": 1})
        client.emit("u", "purchase.completed", {"amount": 100})
        client.batch([{"user_id": "u", "event": "e", "transaction_id": "t"}])
        client.customer("u"), client.program(), client.event_catalog()
        try:
            client.request("GET", "/v1/nothing")
        except PerkamoError as error:
            print(error.attempts)
    client.close()
    """
    ended = run(code, sandbox.api_key, sandbox.base_url)

    assert (ended.code, ended.out, ended.err) == (0, "1\n", "")
