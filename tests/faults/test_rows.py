"""The fault matrix: rows that a server causes, for every call they concern, on asyncio, on trio and from sync code.

Where the other rows up to F57 are: F01, F31 to F33, F38 and F39 in tests/request/test_retries.py; F02, F03, F05 in
tests/transport/test_resolver.py; F04 in test_tls.py there; F06 and F07 in tests/request/test_proxies.py; F50 and F51
in tests/request/test_cancellation.py; F52 in tests/transport/test_queue.py; F53, F54 and F57 in tests/processes; F55
and F56 in tests/client/test_surface.py and tests/transport/test_loops.py; F34 to F37 for batches and the outbox in
tests/delivery. One can't be run here: F04's TLS 1.0 needs a server that speaks it, which OpenSSL 3 does not by default.
"""

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import pytest

from perkamo import (
    AsyncPerkamoClient,
    Customer,
    Event,
    IdentifyResponse,
    PerkamoClient,
    PerkamoError,
    Program,
    RetryPolicy,
)
from perkamo.decoding import class_hooks
from tests.faults.rawserver import RESULT, Connection, Once, RawServer, answer, answering
from tests.faults.rows import ALL, BROKEN, OTHER_JSON, READS, ROWS, Row

pytestmark = [pytest.mark.anyio, pytest.mark.slow_on_each_backend, pytest.mark.usefixtures("no_collector")]

KEY = "sk_test_faults"
TOKEN = b'{"token":"t","token_type":"Bearer","expires_at":"2026-06-04T12:10:00Z","expires_in":1}'

Calls = dict[str, Callable[[AsyncPerkamoClient], Awaitable[object]]]
CALLS: Calls = {
    "emit": lambda client: client.emit("u", "e", {"pad": "x" * 1000}, transaction_id="t"),
    "batch": lambda client: client.batch([Event("u", "e", "t", {"pad": "x" * 1000})]),
    "identify": lambda client: client.identify("u", {"pad": "x" * 1000}),
    "token": lambda client: client.create_browser_token("pk_test", "u"),
    "customer": lambda client: client.customer("u"),
    "program": lambda client: client.program(),
}
SYNC_CALLS: dict[str, Callable[[PerkamoClient], object]] = {
    "emit": lambda client: client.emit("u", "e", {"pad": "x" * 1000}, transaction_id="t"),
    "batch": lambda client: client.batch([Event("u", "e", "t", {"pad": "x" * 1000})]),
    "identify": lambda client: client.identify("u", {"pad": "x" * 1000}),
    "token": lambda client: client.create_browser_token("pk_test", "u"),
    "customer": lambda client: client.customer("u"),
    "program": lambda client: client.program(),
}


@pytest.fixture(params=["asyncio", "trio", "sync"])
def way(request: pytest.FixtureRequest) -> str:
    """How the client is called."""
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture
def anyio_backend(way: str) -> str:
    """The backend of the test itself; synchronous calls are made from a thread of an asyncio test."""
    return "asyncio" if way == "sync" else way


async def perform(way: str, operation: str, base_url: str, row: Row) -> object:
    """Make one call the given way, without waits between attempts."""
    policy = RetryPolicy(attempt_timeout=row.attempt_timeout, base_delay=0, max_delay=0)
    if way == "sync":

        def call() -> object:
            with PerkamoClient(KEY, base_url=base_url, timeout=row.timeout, retry=policy) as client:
                return SYNC_CALLS[operation](client)

        return await anyio.to_thread.run_sync(call)
    async with AsyncPerkamoClient(KEY, base_url=base_url, timeout=row.timeout, retry=policy) as client:
        return await CALLS[operation](client)


MATRIX = [(row, operation) for row in ROWS for operation in sorted(row.operations)]


@pytest.mark.parametrize(("row", "operation"), MATRIX, ids=[f"{row.name}: {operation}" for row, operation in MATRIX])
async def test_a_fault_ends_in_its_error(row: Row, operation: str, way: str) -> None:
    """The typed error, in so many attempts, within the deadline, with the outcome of a write; catches any other end."""
    with RawServer(row.script) as server:
        began = time.monotonic()
        with pytest.raises(PerkamoError) as caught:
            await perform(way, operation, server.base_url, row)
        took = time.monotonic() - began

    error = caught.value
    assert isinstance(error, row.error)
    assert error.attempts == row.attempts
    assert took < min(row.timeout, row.attempts * row.attempt_timeout) + 5.0  # a busy machine's own delays
    assert error.outcome is None if operation in READS else error.outcome in row.outcomes
    assert error.__cause__ is None
    assert KEY not in str(error)


PATIENT = [(row, operation) for row in OTHER_JSON for operation in sorted(ALL - row.operations)]


