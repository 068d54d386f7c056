"""emit_many: a stream of any length, bounded memory, one pace."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from itertools import count

import anyio
import pytest

from perkamo.batching.bulk import ATTEMPTS, Outcome, Outcomes, Pipe, emit_many
from perkamo.batching.split import classify_result
from perkamo.batching.sync_bulk import sync_emit_many
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.encode import JSONValue
from perkamo.errors import (
    PerkamoConfigurationError,
    PerkamoEventError,
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.events import Event
from perkamo.runtime.clock import Clock
from perkamo.sandbox import Delay, Lost, Reset, Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from perkamo.sync_client import PerkamoClient
from tests.batching.items import answer_batches, break_at_poison
from tests.faults.rawserver import RESULT, Connection, RawServer, answer
from tests.waiting import cancelled_once

pytestmark = pytest.mark.anyio
BATCH = "POST /v1/events:batch"
PROGRAM = {
    "wallets": [{"key": "points", "name": "Points"}],
    "earningRules": [{"event": "tick", "label": "Tick", "reward": {"wallet": "points", "amount": 1}}],
}


def events(number: int) -> Iterator[Event]:
    """Make events with ids of their own."""
    return (Event(f"customer_{n % 10}", "review.created", f"review_{n}") for n in range(number))


async def test_outcomes_come_in_the_order_of_the_stream(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Plain and async streams alike, whatever the order of the answers."""

    async def slowly() -> AsyncIterator[Event]:
        for event in events(950):
            yield event

    for stream in (events(950), slowly()):
        outcomes = [outcome async for outcome in emit_many(client, stream, concurrency=2)]

        assert [outcome.position for outcome in outcomes] == list(range(950))
        assert all(outcome.result is not None and outcome.error is None for outcome in outcomes)
    assert len(sandbox.events()) == 950
    assert len(sandbox.requests) == 20


