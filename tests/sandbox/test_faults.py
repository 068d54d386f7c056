"""Faults: each kind over a real socket and inside the process, the counting of them, and that none goes unnoticed."""

import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import cast

import anyio
import httpx
import pytest

from perkamo.sandbox import Delay, Fault, Faults, Lost, Reset, Sandbox, Status, Truncate
from perkamo.sandbox.process import ProcessLock
from tests.sandbox.caller import event
from tests.sandbox.marks import STREAM, forking, stream_of
from tests.sandbox.wire import Sender, address_of

EMIT = "POST /v1/events"
READ = "GET /v1/customer/{user_id}"


def outcome(wire: Sender, **changes: object) -> str:
    """Emit one event and say what the client saw, on a fresh connection."""
    wire.close()
    try:
        return str(wire.post("/v1/events", event(**changes)).status)
    except (OSError, ValueError) as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - http.client's errors share no useful root; the name is what is asserted
        return type(error).__name__


def test_a_status_answers_and_applies_nothing(sandbox: Sandbox, wire: Sender) -> None:
    """Expect code, headers and the usual ones, on one request only."""
    sandbox.faults.next(EMIT, Status(503, headers={"Retry-After": "7", "x-perkamo-request-id": "mine"}))

    answer = wire.post("/v1/events", event())

    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert answer.headers["x-perkamo-request-id"] == "mine"
    assert answer.message == "A fault of the sandbox: 503"
    assert "date" in answer.headers
    assert sandbox.events() == ()
    assert wire.post("/v1/events", event()).status == 200


@pytest.mark.parametrize("body", [b"\xff\x00", "<html>", b""])
def test_a_status_may_bring_any_body(sandbox: Sandbox, wire: Sender, body: bytes | str) -> None:
    """Expect the bytes as they are, under the content type that was asked for: error bodies are not always JSON."""
    sandbox.faults.next(READ, Status(502, {"content-type": "text/html"}, body))

    answer = wire.get("/v1/customer/a")

    assert (answer.status, answer.headers["content-type"]) == (502, "text/html")
    assert answer.raw == (body if isinstance(body, bytes) else body.encode())


@pytest.mark.parametrize("code", [200, 204, 301, 304, 404, 599])
def test_every_status_code_can_be_answered(sandbox: Sandbox, wire: Sender, code: int) -> None:
    """Expect the connection to go on after any of them, those without a body too."""
    sandbox.faults.next(READ, Status(code, body="text"))

    answer = wire.get("/v1/customer/a")

    assert (answer.status, answer.raw) == (code, b"" if code in {204, 304} else b"text")
    assert wire.get("/v1/customer/a").status == 200


def test_a_delay_applies_at_once_and_answers_late(sandbox: Sandbox) -> None:
    """Expect the event of a client that gives up to be applied, and the sandbox to serve others meanwhile."""
    sandbox.faults.next(EMIT, Delay(3600))
    impatient, patient = Sender(sandbox, timeout=1), Sender(sandbox)

    seen = outcome(impatient)

    assert seen == "TimeoutError"
    assert len(sandbox.events()) == 1
    assert patient.post("/v1/events", event()).json["duplicate"] is True
    impatient.close()
    patient.close()