@pytest.mark.parametrize(("row", "operation"), PATIENT, ids=[f"{row.name}: {operation}" for row, operation in PATIENT])
async def test_other_json_where_nothing_is_published_reads_as_an_empty_answer(
    row: Row, operation: str, way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call succeeds in one attempt, and a warning tells of it; catches a check on what is only assumed."""
    monkeypatch.setattr(class_hooks, "_reported", set())
    with RawServer(row.script) as server:
        result = await perform(way, operation, server.base_url, row)

    assert isinstance(result, Customer | IdentifyResponse | Program)
    assert (result.raw, result.meta.attempts) == ({}, 1)
    assert "An empty one is returned; this is logged once" in caplog.text


RECOVERING: list[tuple[str, Callable[[Connection], None]]] = [
    (row.name, row.script) for row in BROKEN if row.attempts == 3 and row.attempt_timeout == 10.0
]


@pytest.mark.parametrize(("name", "script"), RECOVERING, ids=[name for name, _ in RECOVERING])
async def test_a_fault_that_passes_is_outlived(name: str, script: Callable[[Connection], None], way: str) -> None:
    """The second attempt sends the same body and succeeds; catches a connection that stays poisoned."""
    with RawServer(Once(script)) as server:
        result = await perform(way, "emit", server.base_url, Row(name, script, PerkamoError))

    assert getattr(getattr(result, "meta", None), "attempts", 0) == 2
    assert len({request.body for request in server.requests}) == 1


SURPLUS = answer(b'{"applied":true,"evil":1}')


@pytest.mark.parametrize(
    "first",
    [answer() + SURPLUS, answer() + b"garbage", answer() + b"\r\n", answer(b"{}" + SURPLUS, length=2)],
    ids=["F45 a second answer", "F25 a tail", "F25 a blank line", "F25 a length within the body"],
)
async def test_bytes_after_an_answer_never_reach_the_next_call(first: bytes, way: str) -> None:
    """The connection is dropped, and the next call is answered on a new one; catches response-queue poisoning."""
    with RawServer(answering(first), answering(answer())) as server:

        async def both() -> object:
            async with AsyncPerkamoClient(KEY, base_url=server.base_url) as client:
                await client.request("POST", "/v1/first", {})
                return (await client.emit("u", "e")).raw

        def both_sync() -> object:
            with PerkamoClient(KEY, base_url=server.base_url) as client:
                client.request("POST", "/v1/first", {})
                return client.emit("u", "e").raw

        raw = await (anyio.to_thread.run_sync(both_sync) if way == "sync" else both())

    assert isinstance(raw, dict)
    assert "evil" not in raw
    assert [request.connection for request in server.requests] == [0, 1]


async def test_a_thousand_continues_are_borne(way: str) -> None:
    """Row F16: 2,000 times 100 Continue, then the answer; catches a recursion over interim answers."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + answer())

    with RawServer(script) as server:
        result = await perform(way, "emit", server.base_url, Row("F16", script, PerkamoError))

    assert getattr(result, "accepted", False)


@pytest.mark.parametrize("status", [413, 401])
async def test_an_early_refusal_is_heard_while_sending(status: int, way: str) -> None:
    """Row F13: the answer that came during the upload is raised, not the broken pipe; catches a write error."""

    def script(connection: Connection) -> None:
        connection.read_some(100)
        connection.send(answer(b'{"message":"too much"}', f"{status} No", ["connection: close"]))
        connection.stall()

    events = [Event("u", "e", f"t{n}", {"pad": "x" * 60_000}) for n in range(100)]
    with RawServer(script) as server, pytest.raises(PerkamoError, match=f"{status} too much") as caught:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url, timeout=20) as client:
            await client.batch(events)

    assert caught.value.attempts == 1


async def test_a_slow_reader_ends_in_a_timeout(way: str) -> None:
    """Row F12: a body that the server does not read times out; catches a write without a bound."""

    def script(connection: Connection) -> None:
        connection.read_some(100)
        connection.server.stopping.wait(30)

    events = [Event("u", "e", f"t{n}", {"pad": "x" * 200_000}) for n in range(100)]
    with RawServer(script) as server, pytest.raises(PerkamoError, match="ran out of time") as caught:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url, timeout=1.0) as client:
            await client.batch(events)

    assert (caught.value.outcome, caught.value.attempts) == ("unknown", 1)


async def test_an_event_that_was_applied_before_a_gateway_failed_counts_once(way: str) -> None:
    """Row F15: the service applies, its gateway says 502, the retry hears duplicate; catches a reward not shown."""
    duplicate = RESULT.replace(b'"applied":true,"duplicate":false', b'"applied":false,"duplicate":true')
    with RawServer(answering(answer(b"<html>", "502 Bad Gateway"), answer(duplicate))) as server:
        result = await perform(way, "emit", server.base_url, Row("F15", answering(), PerkamoError))

    assert (getattr(result, "applied", None), getattr(result, "accepted", None)) == (False, True)
    assert len({request.body for request in server.requests}) == 1


async def test_an_idle_connection_that_the_server_closed_is_replaced(way: str) -> None:
    """Row F08: the next call takes a new connection without an error; catches a dead connection in the pool."""

    def once(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer())

    with RawServer(once) as server:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url) as client:
            results = [await client.emit("u", "e") for _ in range(5)]

    assert all(result.accepted for result in results)


MEASURE = """
import resource, sys
import anyio
from perkamo import AsyncPerkamoClient, PerkamoResponseError, RetryPolicy

async def main():
    async with AsyncPerkamoClient("sk_test", base_url=sys.argv[1], retry=RetryPolicy.none()) as client:
        try:
            await client.program()
        except PerkamoResponseError:
            pass
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            await client.program()
        except PerkamoResponseError as error:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

anyio.run(main)
"""
HUGE = [row for row in ROWS if row.name.startswith(("F40 a gzip bomb", "F41 100 MB"))]


@pytest.mark.parametrize("row", HUGE, ids=[row.name for row in HUGE])
@pytest.mark.parametrize("way", ["asyncio"])
async def test_memory_stays_bounded(row: Row, way: str) -> None:
    """Peak memory rises by less than 32 MB, after a small answer (P13); catches a body that is decoded whole."""
    with RawServer(answering(answer(b"x")), row.script) as server:
        done = await anyio.run_process([sys.executable, "-c", MEASURE, server.base_url], stderr=subprocess.STDOUT)

    assert int(done.stdout) < 32 * 1024
