"""The sync twin of the stream: iterated in the caller's thread, over the same coroutines."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from perkamo import (
    Customer,
    PerkamoClient,
    PerkamoError,
    PerkamoStreamError,
    PerkamoValidationError,
    ReconnectPolicy,
    SyncCustomerStream,
)
from perkamo.sandbox import Sandbox, Truncate
from tests.faults.rawserver import RawServer
from tests.stream.scripts import event, gone, refusing, sending, stalling

ROUTE = "GET /v1/client/customer/{user_id}/stream"
AT_ONCE = ReconnectPolicy(base_delay=0.0, max_delay=0.0)


@pytest.fixture
def sync_client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A sync client of the sandbox, whose streams ask for no waits."""
    sandbox.streams.retry_ms = None
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        yield client


def subscribe(server: RawServer) -> SyncCustomerStream:
    """Subscribe at a raw server."""
    client = PerkamoClient("sk_test_sync", base_url=server.base_url)
    return client.subscribe_customer("customer_123", "token_1", reconnect=AT_ONCE)


def all_closed(server: RawServer) -> bool:
    """Wait until every script of the server saw its client go."""
    for thread in server._threads[1:]:
        thread.join(20)
    return not any(thread.is_alive() for thread in server._threads[1:])


def test_a_for_loop_is_all_it_takes(sandbox: Sandbox, sync_client: PerkamoClient) -> None:
    """Updates come in a plain loop, over a lost connection; the token's supplier is the sync client itself."""
    sandbox.faults.next(ROUTE, Truncate(700))
    seen: list[object] = []

    stream = sync_client.subscribe_customer(
        "customer_123",
        lambda: sync_client.create_stream_token(sandbox.browser_key, "customer_123"),
        reconnect=AT_ONCE,
    )
    for update in stream:
        seen.append(update.customer.traits.get("n"))
        if len(seen) == 6:
            break
        sync_client.identify("customer_123", {"n": len(seen)})

    assert seen == [None, 1, 2, 3, 4, 5]
    assert stream.state == "closed"
    assert sum(record.route == ROUTE for record in sandbox.requests) == 2


def test_breaking_off_closes_the_connection() -> None:
    """Without a with block as well: the service sees the connection go at once."""
    with RawServer(stalling(event(1))) as server:
        for update in (stream := subscribe(server)):
            assert update.customer.wallets == {"points": 1}
            break

        assert stream.state == "closed"
        assert all_closed(server)


def test_a_with_block_closes_the_connection() -> None:
    """However it is left."""
    with RawServer(stalling(event(1))) as server:
        stream = subscribe(server)
        with pytest.raises(KeyError):
            _fail_within(stream)

        assert all_closed(server)
    assert stream.receive() is None


def _fail_within(stream: SyncCustomerStream) -> None:
    with stream:
        assert stream.receive() is not None
        raise KeyError


def test_an_end_and_a_failure_read_as_in_async_code() -> None:
    """204 ends the loop; a refusal raises its typed error."""
    with RawServer(sending(event(1), event(2)), gone) as server:
        balances = [update.customer.wallets["points"] for update in subscribe(server)]
    with RawServer(refusing("404 No")) as server, pytest.raises(PerkamoStreamError):
        list(subscribe(server))

    assert balances == [1, 2]


def test_another_thread_may_close_it() -> None:
    """The loop that waits for an update just ends."""
    with RawServer(stalling(event(1))) as server:
        stream = subscribe(server)
        first = threading.Event()
        seen: list[float] = []

        def consume() -> None:
            for update in stream:
                seen.append(update.customer.wallets["points"])
                first.set()

        thread = threading.Thread(target=consume)
        thread.start()
        assert first.wait(20)
        stream.close()
        thread.join(20)

        assert not thread.is_alive()
        assert seen == [1]


def test_callbacks_run_in_the_callers_thread() -> None:
    """Where thread-locals and database connections are; the error goes to its own callback."""
    threads: list[threading.Thread] = []
    errors: list[PerkamoError] = []

    def on_customer(_: Customer) -> None:
        threads.append(threading.current_thread())

    with RawServer(sending(event(1)), refusing("404 No")) as server:
        subscribe(server).run(on_customer, errors.append)

    assert threads == [threading.current_thread()]
    assert [type(error) for error in errors] == [PerkamoStreamError]


def test_no_frame_of_the_twin_holds_the_token() -> None:
    """A refused argument leaves no token in the traceback of synchronous code either."""
    token = "st_" + "secret_0123"

    with pytest.raises(PerkamoValidationError) as caught:
        PerkamoClient("sk_test_x").subscribe_customer("..", token)

    frames = [repr(entry.frame.f_locals) for entry in caught.traceback[1:]]
    assert frames
    assert not [text for text in frames if token in text]


def test_a_stream_left_open_is_named_with_its_remedy() -> None:
    """The warning speaks of synchronous code."""
    with RawServer(stalling(event(1))) as server:
        dropped = [subscribe(server)]
        dropped[0].receive()
        with pytest.warns(ResourceWarning, match=r"SyncCustomerStream open> was never closed; use it with 'with'"):
            dropped.clear()

        assert all_closed(server)


PROGRAM = """
import sys
from perkamo import PerkamoClient

with PerkamoClient("sk_test_x", base_url=sys.argv[1]) as client:
    try:
        for update in client.subscribe_customer("customer_123", "token_1"):
            print("update", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_the_loop_and_the_program() -> None:
    """While the program waits for an update, Ctrl-C raises KeyboardInterrupt, closes the connection and ends it."""
    with RawServer(stalling(event(1))) as server:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, server.base_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "update\n"
            program.send_signal(signal.SIGINT)
            out, err = program.communicate(timeout=30)

        assert (out, err, program.returncode) == ("interrupted\n", "", 0)
        assert all_closed(server)
