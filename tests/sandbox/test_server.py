"""The socket: what HTTP clients of all kinds see of it."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import anyio.to_thread
import httpx
import pytest

from perkamo.sandbox import Delay, Sandbox, SandboxError
from tests.sandbox.caller import event
from tests.sandbox.wire import Sender, address_of, exchange, read_all


def test_a_keep_alive_connection_serves_many_calls(sandbox: Sandbox, wire: Sender) -> None:
    """Expect one connection to last, and every answer to say that it came from a sandbox."""
    wire.post("/v1/events", event())
    local = wire.connection.sock.getsockname()

    answers = [wire.get("/v1/customer/customer_123") for _ in range(20)]

    assert wire.connection.sock.getsockname() == local
    assert {answer.headers["x-perkamo-sandbox"] for answer in answers} == {"1"}
    assert answers[-1].json["wallets"] == {"points": 50}


@pytest.mark.anyio
async def test_stock_httpx_works_on_both_backends(sandbox: Sandbox) -> None:
    """Expect concurrent calls from asyncio and from trio to be served by the sandbox's own thread."""
    async with (
        httpx.AsyncClient(base_url=sandbox.base_url, trust_env=False, timeout=60) as client,
        anyio.create_task_group() as group,
    ):

        async def read(number: int) -> None:
            answer = await client.get(f"/v1/customer/user_{number}", headers={"x-perkamo-api-key": sandbox.api_key})
            assert answer.json()["user_id"] == f"user_{number}"

        for number in range(50):
            group.start_soon(read, number)


def test_threads_may_call_and_look_at_once(sandbox: Sandbox) -> None:
    """Expect no lost event and no torn read when eight threads send and read together."""

    def work(number: int) -> None:
        wire = Sender(sandbox)
        for step in range(25):
            wire.post("/v1/events", event(user_id=f"user_{number}", transaction_id=f"{number}_{step}"))
            assert sandbox.customer(f"user_{number}").wallets["points"] == 50 * (step + 1)
            assert len(sandbox.requests) > step
        wire.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert len(sandbox.events()) == 200


def test_small_answers_are_not_held_back(wire: Sender) -> None:
    """Expect TCP_NODELAY: without it each call waits some 40 ms for an acknowledgement (reliability row 0.13)."""
    wire.get("/v1/program")

    fastest = min(_seconds(wire) for _ in range(20))

    assert fastest < 0.02


def _seconds(wire: Sender) -> float:
    began = time.perf_counter()
    wire.post("/v1/events", event())
    return time.perf_counter() - began


