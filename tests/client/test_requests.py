"""client: the exact request of every call, pinned with respx: method, path, headers and body bytes."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import pytest
import respx

from perkamo import OMIT, AsyncPerkamoClient, Event, PerkamoResponseError
from perkamo.signing import sign

pytestmark = pytest.mark.anyio

KEY = "sk_test_pinned"
BASE = "https://api.perkamo.com"
MOMENT = datetime(2026, 6, 1, 10, tzinfo=UTC)
RESULT = {
    "applied": True,
    "duplicate": False,
    "delta": [],
    "leveled_up": False,
    "unlocked": [],
    "wallet_state": {},
}
TOKEN = {"token": "jwt", "token_type": "Bearer", "expires_at": "2026-06-04T12:10:00.000Z", "expires_in": 600}

PURCHASE = (
    b'{"user_id":"customer_123","event":"purchase.completed","transaction_id":"order_1092","context":{"order_id":'
    b'"order_1092","amount":12900,"currency":"CZK","tags":["a/b"]},"occurred_at":"2026-06-01T10:00:00.000Z"}'
)
BATCH = (
    b'{"events":[{"user_id":"u","event":"e","transaction_id":"t1","context":{"a":1},'
    b'"occurred_at":"2026-06-01T10:00:00.000Z"},{"user_id":"u","event":"e","transaction_id":"t2","context":{},'
    b'"occurred_at":"2026-06-01T10:00:00.000Z"}]}'
)

CallMade = Callable[[AsyncPerkamoClient], Awaitable[object]]
CALLS: list[tuple[str, CallMade, str, str, bytes | None, object]] = [
    (
        "identify",
        lambda client: client.identify("customer_123", {"plan": "premium", "locale": OMIT, "name": "Žofie"}),
        "POST",
        "/v1/identify",
        '{"user_id":"customer_123","traits":{"plan":"premium","name":"Žofie"}}'.encode(),
        {},
    ),
    (
        "identify without traits",
        lambda client: client.identify("customer_123"),
        "POST",
        "/v1/identify",
        b'{"user_id":"customer_123","traits":{}}',
        {},
    ),
    (
        "emit",
        lambda client: client.emit(
            "customer_123",
            "purchase.completed",
            {"order_id": "order_1092", "amount": 12900.0, "currency": "CZK", "note": OMIT, "tags": ["a/b"]},
            transaction_id="order_1092",
            occurred_at=MOMENT,
        ),
        "POST",
        "/v1/events",
        PURCHASE,
        RESULT,
    ),
    (
        "emit_event",
        lambda client: client.emit_event(Event("u", "e", "t", None, MOMENT)),
        "POST",
        "/v1/events",
        b'{"user_id":"u","event":"e","transaction_id":"t","context":{},"occurred_at":"2026-06-01T10:00:00.000Z"}',
        RESULT,
    ),
    (
        "batch",
        lambda client: client.batch(
            [
                Event("u", "e", "t1", {"a": 1}, MOMENT),
                {"user_id": "u", "event": "e", "transaction_id": "t2", "occurred_at": "2026-06-01T12:00:00+02:00"},
            ]
        ),
        "POST",
        "/v1/events:batch",
        BATCH,
        {"results": [RESULT, RESULT]},
    ),
    (
        "customer",
        lambda client: client.customer("a b/c?é"),
        "GET",
        "/v1/customer/a%20b%2Fc%3F%C3%A9",
        None,
        {"user_id": "x"},
    ),
    ("program", lambda client: client.program(), "GET", "/v1/program", None, {}),
    ("event_catalog", lambda client: client.event_catalog(), "GET", "/v1/program", None, {}),
    (
        "create_browser_token",
        lambda client: client.create_browser_token("pk_test_123", "customer_123", ttl_seconds=600),
        "POST",
        "/v1/browser-tokens",
        b'{"browser_key":"pk_test_123","user_id":"customer_123","ttl_seconds":600}',
        TOKEN,
    ),
    (
        "create_browser_token without ttl",
        lambda client: client.create_browser_token("pk_test_123", "customer_123"),
        "POST",
        "/v1/browser-tokens",
        b'{"browser_key":"pk_test_123","user_id":"customer_123"}',
        TOKEN,
    ),
    (
        "create_stream_token",
        lambda client: client.create_stream_token("pk_test_123", "customer_123"),
        "POST",
        "/v1/browser-tokens",
        b'{"browser_key":"pk_test_123","user_id":"customer_123","purpose":"stream","ttl_seconds":120}',
        TOKEN,
    ),
    (
        "request",
        lambda client: client.request("post", "/v1/rewards/redeem", {"transaction_id": "r1", "reward": "mug"}),
        "POST",
        "/v1/rewards/redeem",
        b'{"transaction_id":"r1","reward":"mug"}',
        {"anything": [1]},
    ),
    (
        "request without a body",
        lambda client: client.request("DELETE", "/v1/things/1"),
        "DELETE",
        "/v1/things/1",
        None,
        None,
    ),
    (
        "request with a query",
        lambda client: client.request("GET", "/v1/usage?month=5"),
        "GET",
        "/v1/usage?month=5",
        None,
        1,
    ),
]


def answer(value: object) -> httpx.Response:
    """Make a 200 answer; None has no body."""
    return httpx.Response(200) if value is None else httpx.Response(200, json=value)


@pytest.mark.parametrize("own_client", [False, True], ids=["default client", "own http_client"])
@pytest.mark.parametrize("row", CALLS, ids=[row[0] for row in CALLS])
async def test_a_call_sends_exactly_this_request(
    row: tuple[str, CallMade, str, str, bytes | None, object],
    own_client: bool,
) -> None:
    """Method, path, headers and bytes are those of the contract page; catches a header too many or a byte too few."""
    _, call, method, path, body, value = row
    http_client = httpx.AsyncClient(headers={"x-default": "1"}, cookies={"c": "1"}) if own_client else None
    client = AsyncPerkamoClient(KEY, base_url=BASE, http_client=http_client)

    async with client:
        with respx.mock(assert_all_called=True) as router:
            route = router.route(method=method, url=BASE + path).mock(return_value=answer(value))
            await call(client)

    request = route.calls.last.request
    assert request.url.raw_path.decode() == path
    assert request.content == (body or b"")
    headers = dict(request.headers)
    expected = {
        "host": "api.perkamo.com",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": headers.get("user-agent", ""),
        "x-perkamo-api-key": KEY,
    }
    if body is not None:
        expected |= {"content-type": "application/json", "content-length": str(len(body))}
    if method != "GET":
        timestamp = headers["x-perkamo-timestamp"]
        signature = sign(KEY, timestamp, method, path, body or b"")
        expected |= {"x-perkamo-timestamp": timestamp, "x-perkamo-signature": signature}
        assert abs(datetime.now(UTC).timestamp() - int(timestamp)) < 60
    assert headers == expected
    assert re.fullmatch(r"perkamo-python/\d+\.\d+\.\d+", headers["user-agent"])
    if http_client is not None:
        assert not http_client.is_closed
        await http_client.aclose()


async def test_a_path_prefix_travels_and_is_not_signed() -> None:
    """The request goes to /pfx/v1/events, the signature is over /v1/events (published); catches signing the prefix."""
    async with AsyncPerkamoClient(KEY, base_url="https://gateway.test/pfx/") as client:
        with respx.mock as router:
            route = router.post("https://gateway.test/pfx/v1/events").respond(json=RESULT)
            await client.emit("u", "e")

    request = route.calls.last.request
    timestamp = request.headers["x-perkamo-timestamp"]
    assert request.headers["x-perkamo-signature"] == sign(KEY, timestamp, "POST", "/v1/events", request.content)


async def test_an_event_without_an_id_gets_one_of_its_own() -> None:
    """Two emits without a transaction id carry two ids; catches one id for all, which would earn once."""
    async with AsyncPerkamoClient(KEY, base_url=BASE) as client:
        with respx.mock as router:
            route = router.post(BASE + "/v1/events").respond(json=RESULT)
            await client.emit("u", "e")
            await client.emit_event(Event("u", "e"))

    ids = {re.search(rb'"transaction_id":"(tx_[0-9a-f-]{36})"', call.request.content) for call in route.calls}
    assert len({match[1] for match in ids if match}) == 2


async def test_a_mock_transport_works_as_http_client() -> None:
    """The seam of JavaScript's fetch: a caller's client answers; catches a transport that is bypassed."""

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"blueprint": {"earningRules": [{"event": request.url.path}]}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        catalog = await AsyncPerkamoClient(KEY, http_client=http_client).event_catalog()

    assert [rule.event for rule in catalog] == ["/v1/program"]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_batch_answer_with_another_number_of_results_is_refused(count: int) -> None:
    """Results are never matched by guessing (row F37); catches zip() over lists of different lengths."""
    async with AsyncPerkamoClient(KEY, base_url=BASE) as client:
        with respx.mock as router:
            router.post(BASE + "/v1/events:batch").respond(json={"results": [RESULT] * count})
            told = f"has {count} results for 2 events"
            with pytest.raises(PerkamoResponseError, match=told) as caught:
                await client.batch([Event("u", "e", "t1"), Event("u", "e", "t2")])

    assert caught.value.outcome == "unknown"
