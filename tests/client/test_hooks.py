"""client: what hooks and the log are told of calls and attempts, and that neither changes anything."""

import logging
import socket
from collections.abc import Mapping
from contextlib import suppress

import pytest
import respx
from attrs import define, field

from perkamo import (
    AsyncPerkamoClient,
    AttemptEnd,
    AttemptStart,
    CallEnd,
    CallStart,
    Hook,
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoError,
    RetryPolicy,
    hooks,
)
from perkamo.sandbox import Delay, Fault, Reset, Sandbox, Status
from tests.canary import CANARY_EMAIL, find_canary
from tests.waiting import cancelled_once

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0.001, max_delay=0.002)


@define(eq=False)
class Recorder(Hook):
    """Keeps all that it is told, and asks for headers."""

    seen: list[object] = field(factory=list)
    headers: Mapping[str, str] = field(factory=dict)

    def on_call_start(self, call: CallStart) -> None:
        """See ``Hook.on_call_start``."""
        self.seen.append(call)

    def on_attempt_start(self, attempt: AttemptStart) -> Mapping[str, str]:
        """See ``Hook.on_attempt_start``."""
        self.seen.append(attempt)
        return self.headers

    def on_attempt(self, attempt: AttemptEnd) -> None:
        """See ``Hook.on_attempt``."""
        self.seen.append(attempt)

    def on_call_end(self, call: CallEnd) -> None:
        """See ``Hook.on_call_end``."""
        self.seen.append(call)

    def attempts(self) -> list[tuple[int, str, int | None, str | None, bool]]:
        """Each attempt's number, outcome, status, error, and whether another followed."""
        ends = [one for one in self.seen if isinstance(one, AttemptEnd)]
        return [(end.attempt, end.outcome, end.status, end.error, end.wait is not None) for end in ends]

    def end(self) -> CallEnd:
        """The end of the one call."""
        [end] = [one for one in self.seen if isinstance(one, CallEnd)]
        return end


class Broken(Hook):
    """Raises wherever it is told of something."""

    def on_call_start(self, call: CallStart) -> None:
        """See ``Hook.on_call_start``."""
        raise LookupError

    def on_attempt_start(self, attempt: AttemptStart) -> Mapping[str, str]:
        """See ``Hook.on_attempt_start``."""
        raise LookupError

    def on_attempt(self, attempt: AttemptEnd) -> None:
        """See ``Hook.on_attempt``."""
        raise LookupError

    def on_call_end(self, call: CallEnd) -> None:
        """See ``Hook.on_call_end``."""
        raise LookupError


def client_of(sandbox: Sandbox, *told: Hook) -> AsyncPerkamoClient:
    """A client with hooks."""
    return AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK, hooks=told)


async def test_a_hook_is_told_of_a_call_and_each_attempt(sandbox: Sandbox) -> None:
    """Start, two attempts, end, in this order and about the same call; catches a retry that nobody hears of."""
    sandbox.faults.next("GET /v1/customer/{user_id}", Status(503))
    recorder = Recorder()

    async with client_of(sandbox, recorder) as client:
        customer = await client.customer(CANARY_EMAIL)

    kinds = [type(one) for one in recorder.seen]
    assert kinds == [CallStart, *[AttemptStart, AttemptEnd] * 2, CallEnd]
    assert recorder.attempts() == [(1, "failed", 503, "PerkamoServerError", True), (2, "succeeded", 200, None, False)]
    [start, first, failed, _, last, end] = recorder.seen
    assert isinstance(start, CallStart)
    assert isinstance(first, AttemptStart)
    assert isinstance(failed, AttemptEnd)
    assert isinstance(last, AttemptEnd)
    assert isinstance(end, CallEnd)
    assert (start.method, start.endpoint, start.request_bytes) == ("GET", "/v1/customer/{user_id}", 0)
    assert f"http://{start.server_address}:{start.server_port}" == sandbox.base_url
    assert first.call == failed.call == end.call == start
    assert last.response_bytes
    assert (end.attempts, end.status, end.outcome, end.request_id) == (2, 200, "succeeded", customer.meta.request_id)
    assert 0 < failed.seconds + last.seconds <= end.seconds
    assert end.seconds == pytest.approx(customer.meta.seconds, abs=0.05)
    assert find_canary(repr(recorder.seen)) is None


