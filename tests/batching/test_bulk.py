"""emit_many: a stream of any length, bounded memory, one pace."""

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count

import anyio
import pytest

from perkamo.batching.bulk import ATTEMPTS, Outcomes, Pipe, emit_many
from perkamo.client import AsyncPerkamoClient
from perkamo.clock import Clock
from perkamo.errors import PerkamoConfigurationError, PerkamoServerError, PerkamoValidationError
from perkamo.events import Event
from perkamo.sandbox import Lost, Reset, Sandbox, Status
from perkamo.sandbox.messages import Request, Response

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
    """A request is made eight times, not for ever, and its events are told."""
    sandbox.faults.next(BATCH, Status(503), times=ATTEMPTS)
    pipe = Pipe(client, 1, ordered=True, clock=NoBackoff())

    outcomes = [outcome async for outcome in Outcomes(events(150), pipe)]

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(failed) == 100
    assert all(isinstance(outcome.error, PerkamoServerError) and outcome.error.retryable for outcome in failed)
    assert len(sandbox.events()) == 50


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
from perkamo.clock import Clock
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
@pytest.mark.stress
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
