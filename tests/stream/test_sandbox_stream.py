"""The stream end to end: the client at the sandbox, which checks tokens, resumes, beats and fails on request."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    CustomerStream,
    CustomerUpdate,
    PerkamoClient,
    PerkamoStreamError,
    PerkamoTimeoutError,
    ReconnectPolicy,
)
from perkamo.sandbox import Delay, Fault, Lost, Reset, Sandbox, Stall, Status, Truncate
from tests.stream.scripts import collect
from tests.waiting import until

pytestmark = pytest.mark.anyio

ROUTE = "GET /v1/client/customer/{user_id}/stream"
PATH = "/v1/client/customer/customer_123/stream"
AT_ONCE = ReconnectPolicy(base_delay=0.0, max_delay=0.0, attempts=None)
JSON = {"content-type": "application/json"}
STREAM = {"content-type": "text/event-stream"}


@pytest.fixture(autouse=True)
def _no_waits(sandbox: Sandbox) -> None:
    """The sandbox asks for no reconnection time, so that the policy's counts."""
    sandbox.streams.retry_ms = None
    sandbox.streams.heartbeat = 15.0


def subscribe(sandbox: Sandbox, client: AsyncPerkamoClient, *, idle_timeout: float | None = 60.0) -> CustomerStream:
    """Subscribe as the documentation says."""
    return client.subscribe_customer(
        "customer_123",
        lambda: client.create_stream_token(sandbox.browser_key, "customer_123"),
        reconnect=AT_ONCE,
        idle_timeout=idle_timeout,
    )


async def next_of(stream: CustomerStream) -> CustomerUpdate:
    """The next update, within half a minute."""
    with anyio.fail_after(30):
        update = await stream.receive()
    assert update is not None
    return update


async def test_every_change_is_an_update(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """The stream begins with the customer as it is, then brings each change, and none of another customer."""
    await client.identify("customer_123", {"n": 0})

    async with client, subscribe(sandbox, client) as stream:
        first = await next_of(stream)
        await client.identify("customer_123", {"n": 1})
        await client.identify("somebody_else", {"n": 5})
        await client.emit("customer_123", "purchase.completed", {"order_id": "1", "amount": 100, "currency": "CZK"})
        second, third = await next_of(stream), await next_of(stream)
        found = await client.customer("customer_123")

    assert [update.customer.traits for update in (first, second, third)] == [{"n": 0}, {"n": 1}, {"n": 1}]
    assert third.customer.raw == found.raw
    assert {update.event for update in (first, second, third)} == {"customer.updated"}


async def test_a_subscription_resumes_where_another_one_ended(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """With its last id, a later subscription gets what was missed, and nothing twice."""
    async with client:
        async with subscribe(sandbox, client) as stream:
            await next_of(stream)
        for n in range(3):
            await client.identify("customer_123", {"n": n})
        token = await client.create_stream_token(sandbox.browser_key, "customer_123")
        async with client.subscribe_customer("customer_123", token, last_event_id=stream.last_event_id) as again:
            missed = [await next_of(again) for _ in range(3)]

    assert [update.customer.traits["n"] for update in missed] == [0, 1, 2]


@pytest.mark.slow_on_each_backend
async def test_history_is_bounded(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Who was away for more than a thousand changes gets the customer as it is, once."""
    async with client:
        async with subscribe(sandbox, client) as stream:
            await next_of(stream)
        for n in range(1001):
            await client.identify("customer_123", {"n": n})
        token = await client.create_stream_token(sandbox.browser_key, "customer_123")
        async with client.subscribe_customer("customer_123", token, last_event_id=stream.last_event_id) as again:
            now = await next_of(again)
            await client.identify("customer_123", {"n": -1})
            later = await next_of(again)

    assert [update.customer.traits["n"] for update in (now, later)] == [1000, -1]


@pytest.mark.parametrize("unknown", ["x", "-1", "99999", "9" * 40, "\u0665"])
async def test_an_unknown_id_begins_with_the_customer_as_it_is(
    sandbox: Sandbox, client: AsyncPerkamoClient, unknown: str
) -> None:
    """An id of another stream, or of the future, is not an error."""
    async with client:
        await client.identify("customer_123", {"n": 1})
        token = await client.create_stream_token(sandbox.browser_key, "customer_123")
        async with client.subscribe_customer("customer_123", token, last_event_id=unknown) as stream:
            update = await next_of(stream)

    assert update.customer.traits == {"n": 1}
    assert update.id == "1"


Maker = Callable[[AsyncPerkamoClient, Sandbox], Awaitable[str]]


async def _of_another_customer(client: AsyncPerkamoClient, sandbox: Sandbox) -> str:
    return (await client.create_stream_token(sandbox.browser_key, "somebody_else")).token


async def _of_another_purpose(client: AsyncPerkamoClient, sandbox: Sandbox) -> str:
    return (await client.create_browser_token(sandbox.browser_key, "customer_123")).token


async def _expired(client: AsyncPerkamoClient, sandbox: Sandbox) -> str:
    token = await client.create_stream_token(sandbox.browser_key, "customer_123")
    sandbox.clock.advance(timedelta(seconds=120))
    return token.token


async def _unknown(client: AsyncPerkamoClient, sandbox: Sandbox) -> str:
    return "sandbox_token_nope"


@pytest.mark.parametrize(
    ("make", "status"), [(_of_another_customer, 403), (_of_another_purpose, 401), (_expired, 401), (_unknown, 401)]
)
async def test_a_wrong_token_opens_nothing(
    sandbox: Sandbox, client: AsyncPerkamoClient, make: Maker, status: int
) -> None:
    """Customer, purpose and expiry by the sandbox's clock are checked."""
    async with client:
        stream = client.subscribe_customer("customer_123", await make(client, sandbox))
        with pytest.raises(PerkamoStreamError) as caught:
            await collect(stream)

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"authorization": "Basic x"}, 401), ({"x-perkamo-api-key": "sk_x"}, 400)]
)
async def test_other_credentials_are_refused(sandbox: Sandbox, headers: dict[str, str], status: int) -> None:
    """No token, another scheme, or a server key where none may be."""
    async with httpx.AsyncClient(base_url=sandbox.base_url) as plain:
        answer = await plain.get(PATH, headers=headers)

    assert answer.status_code == status


