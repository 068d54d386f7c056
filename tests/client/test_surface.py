"""client: every call against the sandbox, over a real socket, on asyncio and on trio."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    Event,
    PerkamoAuthenticationError,
    PerkamoClient,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoError,
    PerkamoNotFoundError,
    PerkamoTimeoutError,
    RetryPolicy,
)
from perkamo.sandbox import Delay, Fault, Lost, Reset, Sandbox, Status, Truncate
from tests.transport.pool import inside

pytestmark = pytest.mark.anyio


async def test_events_earn_points_levels_and_perks(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """The whole story of a customer, end to end; catches a client that only looks right against canned answers."""
    async with client:
        await client.identify("customer_123", {"name": "Ada"})
        result = await client.emit(
            "customer_123", "purchase.completed", {"order_id": "o1", "amount": 12900}, transaction_id="o1"
        )
        again = await client.emit("customer_123", "purchase.completed", {"amount": 12900}, transaction_id="o1")
        customer = await client.customer("customer_123")

    assert (result.applied, result.accepted, result.leveled_up) == (True, True, True)
    assert result.delta[0].amount == 129
    assert {perk.key for perk in result.unlocked} >= {"welcome_member"}
    assert (again.applied, again.duplicate, again.accepted) == (False, True, True)
    assert customer.traits == {"name": "Ada"}
    assert customer.wallets == {"points": 129}
    assert customer.level is not None
    assert customer.level.level == 2
    assert [event.transaction_id for event in sandbox.events("customer_123")] == ["o1"]


async def test_a_batch_answers_each_event_in_order(client: AsyncPerkamoClient) -> None:
    """100 events, 100 results in the order of the request; catches results matched in another order."""
    events = [Event(f"customer_{n}", "purchase.completed", f"o{n}", {"amount": n * 100}) for n in range(100)]

    async with client:
        answer = await client.batch(iter(events))

    results = answer.raise_for_failures()
    assert [result.delta[0].amount if result.delta else 0 for result in results] == list(range(100))
    assert answer.results[7].meta is answer.meta


async def test_the_program_is_read(client: AsyncPerkamoClient) -> None:
    """program, event_catalog and request tell of the same rules; catches a catalogue that is made up."""
    async with client:
        program = await client.program()
        catalog = await client.event_catalog()
        raw = await client.request("GET", "/v1/program")

    assert catalog == program.blueprint.earning_rules
    assert "purchase.completed" in {rule.event for rule in catalog}
    assert raw.raw == program.raw


async def test_tokens_are_made_for_one_customer_and_time(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """Both kinds of token come with their lifetimes; catches swapped defaults."""
    async with client:
        browser = await client.create_browser_token(sandbox.browser_key, "customer_123", ttl_seconds=600)
        stream = await client.create_stream_token(sandbox.browser_key, "customer_123")

    assert (browser.token_type, browser.expires_in, stream.expires_in) == ("Bearer", 600, 120)
    assert abs(browser.expires_at - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=60)
    assert browser.token not in repr(browser)


@pytest.mark.parametrize("user_id", ["a/b", "a b", "a?x=1#f", "%2e%2e", "é😀", "...", "-_.~", "a+b&c"])
async def test_an_id_reaches_the_service_as_it_is(user_id: str, client: AsyncPerkamoClient) -> None:
    """What is emitted for an id is read under the same id; catches an encoding that loses or adds something."""
    async with client:
        await client.emit(user_id, "purchase.completed", {"amount": 1000})
        customer = await client.customer(user_id)

    assert (customer.user_id, customer.wallets) == (user_id, {"points": 10})


async def test_a_customer_that_nobody_knows_reads_as_empty(client: AsyncPerkamoClient) -> None:
    """Assumed: 200 and no balances, not 404."""
    async with client:
        customer = await client.customer("nobody")

    assert (customer.wallets, customer.level, customer.perks) == ({}, customer.level, ())


async def test_an_unknown_endpoint_and_a_wrong_key_raise_their_errors(
    client: AsyncPerkamoClient, sandbox: Sandbox
) -> None:
    """404 and 401 have classes of their own; catches one error for all."""
    async with client:
        with pytest.raises(PerkamoNotFoundError):
            await client.request("GET", "/v1/nothing")
    async with AsyncPerkamoClient("sk_test_wrong", base_url=sandbox.base_url) as stranger:
        with pytest.raises(PerkamoAuthenticationError) as caught:
            await stranger.program()

    assert caught.value.attempts == 1


async def test_a_key_is_asked_for_on_every_attempt(sandbox: Sandbox) -> None:
    """A key that was rotated between two attempts is used by the second; catches a key that is kept."""
    asked: list[int] = []

    async def supplier() -> str:
        asked.append(len(asked))
        return sandbox.api_key

    sandbox.faults.next("POST /v1/events", Status(503), times=2)
    policy = RetryPolicy(base_delay=0.001)
    async with AsyncPerkamoClient(supplier, base_url=sandbox.base_url, retry=policy) as client:
        result = await client.emit("u", "e")

    assert (result.meta.attempts, asked) == (3, [0, 1, 2])


@pytest.mark.parametrize(
    "fault", [Lost(), Reset(after="apply"), Reset(before="apply"), Truncate(5), Status(503), Status(429)]
)
async def test_a_retry_sends_the_same_bytes_under_a_fresh_signature(
    fault: Fault, client: AsyncPerkamoClient, sandbox: Sandbox
) -> None:
    """The event is applied once whatever got lost; catches a new transaction id or changed bytes on a retry (P3)."""
    sandbox.faults.next("POST /v1/events", fault)

    async with client:
        result = await client.emit("u", "purchase.completed", {"amount": 100})

    first, second = sandbox.requests
    assert (result.accepted, result.meta.attempts) == (True, 2)
    assert first.body == second.body
    assert len(sandbox.events("u")) == 1
    assert sandbox.customer("u").wallets == {"points": 1}


async def test_the_timeout_bounds_the_whole_call(sandbox: Sandbox) -> None:
    """A slow service ends in a timeout that says the outcome is unknown; catches a budget for each attempt only."""
    sandbox.faults.next("POST /v1/events", Delay(30))

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        await client.program()  # so that there is a connection, and the event leaves at once
        with anyio.fail_after(10), pytest.raises(PerkamoTimeoutError) as caught:
            await client.with_options(timeout=0.3).emit("u", "e")

    assert (caught.value.outcome, caught.value.attempts) == ("unknown", 1)


async def test_a_view_with_other_options_shares_connections(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """with_options changes limits only, and closing the view leaves the client open; catches a copy that closes."""
    async with client:
        view = client.with_options(timeout=None, retry=RetryPolicy.none())
        sandbox.faults.next("GET /v1/program", Status(503))
        with pytest.raises(Exception, match="503") as caught:
            await view.program()
        await view.aclose()
        program = await client.program()

    assert getattr(caught.value, "attempts", 0) == 1
    assert program.blueprint.earning_rules
    with pytest.raises(PerkamoClosedError):
        await view.program()


async def test_a_closed_client_says_so(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """Use after close is a typed error and closing twice is fine; catches httpx's RuntimeError in the open (F56)."""
    await client.aclose()
    await client.aclose()

    with pytest.raises(PerkamoClosedError, match="Nothing was sent"):
        await client.emit("u", "e")
    assert sandbox.requests == ()