async def test_bad_events_are_told_and_the_others_pass(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """What can't be sent and what the service refuses each get their own error; nothing is raised."""

    def handler(request: Request) -> Response | None:
        return Response(422, body=b"{}") if b"poison" in request.body else None

    sandbox.add_handler(handler)
    stream: list[dict[str, object]] = [
        {"user_id": "a", "event": "review.created", "transaction_id": "1"},
        {"user_id": "a", "event": "review.created", "context": {"xp": 1}},
        {"user_id": "a", "event": "review.created", "context": {"kind": "poison"}},
        {"user_id": "a", "event": "review.created"},
    ]

    outcomes = [outcome async for outcome in emit_many(client, stream)]

    assert [type(outcome.error).__name__ for outcome in outcomes] == [
        "NoneType",
        "PerkamoValidationError",
        "PerkamoApiError",
        "NoneType",
    ]
    assert isinstance(outcomes[1].error, PerkamoValidationError)
    assert outcomes[1].event is stream[1]
    assert len(sandbox.events()) == 2


async def test_a_stream_of_bad_events_alone_does_not_grow(client: AsyncPerkamoClient) -> None:
    """Rounds end with what was told, not only with what was sent."""
    seen = 0
    async for outcome in emit_many(client, ({"user_id": ""} for _ in count()), concurrency=1):
        assert outcome.error is not None
        seen += 1
        if seen == 2000:
            break


class NoBackoff(Clock):
    """A clock that draws the shortest of all waits, so that only what the service asks for is waited."""

    def randomness(self) -> float:
        """Return 0."""
        return 0.0


async def test_a_429_slows_the_whole_stream(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """While the service asks for patience no other task of the stream sends."""
    sandbox.faults.next(BATCH, Status(429, {"retry-after": "1"}), times=1)
    pipe = Pipe(client, 1, ordered=True, clock=NoBackoff())

    outcomes = [outcome async for outcome in Outcomes(events(900), pipe)]

    times = [record.time for record in sandbox.requests]
    assert all(outcome.error is None for outcome in outcomes)
    assert times[1] - times[0] >= 0.9
    assert len(times) == 10


async def test_an_outage_ends_in_errors_that_can_be_tried_again(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """A request is made eight times and halved at last, not forever, and its events are told."""
    halves = 8  # 50, 25, 12, 6, 3, 1 and 2, 1 events, of which two fail alone
    sandbox.faults.next(BATCH, Status(503), times=ATTEMPTS + halves)
    pipe = Pipe(client, 1, ordered=True, clock=NoBackoff())

    outcomes = [outcome async for outcome in Outcomes(events(150), pipe)]

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(failed) == 100
    assert all(isinstance(outcome.error, PerkamoServerError) and outcome.error.retryable for outcome in failed)
    assert len(sandbox.events()) == 50


async def test_an_outage_of_one_half_keeps_the_other_until_it_is_over(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """After a 413 and a 503 all events wait and pass later; catches a half that is sent into the outage."""
    sandbox.faults.sequence(BATCH, [Status(413), Status(503)])
    pipe = Pipe(client, 1, ordered=True, clock=NoBackoff())

    outcomes = [outcome async for outcome in Outcomes(events(100), pipe)]

    assert all(outcome.error is None for outcome in outcomes)
    assert [(record.status, record.body.count(b'"event"')) for record in sandbox.requests] == [
        (413, 100),
        (503, 50),
        (200, 100),
    ]


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_an_event_that_breaks_the_service_holds_up_no_other(
    sandbox: Sandbox, client: AsyncPerkamoClient, status: int
) -> None:
    """After eight failures its request is halved; catches 99 events that are never sent, and an import that stops."""
    break_at_poison(sandbox, status)
    stream = [Event("customer_1", "review.created", f"{'poison' if n == 37 else 'good'}_{n}") for n in range(150)]

    pipe = Pipe(client, 2, ordered=True, clock=NoBackoff())
    outcomes = [outcome async for outcome in Outcomes(stream, pipe)]

    assert [outcome.position for outcome in outcomes if outcome.result is None] == [37]
    error = outcomes[37].error
    assert isinstance(error, PerkamoEventError)
    assert classify_result(error) == "undecided"
    assert str(status) in str(error)


async def test_stopping_early_leaves_nothing_running(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """The loop may be left at any time: no task and no connection hangs on to the stream."""
    async for _ in emit_many(client, events(100_000)):
        break
    requests = len(sandbox.requests)

    await anyio.wait_all_tasks_blocked()

    assert len(sandbox.requests) == requests <= 16


async def test_a_concurrency_out_of_range_is_refused(client: AsyncPerkamoClient) -> None:
    """Nothing is read from the stream."""
    with pytest.raises(PerkamoConfigurationError):
        emit_many(client, events(1), concurrency=0)


EMITTER = """
import resource, sys
import anyio
from perkamo.client import AsyncPerkamoClient
from perkamo.batching.bulk import Outcomes, Pipe
from perkamo.runtime.clock import Clock
class Hasty(Clock):
    def randomness(self):
        return super().randomness() / 50
async def main(url, key, number):
    events = (
        {"user_id": f"customer_{n % 100}", "event": "tick", "transaction_id": f"tick_{n}"} for n in range(number)
    )
    failed = 0
    async with AsyncPerkamoClient(key, base_url=url) as client:
        await client.program()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async for outcome in Outcomes(events, Pipe(client, 4, ordered=False, clock=Hasty())):
            failed += outcome.error is not None
    print(failed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.mark.no_cover
@pytest.mark.release
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_hundred_thousand_events_apply_once_in_bounded_memory() -> None:
    """429s and resets on the way: every business event counts once, and memory does not grow with the stream."""
    with Sandbox(PROGRAM) as sandbox:
        sandbox.faults.rate(0.02, Status(429, {"retry-after": "0"}), seed=1)
        sandbox.faults.rate(0.02, Reset(before="apply"), seed=2)
        sandbox.faults.rate(0.02, Lost(), seed=3)

        done = await anyio.run_process(
            [sys.executable, "-c", EMITTER, sandbox.base_url, sandbox.api_key, "200000"], stderr=subprocess.STDOUT
        )

        failed, kilobytes = done.stdout.split()
        balances = Counter(sandbox.customer(f"customer_{n}").wallets["points"] for n in range(100))
    assert int(failed) == 0
    assert balances == {2000: 100}
    assert int(kilobytes) < 64 * 1024


async def test_an_endless_async_stream_is_sent_round_by_round(client: AsyncPerkamoClient) -> None:
    """Outcomes come while the stream goes on; catches a source that is drained whole before anything is sent."""
    read = 0

    async def endless() -> AsyncGenerator[Event]:
        nonlocal read
        for number in count():
            read += 1
            assert read < 5_000, "nothing is sent while the stream goes on"
            yield Event("customer_1", "review.created", f"review_{number}")

    with anyio.fail_after(60):
        async with aclosing(endless()) as stream:
            async for outcome in emit_many(client, stream, concurrency=1):
                assert outcome.result is not None
                if outcome.position == 450:
                    break

    assert read <= 2 * 4 * 100


async def broken_later(number: int) -> AsyncIterator[Event]:
    """Give some events and raise."""
    for event in events(number):
        yield event
    raise ZeroDivisionError


def broken_now(number: int) -> Iterator[Event]:
    """Give some events and raise."""
    yield from events(number)
    raise ZeroDivisionError


@pytest.mark.parametrize("number", [0, 3, 450])
@pytest.mark.parametrize("make", [broken_later, broken_now])
async def test_what_was_read_before_a_stream_raised_is_sent_and_told(
    sandbox: Sandbox,
    client: AsyncPerkamoClient,
    number: int,
    make: Callable[[int], AsyncIterable[Event] | Iterable[Event]],
) -> None:
    """Each has its outcome, then the stream's own error comes, once; catches events that vanish unsent."""
    outcomes: list[Outcome] = []
    stream = emit_many(client, make(number), concurrency=1)

    async def read() -> None:
        async for outcome in stream:
            outcomes.append(outcome)  # noqa: PERF401 - a comprehension would lose them when the stream raises

    with pytest.raises(ZeroDivisionError):
        await read()

    assert [outcome.position for outcome in outcomes if outcome.result is not None] == list(range(number))
    assert len(sandbox.events()) == number
    assert [outcome async for outcome in stream] == []


@pytest.mark.parametrize("number", [0, 3, 450])
def test_the_sync_twin_sends_what_was_read_before_a_stream_raised(sandbox: Sandbox, number: int) -> None:
    """As the async one does; catches events that vanish unsent."""
    outcomes: list[Outcome] = []

    def read(client: PerkamoClient) -> None:
        for outcome in sync_emit_many(client, broken_now(number), concurrency=1):
            outcomes.append(outcome)  # noqa: PERF402 - a list of the whole would lose them when the stream raises

    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client, pytest.raises(ZeroDivisionError):
        read(client)

    assert [outcome.position for outcome in outcomes if outcome.result is not None] == list(range(number))
    assert len(sandbox.events()) == number


async def test_a_consumer_that_is_cancelled_or_breaks_leaves_nothing_behind(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """No task goes on, and the client works as before; catches a request that outlives its consumer."""
    sandbox.faults.next(BATCH, Delay(30), times=2)
    stream = emit_many(client, events(1000), concurrency=2)

    async with cancelled_once(lambda: len(sandbox.requests) == 2):
        async for _ in stream:
            pass
    await anyio.wait_all_tasks_blocked()
    result = await client.emit("customer_1", "review.created", transaction_id="afterwards")

    assert result.accepted
    assert sum(record.route == BATCH for record in sandbox.requests) == 2


@pytest.mark.parametrize(
    ("item", "verdict", "requests"),
    [({"error": "invalid_event"}, "rejected", 1), (None, "undecided", 4), ({"applied": True}, "accepted", 1)],
)
async def test_an_odd_item_is_told_of_its_event_alone(
    sandbox: Sandbox,
    client: AsyncPerkamoClient,
    item: JSONValue,
    verdict: str,
    requests: int,
) -> None:
    """The others are accepted; one without a reason is sent alone three times; catches a stream that stands still."""
    answer_batches(sandbox, item)
    stream = [Event("customer_1", "review.created", f"{'poison' if n == 5 else 'good'}_{n}") for n in range(40)]

    pipe = Pipe(client, 4, ordered=True, clock=NoBackoff())
    outcomes = [outcome async for outcome in Outcomes(stream, pipe)]

    assert [outcome.position for outcome in outcomes if outcome.result is None] == [5]
    error = outcomes[5].error
    assert isinstance(error, PerkamoEventError)
    assert classify_result(error) == verdict
    assert len(sandbox.requests) == requests


async def test_requests_that_are_refused_together_slow_the_stream_once() -> None:
    """Four 429s at once draw one wait; catches a wait that is eight times as long as it should be."""
    drawn: list[float] = []
    together = threading.Barrier(4)

    class Noting(Clock):
        def randomness(self) -> float:
            drawn.append(0.0)
            return 0.0

    def script(connection: Connection) -> None:
        """Refuse the first request on each connection when all four are there, and apply what follows."""
        is_first = True
        while (request := connection.read_request()) is not None:
            if is_first:
                together.wait(60)
                connection.send(answer(b"{}", "429 Too Many Requests"))
            else:
                results = ",".join([RESULT.decode()] * len(json.loads(request.body)["events"]))
                connection.send(answer(f'{{"results":[{results}]}}'.encode()))
            is_first = False

    with RawServer(script) as server:
        async with AsyncPerkamoClient("sk_test", base_url=server.base_url) as sender:
            pipe = Pipe(sender, 4, ordered=True, clock=Noting())
            outcomes = [outcome async for outcome in Outcomes(events(400), pipe)]

    assert len(outcomes) == 400
    assert all(outcome.error is None for outcome in outcomes)
    assert len(drawn) == 1