async def test_an_expired_token_is_renewed_on_reconnect(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """A stream outlives its tokens: the next connection brings a fresh one, and loses nothing."""
    sandbox.faults.next(ROUTE, Truncate(600))

    async with client, subscribe(sandbox, client) as stream:
        await next_of(stream)
        sandbox.clock.advance(timedelta(minutes=10))
        seen: list[object] = []
        for n in range(5):
            await client.identify("customer_123", {"n": n})
            seen.append((await next_of(stream)).customer.traits["n"])

    assert seen == [0, 1, 2, 3, 4]
    assert sum(record.route == ROUTE for record in sandbox.requests) == 2


def test_heartbeats_fill_the_silence(sandbox: Sandbox) -> None:
    """Comments come while updates do not, and are no updates."""
    sandbox.streams.heartbeat = 0.005
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        token = client.create_stream_token(sandbox.browser_key, "customer_123").token
    received = b""

    with httpx.stream(
        "GET", sandbox.base_url + PATH, headers={"authorization": f"Bearer {token}"}, timeout=30
    ) as answer:
        for chunk in answer.iter_bytes():
            received += chunk
            if received.count(b": heartbeat\n\n") >= 3:
                break

    assert received.count(b"data:") == 1


async def test_streams_begin_with_a_reconnection_time(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """``retry`` is sent first, and the client takes it."""
    sandbox.streams.retry_ms = 7

    async with client, subscribe(sandbox, client) as stream:
        await next_of(stream)

        assert stream._decoder.retry_ms == 7


async def test_a_stream_that_goes_is_forgotten(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """The sandbox holds nothing for a client that left."""
    async with client:
        async with subscribe(sandbox, client) as stream:
            await next_of(stream)
            assert sandbox.streams.open == 1
        await until(lambda: sandbox.streams.open == 0)


async def test_a_reset_ends_all_streams(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """After a reset the stream begins anew, with the customer as new."""
    async with client, subscribe(sandbox, client) as stream:
        await client.identify("customer_123", {"n": 1})
        await next_of(stream)
        sandbox.reset()
        while (update := await next_of(stream)).customer.traits:
            pass

    assert update.customer.traits == {}
    assert update.id == "0"
    assert len([record for record in sandbox.requests if record.route == ROUTE]) == 1  # since the reset


async def test_changes_of_other_threads_wake_the_stream(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """A change made in any thread, inside the process, comes out at once."""
    transport = sandbox.transport()
    async with client, httpx.AsyncClient(transport=transport) as inside:
        token = await client.create_stream_token(sandbox.browser_key, "customer_123")
        other = AsyncPerkamoClient(sandbox.api_key, base_url="http://localhost:1", http_client=inside)
        async with other.subscribe_customer("customer_123", token) as stream:
            first = await next_of(stream)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, _identify_in_a_thread, sandbox)
                second = await next_of(stream)

    assert first.customer.traits == {}
    assert second.customer.traits == {"n": 1}


def _identify_in_a_thread(sandbox: Sandbox) -> None:
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.identify("customer_123", {"n": 1})


# Faults of the stream


@pytest.mark.parametrize(
    "fault",
    [
        Status(503),
        Status(429, {"retry-after": "0"}),
        Reset(before="apply"),
        Reset(after="apply"),
        Lost(),
        Delay(0.01),
        Truncate(0),
        Truncate(30),
    ],
    ids=repr,
)
async def test_a_passing_fault_is_made_good(sandbox: Sandbox, client: AsyncPerkamoClient, fault: Fault) -> None:
    """The consumer sees the customer, as if nothing had been."""
    sandbox.faults.next(ROUTE, fault)

    async with client, subscribe(sandbox, client) as stream:
        update = await next_of(stream)

    assert update.customer.user_id == "customer_123"


async def test_a_stalled_stream_is_made_again(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Silence within an event, with the connection open, ends by the idle timeout."""
    sandbox.faults.next(ROUTE, Stall(30))

    async with client, subscribe(sandbox, client, idle_timeout=0.1) as stream:
        update = await next_of(stream)

    assert update.customer.user_id == "customer_123"


async def test_an_answer_can_stall_too(sandbox: Sandbox) -> None:
    """The same fault on a call ends by the call's timeout."""
    sandbox.faults.next("GET /v1/program", Stall(10))

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, timeout=0.2) as client:
        with pytest.raises(PerkamoTimeoutError):
            await client.program()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Status(204), False),
        (Status(404), True),
        (Status(200, {"content-type": "text/plain"}, "hello"), True),
        (Status(200, JSON, "{}"), True),
        (Status(200, STREAM, "data: {\n\n"), True),
        (Status(200, STREAM, b"data: " + b"x" * 1_100_000), True),
    ],
    ids=["204", "404", "wrong type", "JSON", "bad JSON", "oversized"],
)
async def test_a_lasting_fault_ends_the_stream(
    sandbox: Sandbox, client: AsyncPerkamoClient, fault: Fault, raised: bool
) -> None:
    """Nothing of these is mended by asking again: one request, and an end or a typed error."""
    sandbox.faults.next(ROUTE, fault)

    async with client:
        if raised:
            with pytest.raises(PerkamoStreamError):
                await collect(subscribe(sandbox, client))
        else:
            assert await collect(subscribe(sandbox, client)) == []

    assert sum(record.route == ROUTE for record in sandbox.requests) == 1


def _some_fault(randomness: Random) -> Fault:
    """A fault that passes, and sometimes a stream that is cut somewhere."""
    passing: list[Fault] = [
        Status(500),
        Status(503),
        Status(429, {"retry-after": "0"}),
        Status(408),
        Reset(before="apply"),
        Reset(after="apply"),
        Lost(),
        Truncate(randomness.randrange(12_000)),
        Truncate(randomness.randrange(12_000)),
        Truncate(randomness.randrange(12_000)),
    ]
    return randomness.choice(passing)


@pytest.mark.no_cover
@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.stress)])
async def test_a_stream_lives_through_many_faults(number: int, sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """While ten times as many changes happen: each comes out once, in order, up to the last."""
    randomness = Random(20)
    faults = [_some_fault(randomness) for _ in range(number - number // 20)]
    faults += [Stall(randomness.randrange(500)) for _ in range(number // 20)]
    randomness.shuffle(faults)
    sandbox.faults.sequence(ROUTE, faults)
    sandbox.streams.heartbeat = 0.005
    made, seen = 0, [0]

    def in_reach() -> bool:
        return made - seen[-1] < 500  # the sandbox remembers a thousand changes

    async def change() -> None:
        nonlocal made
        while made < 10 * number or sandbox.faults.unfired:
            await until(in_reach)
            made += 1
            await client.identify("customer_123", {"n": made})
        await client.identify("customer_123", {"end": True})

    async with client, subscribe(sandbox, client, idle_timeout=0.2) as stream, anyio.create_task_group() as group:
        group.start_soon(change)
        while not (update := await next_of(stream)).customer.traits.get("end"):
            seen.append(int(update.id))
            assert update.customer.traits.get("n", 0) == seen[-1]

    assert made >= 10 * number
    assert sandbox.faults.unfired == ()
    assert seen == [0, *range(seen[1], made + 1)]