async def test_closing_during_a_call_ends_it_with_a_typed_error(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """The call under way says that the client was closed, and does not try again (F56); catches a hang."""
    sandbox.faults.next("POST /v1/events", Delay(30))
    raised: list[PerkamoClosedError] = []

    async def emit() -> None:
        with pytest.raises(PerkamoClosedError, match="during the call") as caught:
            await client.emit("u", "e")
        raised.append(caught.value)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit)
            while not sandbox.events("u"):  # noqa: ASYNC110 - the service runs in a thread that knows no events of ours
                await anyio.sleep(0.01)
            await client.aclose()

    assert (raised[0].outcome, raised[0].attempts) == ("unknown", 1)


async def test_a_call_that_waits_for_a_connection_has_sent_nothing(sandbox: Sandbox) -> None:
    """However it ends; catches a body that counts as sent when the transport only looks at it."""
    sandbox.faults.next("POST /v1/events", Delay(30))
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, max_connections=1)
    outcomes: list[str | None] = []

    async def emit(seconds: float) -> None:
        with pytest.raises(PerkamoError) as caught:
            await client.with_options(timeout=seconds).emit("u", "e")
        outcomes.append(caught.value.outcome)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit, 20)
            while not sandbox.events("u"):  # noqa: ASYNC110 - the service runs in a thread that knows no events of ours
                await anyio.sleep(0.01)
            await emit(0.05)
            tasks.start_soon(emit, 20)
            await anyio.wait_all_tasks_blocked()
            await client.aclose()

    assert outcomes[0] == "not_sent"
    assert set(outcomes[1:]) == {"not_sent", "unknown"}


async def test_a_client_that_was_used_and_never_closed_is_complained_about(sandbox: Sandbox) -> None:
    """The warning names the object and the remedy; catches silence about leaked connections."""
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url)
    await client.program()

    with pytest.warns(ResourceWarning, match=r"<AsyncPerkamoClient http.*never closed; use it with 'async with'"):
        client.__del__()

    await client.aclose()


@pytest.mark.parametrize("seconds", [0, -1, True, "30", float("nan"), float("inf"), 10**6])
async def test_a_timeout_that_cannot_work_is_refused(seconds: float) -> None:
    """Refused at construction and by with_options; catches a call that ends before it begins."""
    with pytest.raises(PerkamoConfigurationError, match="timeout"):
        AsyncPerkamoClient("sk_test", timeout=seconds)
    async with AsyncPerkamoClient("sk_test") as client:
        with pytest.raises(PerkamoConfigurationError, match="timeout"):
            client.with_options(timeout=seconds)


