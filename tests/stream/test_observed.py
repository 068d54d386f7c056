"""What hooks and the log are told of a stream: connecting is a call, which ends when the stream is open or given up."""

import logging

import anyio
import pytest

from perkamo import (
    AsyncPerkamoClient,
    AttemptEnd,
    AttemptStart,
    CallEnd,
    CallStart,
    CustomerStream,
    Hook,
    PerkamoConnectionError,
    PerkamoStreamError,
    ReconnectPolicy,
)
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary
from tests.client.test_hooks import Broken, Recorder
from tests.faults.rawserver import RawServer, Script
from tests.stream.scripts import HEAD, collect, event, gone, points, refusing, sending, stalling
from tests.waiting import until

pytestmark = pytest.mark.anyio

AT_ONCE = ReconnectPolicy(base_delay=0.0, max_delay=0.0, attempts=3)
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
PATH = "/v1/client/customer/{user_id}/stream"


def watch(server: RawServer, *hooks: Hook) -> CustomerStream:
    """Subscribe with hooks, to the stream of a customer whose id nobody may be told."""
    client = AsyncPerkamoClient(CANARY_KEY, base_url=server.base_url, hooks=hooks)
    return client.subscribe_customer(CANARY_EMAIL, CANARY_EMAIL, reconnect=AT_ONCE)


def calls(recorder: Recorder) -> list[tuple[int, str, int | None, str | None]]:
    """Each call's number of attempts, outcome, status and error."""
    ends = [one for one in recorder.seen if isinstance(one, CallEnd)]
    return [(end.attempts, end.outcome, end.status, end.error) for end in ends]


async def test_connecting_is_a_call_with_its_attempts() -> None:
    """Two that fail, one that opens, and another call for the next connection; catches a stream that nobody sees."""
    recorder = Recorder(headers=TRACE)
    opened = sending(event(1, "1"), head=HEAD.replace(b"\r\n\r\n", b"\r\nx-request-id: req_1\r\n\r\n"))

    with RawServer(refusing("503 Service Unavailable"), refusing("429 Too Many Requests"), opened, gone) as server:
        assert points(await collect(watch(server, recorder))) == [1]

    kinds = [type(one) for one in recorder.seen]
    assert kinds == [CallStart, *[AttemptStart, AttemptEnd] * 3, CallEnd, CallStart, AttemptStart, AttemptEnd, CallEnd]
    assert recorder.attempts() == [
        (1, "failed", 503, "PerkamoServerError", True),
        (2, "failed", 429, "PerkamoRateLimitError", True),
        (3, "succeeded", 200, None, False),
        (1, "succeeded", 204, None, False),
    ]
    assert calls(recorder) == [(3, "succeeded", 200, None), (1, "succeeded", 204, None)]
    first, *_, last = [one for one in recorder.seen if isinstance(one, CallStart)]
    assert (first.method, first.endpoint, first.request_bytes) == ("GET", PATH, 0)
    assert first.number != last.number
    [answered] = [one for one in recorder.seen if isinstance(one, AttemptEnd) and one.status == 200]
    assert (answered.request_id, answered.response_bytes) == ("req_1", None)
    assert {request.headers.get("traceparent") for request in server.requests} == {TRACE["traceparent"]}
    assert find_canary(repr(recorder.seen)) is None


@pytest.mark.parametrize(
    ("scripts", "attempts", "status"),
    [
        ([refusing("404 Not Found")], 1, 404),
        ([refusing("401 Unauthorized")], 1, 401),
        ([sending(head=b"")] * 3, 3, None),
    ],
    ids=["another status", "a token that is refused", "too often in a row"],
)
async def test_a_call_ends_with_what_ends_the_stream(scripts: list[Script], attempts: int, status: int | None) -> None:
    """Once, and with the error that the consumer gets; catches a call that never ends."""
    recorder = Recorder()

    with RawServer(*scripts) as server, pytest.raises(PerkamoStreamError):
        await collect(watch(server, recorder))

    assert calls(recorder) == [(attempts, "failed", status, "PerkamoStreamError")]
    assert [wait for *_, wait in recorder.attempts()] == [True] * (attempts - 1) + [False]


async def test_a_stream_that_is_closed_while_it_connects_ends_its_call() -> None:
    """By another task; catches an attempt that is left open, and a span with it."""
    recorder = Recorder()

    with RawServer(stalling(head=b"")) as server:
        stream = watch(server, recorder)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive)
            await until(lambda: bool(server.requests))
            await stream.aclose()

    [(attempts, outcome, _, error)] = calls(recorder)
    assert (attempts, outcome, error) == (1, "cancelled", anyio.get_cancelled_exc_class().__name__)
    assert recorder.attempts()[0][1] == "cancelled"


async def test_a_supplier_that_fails_ends_the_call() -> None:
    """With its own error, after no request; catches a call that only ever starts."""
    recorder = Recorder()

    def supply() -> str:
        raise PerkamoConnectionError("no token")

    with RawServer() as server:
        client = AsyncPerkamoClient(CANARY_KEY, base_url=server.base_url, hooks=[recorder])
        with pytest.raises(PerkamoConnectionError):
            await collect(client.subscribe_customer(CANARY_EMAIL, supply, reconnect=AT_ONCE))

    assert len(calls(recorder)) == 1


async def test_a_hook_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a stream that ends because of who watches it."""
    with RawServer(sending(event(1, "1")), gone) as server:
        assert points(await collect(watch(server, Broken()))) == [1]

    assert "A hook failed in Broken.on_call_start" in caplog.text


async def test_the_log_has_a_line_for_each_attempt_and_each_connection_that_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once each, with the facts as fields; catches an outage that leaves no line, and one that leaves two."""
    with (
        caplog.at_level(logging.DEBUG, "perkamo"),
        RawServer(refusing("503 Service Unavailable"), sending(event(1, "1")), gone) as server,
    ):
        await collect(watch(server))

    lines = [record.getMessage().partition(f"GET {PATH}: ")[2] for record in caplog.records if record.name == "perkamo"]
    beginnings = [line.partition(" in ")[0] for line in lines]
    assert beginnings == [
        "attempt 1 ended with PerkamoServerError 503",
        "attempt 2 succeeded: 200",
        "the call succeeded: 200 after 2 attempts",
        "PerkamoConnectionError; connecting again",
        "attempt 1 succeeded: 204",
        "the call succeeded: 204 after 1 attempt",
    ]
    assert lines[0].endswith("attempt 2 follows in 0.000 s")
    assert find_canary(caplog.text) is None
