"""The batcher: many callers, few requests, everybody's own result."""

from collections import Counter

import anyio
import pytest

from perkamo.batching.batcher import Batcher
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.encode import JSONValue
from perkamo.errors import (
    PerkamoApiError,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoEventError,
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.models import EventIngestResponse
from perkamo.request.retry import RetryPolicy
from perkamo.sandbox import Delay, Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.batching.items import answer_batches, break_at_poison

pytestmark = pytest.mark.anyio
BATCH = "POST /v1/events:batch"


def refuse_poison(sandbox: Sandbox, status: int = 422) -> None:
    """Let the sandbox refuse every request with a poison event in it."""

    def handler(request: Request) -> Response | None:
        return Response(status, body=b'{"message":"no"}') if b"poison" in request.body else None

    sandbox.add_handler(handler)


@pytest.mark.no_cover
@pytest.mark.stress
async def test_ten_thousand_emits_get_their_own_results_in_few_requests(
    sandbox: Sandbox, client: AsyncPerkamoClient, anyio_backend: str
) -> None:
    """One percent of poison: exact results for all, errors for the poison only, and few requests."""
    count = 10_000 if anyio_backend == "asyncio" else 2_000
    refuse_poison(sandbox)
    results: dict[int, EventIngestResponse] = {}
    errors: dict[int, PerkamoApiError] = {}

    async def emit(number: int) -> None:
        kind = "poison" if number % 100 == 50 else "good"
        try:
            results[number] = await batcher.emit(
                f"customer_{number}",
                "purchase.completed",
                {"amount": 100 * (number % 97 + 1), "kind": kind},
                transaction_id=f"order_{number}",
            )
        except PerkamoApiError as error:
            errors[number] = error

    async with Batcher(client) as batcher, anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(emit, number)

    assert sorted(errors) == list(range(50, count, 100))
    assert {error.status for error in errors.values()} == {422}
    assert len(results) == count * 0.99
    assert all(result.wallet_state["points"] == number % 97 + 1 for number, result in results.items())
    bisections = 14 * len(errors)
    assert len(sandbox.requests) <= count * 0.015 + bisections


async def test_clean_emits_take_one_request_for_a_hundred(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """A thousand emits become ten requests, and each is sent once."""
    async with Batcher(client) as batcher, anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(batcher.emit, f"customer_{number}", "review.created")

    sent = Counter(event.user_id for event in sandbox.events())
    assert len(sandbox.requests) == 10
    assert set(sent.values()) == {1}
    assert len(sent) == 1000


async def test_a_lone_emit_waits_no_longer_than_it_was_told(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Nobody joins it, and still it leaves; with no delay at all it leaves at once."""
    for delay in (0.0, 0.01):
        async with Batcher(client, max_delay=delay) as batcher:
            with anyio.fail_after(5):
                result = await batcher.emit("customer", "review.created")

        assert result.accepted
        assert result.meta.request_id
    assert len(sandbox.requests) == 2


async def test_a_full_batch_does_not_wait_for_the_delay(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """With a delay of a minute, the hundredth emit sends them all."""
    with anyio.fail_after(20):
        async with Batcher(client, max_delay=60) as batcher, anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(batcher.emit, f"customer_{number}", "review.created")

    assert len(sandbox.requests) == 1


async def test_large_events_travel_in_requests_of_bounded_size(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Ten events of 200 kB must not make a request of 2 MB."""
    async with Batcher(client) as batcher, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(batcher.emit, f"customer_{number}", "review.created", {"text": "x" * 200_000})

    assert [len(record.body) < 1_100_000 for record in sandbox.requests] == [True, True]


async def test_cancelling_one_caller_does_not_touch_the_others(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """One that is cancelled while it waits is not sent; one that is cancelled on the way harms nobody."""
    results: list[EventIngestResponse] = []

    async def emit(name: str, scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            results.append(await batcher.emit(name, "review.created"))

    before, underway = anyio.CancelScope(), anyio.CancelScope()
    sandbox.faults.next(BATCH, Delay(0.2))
    async with Batcher(client, max_delay=60, max_events=4) as batcher, anyio.create_task_group() as tasks:
        tasks.start_soon(emit, "before", before)
        tasks.start_soon(emit, "underway", underway)
        await anyio.wait_all_tasks_blocked()
        before.cancel()
        await anyio.wait_all_tasks_blocked()
        for name in ("a", "b", "c"):
            tasks.start_soon(emit, name)
        with anyio.fail_after(10):
            while not sandbox.requests:  # noqa: ASYNC110 - the sandbox is in another thread
                await anyio.sleep(0.005)
        underway.cancel()

    assert sorted(event.user_id for event in sandbox.events()) == ["a", "b", "c", "underway"]
    assert len(results) == 3


async def test_everybody_is_told_of_an_outage_in_an_error_of_their_own(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """One exception raised in many tasks would mix up their tracebacks."""
    sandbox.faults.next(BATCH, Status(503), times=1)
    errors: list[PerkamoServerError] = []

    async def emit(number: int) -> None:
        with pytest.raises(PerkamoServerError) as caught:
            await batcher.emit(f"customer_{number}", "review.created")
        errors.append(caught.value)

    async with (
        Batcher(client.with_options(retry=RetryPolicy.none())) as batcher,
        anyio.create_task_group() as tasks,
    ):
        for number in range(5):
            tasks.start_soon(emit, number)

    assert len({id(error) for error in errors}) == 5
    assert {(error.status, error.outcome, error.retryable) for error in errors} == {(503, "unknown", True)}


async def test_an_event_that_can_not_be_sent_is_refused_to_its_caller_alone(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """What is wrong is known at once and joins no request."""
    async with Batcher(client) as batcher:
        with pytest.raises(PerkamoValidationError):
            await batcher.emit("customer", "review.created", {"xp": 1})

    assert sandbox.requests == ()


async def test_two_different_events_under_one_id_do_not_spoil_the_batch(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """The client refuses such a batch before it leaves; the two must be parted, not failed with all the others."""
    async with Batcher(client) as batcher, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(lambda n: batcher.emit("u", "review.created", {"n": n}, transaction_id="same"), number)
        for number in range(8):
            tasks.start_soon(batcher.emit, f"customer_{number}", "review.created")

    assert len({event.transaction_id for event in sandbox.events()}) == len(sandbox.events()) == 9


async def test_no_more_than_max_pending_are_on_their_way(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Back-pressure: further emits wait for a place and are sent in their turn, also while the batcher closes."""
    async with (
        anyio.create_task_group() as tasks,
        Batcher(client, max_delay=0.001, max_events=10, max_pending=10) as batcher,
    ):
        for number in range(95):
            tasks.start_soon(batcher.emit, f"customer_{number}", "review.created")
        await anyio.wait_all_tasks_blocked()

    assert len(sandbox.events()) == 95
    assert len(sandbox.requests) >= 10


async def test_closing_sends_what_waits(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """An emit that waits for company when the block ends is sent and answered at once."""
    results: list[EventIngestResponse] = []

    async def emit() -> None:
        results.append(await batcher.emit("customer", "review.created"))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, Batcher(client, max_delay=60) as batcher:
            tasks.start_soon(emit)
            await anyio.wait_all_tasks_blocked()

    assert len(results) == len(sandbox.events()) == 1


async def test_an_exception_in_the_block_reaches_the_caller_as_it_is(client: AsyncPerkamoClient) -> None:
    """An application catches its own errors; a group that the batcher's tasks made of them would slip through."""
    with pytest.raises(ZeroDivisionError):
        async with Batcher(client):
            raise ZeroDivisionError


async def test_a_batcher_that_is_not_open_says_so(client: AsyncPerkamoClient) -> None:
    """Before and after its block, and when its block was cancelled, nobody waits forever."""
    batcher = Batcher(client, max_delay=60)
    with pytest.raises(PerkamoClosedError):
        await batcher.emit("customer", "review.created")

    caught: list[PerkamoClosedError] = []

    async def emit() -> None:
        with pytest.raises(PerkamoClosedError) as error:
            await batcher.emit("customer", "review.created")
        caught.append(error.value)

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with batcher:
                tasks.start_soon(emit)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()

    with pytest.raises(PerkamoClosedError):
        await batcher.emit("customer", "review.created")
    assert [error.outcome for error in caught] == ["not_sent"]


@pytest.mark.parametrize("limits", [{"max_delay": -1}, {"max_delay": 61}, {"max_events": 0}, {"max_pending": 0}])
async def test_limits_out_of_range_are_refused(client: AsyncPerkamoClient, limits: dict[str, int]) -> None:
    """A batcher that could never send must not be built."""
    with pytest.raises(PerkamoConfigurationError):
        Batcher(client, **limits)


@pytest.mark.parametrize(
    ("item", "outcome", "requests"),
    [({"error": "invalid_event"}, "rejected", 1), (None, "unknown", 4), ({"applied": True}, "unknown", 1)],
)
async def test_an_odd_item_is_told_to_its_caller_alone(
    sandbox: Sandbox,
    client: AsyncPerkamoClient,
    item: JSONValue,
    outcome: str,
    requests: int,
) -> None:
    """The others have their results at once, and one without a reason is sent alone three times.

    Catches ninety-nine callers who fail with one, or wait for it.
    """
    answer_batches(sandbox, item)
    answered: list[str] = []
    errors: list[PerkamoEventError] = []

    async def emit(transaction_id: str) -> None:
        try:
            await batcher.emit("customer", "review.created", transaction_id=transaction_id)
        except PerkamoEventError as error:
            errors.append(error)
        answered.append(transaction_id)

    async with Batcher(client, max_events=10) as batcher, anyio.create_task_group() as tasks:
        for transaction_id in ("poison", *(f"good_{number}" for number in range(9))):
            tasks.start_soon(emit, transaction_id)

    assert [error.outcome for error in errors] == [outcome]
    assert len(answered) == 10
    assert requests == 1 or answered[-1] == "poison"
    assert len(sandbox.requests) == requests


async def test_an_event_that_breaks_the_service_is_told_to_its_caller_alone(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """A request that fails after its retries is halved; catches callers who fail for somebody else's event."""
    break_at_poison(sandbox, 500)
    accepted: list[str] = []
    failed: list[str] = []

    async def emit(name: str) -> None:
        try:
            await batcher.emit("customer_1", "review.created", transaction_id=name)
            accepted.append(name)
        except PerkamoEventError:
            failed.append(name)

    quick = client.with_options(retry=RetryPolicy(attempts=2, base_delay=0, max_delay=0))
    async with Batcher(quick) as batcher, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(emit, f"{'poison' if number == 7 else 'good'}_{number}")

    assert failed == ["poison_7"]
    assert len(accepted) == 19


async def test_an_outage_makes_a_batcher_ask_a_few_times_more(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Two events that fail alone are proof of one; catches a request for each of a hundred events."""
    sandbox.add_handler(lambda _: Response(500))
    quick = client.with_options(retry=RetryPolicy(attempts=2, base_delay=0, max_delay=0))

    async def emit(number: int) -> None:
        with pytest.raises(PerkamoServerError):
            await batcher.emit(f"customer_{number}", "review.created")

    async with Batcher(quick) as batcher, anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(emit, number)

    assert len(sandbox.requests) == 2 + 9