async def test_a_fingerprint_tells_services_and_keys_apart_and_no_key() -> None:
    """Equal for the same service and key, else different; catches a hash that anyone could turn back into the key."""
    clients = [
        AsyncPerkamoClient("sk_test_one"),
        AsyncPerkamoClient("sk_test_one", timeout=1),
        AsyncPerkamoClient("sk_test_two"),
        AsyncPerkamoClient("sk_test_one", base_url="https://staging.test"),
    ]

    first, same, other_key, other_service = [await client.space_fingerprint() for client in clients]

    assert first == same
    assert len({first, other_key, other_service}) == 3
    assert hashlib.sha256(b"sk_test_one").hexdigest() != first
    assert len(first) == 64


async def test_the_environment_gives_key_and_base_url(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """PERKAMO_SECRET_KEY and PERKAMO_BASE_URL are enough; catches a renamed variable."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", sandbox.api_key)
    monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)

    async with AsyncPerkamoClient() as client:
        program = await client.program()

    assert program.meta.status == 200


async def test_the_sandbox_serves_in_process_as_well(sandbox: Sandbox) -> None:
    """Sandbox.transport() under a caller's client answers alike; catches two truths."""
    async with httpx.AsyncClient(transport=sandbox.transport()) as http_client:
        client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http_client)
        result = await client.emit("u", "purchase.completed", {"amount": 100})

    assert result.wallet_state == {"points": 1}


@pytest.mark.parametrize(
    "option",
    [{"proxy": "http://proxy.test"}, {"ssl_context": ssl.create_default_context()}, {"max_connections": 5}],
    ids=["proxy", "TLS", "connections"],
)
async def test_options_of_connections_and_own_client_do_not_mix(option: dict[str, Any]) -> None:
    """A caller's client has connections of its own; catches an option that is silently ignored."""
    async with httpx.AsyncClient() as http_client:
        with pytest.raises(PerkamoConfigurationError, match="Pass either"):
            AsyncPerkamoClient("sk_test", http_client=http_client, **option)


async def test_options_of_connections_reach_the_transport() -> None:
    """A wrong number is refused when the client is built; catches options that go nowhere."""
    context = ssl.create_default_context()
    async with AsyncPerkamoClient("sk_test", ssl_context=context, max_connections=7) as client:
        transport = inside(client)[1]
        assert (transport._ssl_context(), transport._limits.connections) == (context, 7)

    with pytest.raises(PerkamoConfigurationError, match="max_connections must be 1 or more"):
        AsyncPerkamoClient("sk_test", max_connections=0)


WRONG_OPTIONS: list[dict[str, object]] = [
    {"retry": 5},
    {"retry": None},
    {"timeout": "5"},
    {"timeout": True},
    {"base_url": 5},
    {"base_url": "https://host:999999"},
    {"stream_path": 5},
    {"max_connections": "5"},
    {"max_connections": 1.5},
    {"max_connections": True},
    {"ssl_context": "ca.pem"},
    {"api_key": 5},
    {"api_key": "pk_live_public"},
]


@pytest.mark.parametrize("kind", [AsyncPerkamoClient, PerkamoClient])
@pytest.mark.parametrize("option", WRONG_OPTIONS, ids=repr)
def test_an_option_of_the_wrong_type_is_told_when_the_client_is_built(
    option: dict[str, object], kind: type[AsyncPerkamoClient | PerkamoClient]
) -> None:
    """By an error of ours that names it; catches an AttributeError at the first call."""
    with pytest.raises(PerkamoConfigurationError, match=f"{next(iter(option))}|public browser key"):
        kind(**{"api_key": "sk_test", **option})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    "option",
    [{"reconnect": 5}, {"idle_timeout": "5"}, {"bad_data": "ignore"}, {"last_event_id": 5}],
    ids=repr,
)
def test_an_option_of_a_stream_of_the_wrong_type_is_told_at_once(option: dict[str, Any]) -> None:
    """And so is one of a view; catches an error in the middle of a stream."""
    client = AsyncPerkamoClient("sk_test")

    with pytest.raises(PerkamoError, match="timeout" if "idle_timeout" in option else next(iter(option))):
        client.subscribe_customer("u", "jwt", **option)
    with pytest.raises(PerkamoConfigurationError, match="retry must be of type RetryPolicy"):
        client.with_options(retry=5)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("kind", [AsyncPerkamoClient, PerkamoClient])
def test_a_client_is_built_without_a_key(
    kind: type[AsyncPerkamoClient | PerkamoClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For ``manage.py check`` and whatever else only imports; catches a key that is asked for at import."""
    monkeypatch.delenv("PERKAMO_SECRET_KEY", raising=False)

    for given in (None, ""):
        client = kind(given)
        assert repr(client).endswith("https://api.perkamo.com>")
        client.with_options(timeout=1)
        client.subscribe_customer("u", "jwt")