def test_a_short_delay_answers_in_the_end(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the whole answer after the delay."""
    sandbox.faults.next(EMIT, Delay(0.05))

    began = time.perf_counter()
    answer = wire.post("/v1/events", event())

    assert time.perf_counter() - began >= 0.05
    assert answer.json["applied"] is True


@pytest.mark.parametrize(("fault", "applied"), [(Reset(before="apply"), 0), (Reset(after="apply"), 1)])
def test_a_reset_is_a_real_reset(sandbox: Sandbox, wire: Sender, fault: Fault, applied: int) -> None:
    """Expect RST and not an orderly end, and the event applied or not as was said."""
    sandbox.faults.next(EMIT, fault)

    assert outcome(wire) == "ConnectionResetError"
    assert len(sandbox.events()) == applied
    assert sandbox.requests[0].status is None


def test_a_lost_answer_is_an_orderly_end_after_the_event_was_applied(sandbox: Sandbox, wire: Sender) -> None:
    """Expect applied, closed without a byte; then the resend is a duplicate that earns nothing twice."""
    sandbox.faults.next(EMIT, Lost())

    assert outcome(wire) == "RemoteDisconnected"
    assert sandbox.customer("customer_123").wallets == {"points": 50}
    assert wire.post("/v1/events", event()).json["duplicate"] is True
    assert sandbox.customer("customer_123").wallets == {"points": 50}


@pytest.mark.parametrize("length", [0, 1, 50])
def test_a_truncated_answer_promises_more_than_it_sends(sandbox: Sandbox, wire: Sender, length: int) -> None:
    """Expect the full content-length, so many bytes, and the end: http.client calls that an incomplete read."""
    sandbox.faults.next(EMIT, Truncate(length))
    raw = b'{"user_id":"a","event":"user.registered","transaction_id":"1"}'
    wire.connection.request("POST", "/v1/events", raw, wire.signed("/v1/events", raw))
    response = wire.connection.getresponse()

    with pytest.raises(Exception, match=f"IncompleteRead\\({length} bytes read") as caught:
        response.read()

    assert type(caught.value).__name__ == "IncompleteRead"
    assert len(sandbox.events()) == 1


def test_times_and_order_are_kept(sandbox: Sandbox, wire: Sender) -> None:
    """Expect what was armed first to strike first, each as often as asked, and then nothing."""
    sandbox.faults.next(EMIT, Status(500), times=2)
    sandbox.faults.sequence(EMIT, [Status(503), None, Lost(), None])
    sandbox.faults.next(EMIT, Status(429))

    seen = [outcome(wire, transaction_id=str(number)) for number in range(8)]

    assert seen == ["500", "500", "503", "200", "RemoteDisconnected", "200", "429", "200"]
    assert sandbox.faults.unfired == ()
    sandbox.faults.assert_all_fired()


def test_a_fault_strikes_its_own_route_only(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the batch route, whose path begins the same, and every customer's path to be told apart."""
    sandbox.faults.next("POST /v1/events:batch", Status(503))
    sandbox.faults.next(READ, Status(502))

    assert wire.post("/v1/events", event()).status == 200
    assert wire.get("/v1/program").status == 200
    assert wire.get("/v1/customer/anyone%20at%20all").status == 502
    assert wire.post("/v1/events:batch", {"events": [event()]}).status == 503
    sandbox.faults.next(EMIT, Status(503))
    assert wire.post("/v1/events:batch", {"events": [event()]}).status == 200
    assert wire.post("/v1/events", event()).status == 503


def test_a_fault_strikes_before_the_key_is_looked_at(sandbox: Sandbox, wire: Sender) -> None:
    """Expect a gateway's answer not to depend on credentials."""
    sandbox.faults.next("GET /v1/program", Status(503))

    assert wire.send("GET", "/v1/program", b"", {}).status == 503
    assert wire.send("GET", "/v1/program", b"", {}).status == 401


def test_a_rate_strikes_the_same_requests_for_the_same_seed(sandbox: Sandbox, wire: Sender) -> None:
    """Expect about the share that was asked for, repeatably, until it is cleared."""

    def play(seed: int) -> list[int]:
        sandbox.reset()
        sandbox.faults.rate(0.3, Status(503), seed=seed)
        return [wire.get("/v1/program").status for _ in range(200)]

    first = play(7)

    assert 30 <= first.count(503) <= 90
    assert play(7) == first
    assert play(8) != first
    sandbox.faults.clear()
    assert [wire.get("/v1/program").status for _ in range(20)] == [200] * 20


def test_a_rate_may_be_bound_to_a_route(sandbox: Sandbox, wire: Sender) -> None:
    """Expect other routes to be left alone, and what was armed for one request to come first."""
    sandbox.faults.rate(1, Status(503), seed=1, route=EMIT)
    sandbox.faults.next(EMIT, Status(429))

    assert wire.get("/v1/program").status == 200
    assert [outcome(wire), outcome(wire)] == ["429", "503"]


@pytest.mark.parametrize(
    "fault", [Status(503), Delay(0.01), Reset(before="apply"), Reset(after="apply"), Truncate(3), Lost()]
)
def test_every_firing_is_in_the_request_log(sandbox: Sandbox, wire: Sender, fault: Fault) -> None:
    """Expect the fault in words, exactly on the request that it struck."""
    sandbox.faults.next(EMIT, fault)

    outcome(wire)
    outcome(wire)

    struck, spared = sandbox.requests
    assert struck.fault is not None
    assert struck.fault.startswith(type(fault).__name__)
    assert spared.fault is None


def test_leaving_the_sandbox_fails_when_an_armed_fault_never_fired() -> None:
    """Expect AssertionError that names it: a test of a fault that did not happen proves nothing."""
    named = r"POST /v1/events: Status\(503\), Lost\(\); any route: Status\(500\)"
    with pytest.raises(AssertionError, match=named), Sandbox() as sandbox:  # noqa: PT012 - leaving the block is what fails
        sandbox.faults.sequence(EMIT, [Status(503), Lost()])
        sandbox.faults.rate(0.1, Status(500), seed=1)

    assert sandbox.faults.unfired == ()


def test_a_partly_fired_fault_is_not_forgotten(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the rest of a count to be missed too."""
    sandbox.faults.next(EMIT, Status(503), times=3)
    outcome(wire)

    assert sandbox.faults.unfired == ("POST /v1/events: Status(503), Status(503)",)
    with pytest.raises(AssertionError, match="never fired"):
        sandbox.faults.assert_all_fired()
    sandbox.faults.assert_all_fired()


def test_an_exception_is_not_hidden_by_unfired_faults() -> None:
    """Expect the test's own error to come through."""
    with pytest.raises(KeyError), Sandbox() as sandbox:  # noqa: PT012 - the block is what a test would hold
        sandbox.faults.next(EMIT, Status(503))
        raise KeyError


@pytest.mark.anyio
async def test_the_async_context_manager_asks_too() -> None:
    """Expect the same check on async exit."""
    with pytest.raises(AssertionError, match="never fired"):
        async with Sandbox() as sandbox:
            sandbox.faults.next(EMIT, Status(503))


def test_clear_and_reset_disarm(sandbox: Sandbox, wire: Sender) -> None:
    """Expect neither to complain about what never fired."""
    for disarm in (sandbox.faults.clear, sandbox.reset):
        sandbox.faults.next(EMIT, Status(503))
        sandbox.faults.rate(1, Status(503), seed=1)
        disarm()
        assert outcome(wire) == "200"


@pytest.mark.parametrize(
    "arm",
    [
        lambda faults: faults.next("POST /v1/event", Status(503)),
        lambda faults: faults.next("post /v1/events", Status(503)),
        lambda faults: faults.next("GET /v1/customer/a", Status(503)),
        lambda faults: faults.next(EMIT, Status(503), times=0),
        lambda faults: faults.sequence(EMIT, []),
        lambda faults: faults.sequence(EMIT, [None]),
        lambda faults: faults.rate(0, Status(503), seed=1),
        lambda faults: faults.rate(1.1, Status(503), seed=1),
        lambda faults: faults.rate(float("nan"), Status(503), seed=1),
        lambda faults: faults.rate(1, Status(503), seed=1, route="GET /"),
        lambda _: Status(99),
        lambda _: Status(600),
        lambda _: Delay(-1),
        lambda _: Delay(float("nan")),
        lambda _: Delay(float("inf")),
        lambda _: Truncate(-1),
        lambda _: Reset(),
        lambda _: Reset(before="apply", after="apply"),
    ],
)
def test_what_could_never_happen_cannot_be_armed(sandbox: Sandbox, arm: Callable[[Faults], object]) -> None:
    """Expect ValueError where it is written, not a fault that silently never fires."""
    with pytest.raises(ValueError):
        arm(sandbox.faults)
    assert sandbox.faults.unfired == ()


def test_a_truncated_stream_is_cut(sandbox: Sandbox) -> None:
    """Expect the seam for streams to know cuts: so many bytes, and the end without the last chunk."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"12345"
        yield b"67890"
        await anyio.sleep(3600)

    sandbox.add_handler(stream_of(chunks))
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Truncate(7))
    with httpx.Client(trust_env=False) as client, client.stream("GET", sandbox.base_url + STREAM) as answer:
        received = bytearray()
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - it is the reading that fails
            for chunk in answer.iter_raw():
                received += chunk
    assert received == b"1234567"


@forking
def test_a_reset_reaches_the_client_although_a_child_was_forked(sandbox: Sandbox, wire: Sender) -> None:
    """Expect RST: a copy of the connection in a child would keep it open."""
    wire.get("/v1/program")
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    try:
        sandbox.faults.next("GET /v1/program", Reset(before="apply"))
        with pytest.raises(ConnectionResetError):
            wire.get("/v1/program")
    finally:
        os.close(theirs)
        os.waitpid(child, 0)


def test_faults_leave_the_sandbox_healthy(sandbox: Sandbox, wire: Sender) -> None:
    """Expect every kind of fault, many times, to leave no connection behind in the server."""
    for fault in (Status(500), Reset(before="apply"), Reset(after="apply"), Truncate(1), Lost()):
        sandbox.faults.next(EMIT, fault, times=20)
        for _ in range(20):
            outcome(wire)
    wire.close()

    server = sandbox._server
    assert server is not None
    deadline = time.monotonic() + 20
    while server._connections:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_many_armed_faults_survive_a_socket_that_dies_first(sandbox: Sandbox) -> None:
    """Expect a client that resets its own connection during a delayed answer not to disturb the server."""
    sandbox.faults.next("GET /v1/program", Delay(0.05))
    connection = socket.create_connection(address_of(sandbox), timeout=20)
    connection.sendall(b"GET /v1/program HTTP/1.1\r\nhost: a\r\n\r\n")
    while not sandbox.requests:
        time.sleep(0.002)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()

    wire = Sender(sandbox)
    assert wire.get("/v1/program").status == 200
    wire.close()


class _WatchedLock(ProcessLock):
    """A lock that tells whether it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = False

    def __enter__(self) -> None:
        super().__enter__()
        self.is_held = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_held = False
        super().__exit__(kind, error, trace)


class _WatchedFaults(Faults):
    """Faults whose state nobody may read without the lock."""

    def __init__(self, lock: _WatchedLock) -> None:
        super().__init__(lock)
        self.reads: list[bool] = []

    def __getattribute__(self, name: str) -> object:
        value: object = super().__getattribute__(name)
        if name in {"_armed", "_chances", "_number"}:
            self.reads.append(cast("_WatchedLock", self._lock).is_held)
        return value


@pytest.mark.parametrize(
    "use",
    [
        lambda faults: faults.next(EMIT, Lost()),
        lambda faults: faults.sequence(EMIT, [None, Lost()]),
        lambda faults: faults.rate(0.5, Lost(), seed=1),
        lambda faults: faults.take(EMIT),
        lambda faults: faults.clear(),
        lambda faults: faults.unfired,
        lambda faults: faults.armed,
        lambda faults: faults.assert_all_fired(),
        lambda faults: faults.listed(),
        lambda faults: faults.remove(1),
    ],
    ids=["next", "sequence", "rate", "take", "clear", "unfired", "armed", "assert_all_fired", "listed", "remove"],
)
def test_faults_are_touched_under_the_sandboxs_lock_only(use: Callable[[Faults], object]) -> None:
    """Expect the lock around each use: catches a fault that strikes twice, or none, while a test arms another."""
    faults = _WatchedFaults(_WatchedLock())

    use(faults)

    assert set(faults.reads) == {True}