def test_the_socket_has_no_delay_set(sandbox: Sandbox, wire: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the option on the accepted socket itself, whatever the speed of this machine."""
    wire.get("/v1/program")
    server = sandbox._server
    assert server is not None

    numbers = list(server._connections.values())

    assert len(numbers) == 1
    accepted = socket.socket(fileno=os.dup(numbers[0]))
    with accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_it_listens_on_loopback_only(sandbox: Sandbox) -> None:
    """Expect 127.0.0.1 and a port that the system chose."""
    host, port = address_of(sandbox)

    assert host == "127.0.0.1"
    assert port > 0


def test_two_sandboxes_run_side_by_side() -> None:
    """Expect ports, state and logs of their own."""
    with Sandbox() as one, Sandbox() as two:
        wire = Sender(one)
        wire.post("/v1/events", event())
        wire.close()

        assert one.base_url != two.base_url
        assert (len(one.events()), len(two.events())) == (1, 0)
        assert two.requests == ()


def test_a_busy_port_is_an_error_in_the_caller_at_once(sandbox: Sandbox) -> None:
    """Expect SandboxError that names port and remedy, no thread left behind, and the sandbox to be startable later."""
    _, port = address_of(sandbox)
    threads = threading.active_count()
    second = Sandbox(port=port)

    began = time.perf_counter()
    with pytest.raises(SandboxError, match=f"port {port} on 127.0.0.1 is in use"):
        second.start()

    assert time.perf_counter() - began < 10  # at once, where the machine has nothing else to do
    assert threading.active_count() == threads
    sandbox.stop()
    with second:
        assert address_of(second)[1] == port


@pytest.mark.parametrize("port", [999_999, 65_536, -1, "4001", 1.5, True], ids=repr)
def test_a_port_that_cannot_be_is_refused(port: object) -> None:
    """Expect SandboxError that says what a port is; catches a port modulo 65536."""
    with pytest.raises(SandboxError, match="port must be a whole number from 0 to 65535"), Sandbox(port=port):  # type: ignore[arg-type]  # wrong on purpose
        pass


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "300.1.1.1"])
def test_an_address_that_is_not_ours_is_an_error(host: str) -> None:
    """Expect SandboxError that names it."""
    with pytest.raises(SandboxError, match=host):
        Sandbox(host=host).start()


def test_a_host_may_be_named() -> None:
    """Expect the address that was asked for, with brackets for version 6 where this machine has it."""
    for host, url in (("127.0.0.2", "http://127.0.0.2:"), ("localhost", "http://"), ("::1", "http://[::1]:")):
        try:
            with Sandbox(host=host) as sandbox:
                assert sandbox.base_url.startswith(url)
        except SandboxError as error:
            assert host == "::1", error  # noqa: PT017 - a machine without IPv6 may refuse this one host only


def _sandbox_threads() -> int:
    return sum(thread.name == "perkamo-sandbox" for thread in threading.enumerate())


def test_stopping_closes_port_and_connections(sandbox: Sandbox, wire: Sender) -> None:
    """Expect open connections to end, the port to be free, the thread to be gone and the state to stay readable."""
    wire.post("/v1/events", event())
    address = address_of(sandbox)
    connection = wire.connection.sock
    threads = _sandbox_threads()

    sandbox.stop()
    sandbox.stop()

    assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    assert _sandbox_threads() == threads - 1  # the whole session has a sandbox of its own besides
    assert len(sandbox.events()) == 1
    with pytest.raises(SandboxError, match="not running"):
        _ = sandbox.base_url


@pytest.mark.parametrize("pause", [0.0, 0.0003, 0.001])
def test_stopping_ends_connections_that_were_only_just_made(pause: float) -> None:
    """Expect each to end, at whatever step of being accepted: catches one that nobody owns yet and that stays open."""
    for _ in range(30):
        sandbox = Sandbox().start()
        connections = [socket.create_connection(address_of(sandbox), timeout=20) for _ in range(4)]
        time.sleep(pause)

        sandbox.stop()

        for connection in connections:
            with connection, suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_it_can_be_started_again_but_not_twice(sandbox: Sandbox) -> None:
    """Expect an error for a second start, and a fresh port with the old state after a stop."""
    with pytest.raises(SandboxError, match="is already running"):
        sandbox.start()

    sandbox.stop()
    with sandbox:
        wire = Sender(sandbox)
        assert wire.get("/v1/program").status == 200
        wire.close()


def test_stopping_ends_a_delayed_answer(sandbox: Sandbox) -> None:
    """Expect stop not to wait for a request that was to be answered in an hour."""
    sandbox.faults.next("GET /v1/program", Delay(3600))
    with socket.create_connection(address_of(sandbox), timeout=20) as connection:
        connection.sendall(
            f"GET /v1/program HTTP/1.1\r\nhost: a\r\nx-perkamo-api-key: {sandbox.api_key}\r\n\r\n".encode()
        )
        _until(lambda: len(sandbox.requests) == 1)

        began = time.perf_counter()
        sandbox.stop()

        assert time.perf_counter() - began < 20
        assert connection.recv(1) == b""


def test_a_body_over_2_mb_is_413_and_the_answer_arrives(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the answer although the client is still sending, then a closed connection, and nothing applied."""
    answer = wire.post("/v1/events", b" " * 2_000_001)

    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "2000000 bytes" in answer.message
    assert sandbox.requests == ()


def test_a_body_of_2_mb_is_read(wire: Sender) -> None:
    """Expect the limit itself to be allowed, also when it comes in chunks of unstated length."""
    assert wire.post("/v1/events", b" " * 2_000_000).status == 400
    raw = json.dumps(event()).encode()
    wire.connection.request(
        "POST", "/v1/events", iter([raw[:10], raw[10:]]), wire.signed("/v1/events", raw), encode_chunked=True
    )
    response = wire.connection.getresponse()
    assert json.loads(response.read())["applied"] is True


def test_an_endless_chunked_body_is_cut_off(sandbox: Sandbox) -> None:
    """Expect 413 when the limit is passed, long before the end: the sandbox's memory is not the client's."""
    with socket.create_connection(address_of(sandbox), timeout=20) as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(32):
            connection.sendall(chunk)

        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", b"400"),
        (b"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", b"400"),
        (b"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 300_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_no_http_is_turned_away(sandbox: Sandbox, data: bytes, status: bytes) -> None:
    """Expect an error answer and a closed connection, and the sandbox to go on."""
    answer = exchange(sandbox, data)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert exchange(sandbox, b"GET /v1/x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(("data", "status"), [(b"", b""), (b"GET / HT", b"HTTP/1.1 400 Bad Request")])
def test_a_client_that_goes_without_a_word_does_no_harm(sandbox: Sandbox, data: bytes, status: bytes) -> None:
    """Expect no byte for no byte, a 400 for half a request, the connection closed, and nothing logged."""
    answer = exchange(sandbox, data)

    assert answer.partition(b"\r\n")[0] == status
    assert sandbox.requests == ()


def test_pipelined_requests_are_answered_in_order(sandbox: Sandbox) -> None:
    """Expect two answers on one connection for two requests sent at once."""
    request = f"GET /v1/customer/%s HTTP/1.1\r\nhost: a\r\nx-perkamo-api-key: {sandbox.api_key}\r\n\r\n".encode()

    answers = exchange(sandbox, request % b"first" + request % b"second")

    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.index(b'"first"') < answers.index(b'"second"')


def test_http_1_0_and_connection_close_end_the_connection(sandbox: Sandbox) -> None:
    """Expect the answer and then the end, without waiting for the client."""
    for head in (b"GET /v1/x HTTP/1.0\r\n\r\n", b"GET /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"):
        with socket.create_connection(address_of(sandbox), timeout=20) as connection:
            connection.sendall(head)
            assert read_all(connection).startswith(b"HTTP/1.1 404")


def test_head_has_no_body(sandbox: Sandbox) -> None:
    """Expect 405 without a body: catches bytes that would be read as the next answer."""
    answer = exchange(sandbox, b"HEAD /v1/program HTTP/1.1\r\nhost: a\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 405")
    assert answer.endswith(b"\r\n\r\n")


def test_expect_100_continue_is_answered_at_once(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the go-ahead that curl and PHP wait a second for."""
    raw = json.dumps(event()).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in wire.signed("/v1/events", raw).items())
    with socket.create_connection(address_of(sandbox), timeout=20) as connection:
        connection.sendall(
            f"POST /v1/events HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n"
            f"content-length: {len(raw)}\r\n{head}\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        assert b'"applied":true' in read_all(connection)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