FAILURES: dict[str, tuple[Fault, list[tuple[int, str, int | None, str | None, bool]]]] = {
    "refused": (Status(401), [(1, "rejected", 401, "PerkamoAuthenticationError", False)]),
    "limited": (Status(429), [(n, "rejected", 429, "PerkamoRateLimitError", n < 3) for n in (1, 2, 3)]),
    "lost": (Reset(after="apply"), [(n, "unknown", None, "PerkamoConnectionError", n < 3) for n in (1, 2, 3)]),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_last_failure_is_told_too(failure: str, sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """To hooks, and by one line each in the log; catches an error that leaves no line, as a 401 once did."""
    fault, attempts = FAILURES[failure]
    sandbox.faults.rate(1.0, fault, seed=1)
    caplog.set_level(logging.DEBUG, "perkamo")
    recorder = Recorder()

    async with client_of(sandbox, recorder) as client:
        with pytest.raises(PerkamoError):
            await client.emit(CANARY_EMAIL, "e")

    sandbox.faults.clear()
    assert recorder.attempts() == attempts
    lines = [record for record in caplog.records if record.name == "perkamo"]
    followed = [attempt[-1] for attempt in attempts]
    assert [line.levelno for line in lines] == [*(20 if other else 10 for other in followed), logging.INFO]
    told = [(line.__dict__["perkamo_status"], line.__dict__["perkamo_error"]) for line in lines]
    assert told == [attempt[2:4] for attempt in (*attempts, attempts[-1])]
    assert [line.__dict__.get("perkamo_attempt") for line in lines] == [*range(1, len(attempts) + 1), None]
    assert lines[-1].__dict__["perkamo_attempts"] == len(attempts)
    assert {line.__dict__["perkamo_endpoint"] for line in lines} == {"/v1/events"}
    assert all(line.__dict__["perkamo_seconds"] > 0 for line in lines)
    assert f"after {len(attempts)} attempt" in lines[-1].getMessage()


async def test_a_refused_connection_leaves_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Without an answer there is a line for each attempt as well; catches lines that answers alone leave."""
    caplog.set_level(logging.INFO, "perkamo")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with AsyncPerkamoClient("sk_test_x", base_url=url, retry=QUICK) as client:
            with pytest.raises(PerkamoError):
                await client.program()

    lines = [record.getMessage() for record in caplog.records if record.name == "perkamo"]
    assert len(lines) == 3  # the last attempt is told at DEBUG, the end at INFO
    assert all("ended with PerkamoConnectionError" in line for line in lines)
    assert "attempt 2 follows in" in lines[0]
    assert "the call" in lines[-1]


@pytest.mark.parametrize("status", [200, 400])
async def test_a_request_id_that_repeats_the_request_is_hidden(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway may send back what it got, in a header too; catches an id of a customer in hooks and log."""
    caplog.set_level(logging.DEBUG, "perkamo")
    recorder = Recorder()

    async with AsyncPerkamoClient("sk_test_x", hooks=[recorder]) as client:
        with respx.mock as router:
            router.post("/v1/events").respond(status, headers={"X-Request-ID": "to-customer_123-key-sk_test_x"})
            with suppress(PerkamoError):
                await client.emit("customer_123", "e")

    assert recorder.end().request_id == "to-***-key-***"
    assert "customer_123" not in "".join(repr(vars(record)) for record in caplog.records if record.name == "perkamo")


async def test_a_cancelled_call_ends_too(sandbox: Sandbox) -> None:
    """Attempt and call end as cancelled; catches a span that stays open."""
    sandbox.faults.next("POST /v1/events", Delay(30))
    recorder = Recorder()

    async with client_of(sandbox, recorder) as client, cancelled_once(lambda: sandbox.requests):
        await client.emit("u", "e")

    [attempt] = recorder.attempts()
    assert attempt[:3] == (1, "cancelled", None)
    assert recorder.end().outcome == "cancelled"


async def test_a_closed_client_and_a_failing_supplier_are_reported(sandbox: Sandbox) -> None:
    """Also a call that never left has an end; catches an end that only attempts have."""

    def no_key() -> str:
        raise LookupError

    closed, keyless = Recorder(), Recorder()
    async with client_of(sandbox, closed) as client:
        pass
    with pytest.raises(PerkamoError):
        await client.program()
    async with AsyncPerkamoClient(no_key, base_url=sandbox.base_url, hooks=[keyless]) as client:
        with pytest.raises(PerkamoConfigurationError):
            await client.program()

    assert (closed.end().attempts, closed.end().error) == (0, "PerkamoClosedError")
    assert keyless.attempts() == [(1, "not_sent", None, "PerkamoConfigurationError", False)]
    assert keyless.end().error == "PerkamoConfigurationError"


async def test_a_hook_that_raises_is_logged_and_changes_nothing(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the call nor the hooks beside it notice; catches a hook that costs an event."""
    recorder = Recorder()

    async with client_of(sandbox, Broken(), recorder, Broken()) as client:
        assert (await client.emit("u", "e")).accepted

    assert [type(one) for one in recorder.seen] == [CallStart, AttemptStart, AttemptEnd, CallEnd]
    said = [record.getMessage() for record in caplog.records if record.exc_info]
    assert len(said) == 8
    assert "A hook failed in Broken.on_attempt" in "".join(said)


async def test_only_a_trace_context_goes_along(sandbox: Sandbox) -> None:
    """A hook can't change what is signed, who asks or for what; catches a header that reaches the service."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = {"traceparent": parent, "tracestate": "a=b\r\nx: y", "x-perkamo-api-key": "sk_other", "host": "evil"}

    async with client_of(sandbox, Recorder(headers=asked)) as client:
        await client.emit("u", "e")

    [record] = sandbox.requests
    sent = {name.lower(): value for name, value in record.headers}
    assert sent["traceparent"] == parent
    assert "tracestate" not in sent
    assert "evil" not in sent["host"]


def test_an_installed_hook_is_told_by_clients_that_exist_already(sandbox: Sandbox) -> None:
    """Sync clients too, until it is taken out again; catches instrumentation that comes too late."""
    recorder = Recorder()

    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        hooks.install(recorder)
        hooks.install(recorder)
        client.emit("u", "e")
        hooks.uninstall(recorder)
        client.emit("u", "e")

    assert len([one for one in recorder.seen if isinstance(one, CallEnd)]) == 1


def test_what_is_not_a_hook_is_refused() -> None:
    """Before anything is sent, by an error that names the class; catches a hook that is never called."""
    with pytest.raises(PerkamoConfigurationError, match="not of function"):
        AsyncPerkamoClient("sk_test_x", hooks=[lambda: None])  # type: ignore[list-item]
