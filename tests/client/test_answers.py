"""client: what is made of answers, sound and unsound."""

import httpx
import pytest
import respx

from perkamo import (
    AsyncPerkamoClient,
    PerkamoApiError,
    PerkamoError,
    PerkamoRateLimitError,
    PerkamoResponseError,
    RateLimit,
    RetryPolicy,
)

pytestmark = pytest.mark.anyio

BASE = "https://api.perkamo.com"
LEVEL = {"wallet": "points", "level": 1, "current": 50, "nextLevelAt": 100, "currentLevelAt": 0, "progress": 0.5}
RESULT: dict[str, object] = {
    "applied": True,
    "duplicate": False,
    "delta": [{"wallet": "points", "amount": 50, "new": 1}],
    "leveled_up": False,
    "unlocked": [{"type": "perk", "key": "welcome_member", "name": "Welcome member"}],
    "wallet_state": {"points": 50, "stars": 0.5},
    "level": LEVEL,
    "later": {"field": True},
}


async def emit_against(response: httpx.Response) -> object:
    """Emit once against a canned answer and return the result, or raise."""
    async with AsyncPerkamoClient("sk_test", base_url=BASE, retry=RetryPolicy.none()) as client:
        with respx.mock as router:
            router.route().mock(return_value=response)
            return await client.emit("bob@example.com", "e", transaction_id="t")


async def test_every_published_field_is_read_and_unknown_ones_stay_in_raw() -> None:
    """The example of the contract page, with more fields than it has; catches a renamed or lost field."""
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            headers = {"x-request-id": "req_1", "x-ratelimit-limit": "100", "ratelimit-remaining": "9"}
            router.route().respond(json=RESULT, headers=headers)
            result = await client.emit("u", "e")

    assert (result.applied, result.duplicate, result.leveled_up, result.accepted) == (True, False, False, True)
    assert [(delta.wallet, delta.amount, delta.raw["new"]) for delta in result.delta] == [("points", 50, 1)]
    [perk] = result.unlocked
    assert (perk.type, perk.key, perk.name) == ("perk", "welcome_member", "Welcome member")
    assert result.wallet_state == {"points": 50, "stars": 0.5}
    level = result.level
    assert level is not None
    assert (level.wallet, level.level, level.current, level.progress) == ("points", 1, 50, 0.5)
    assert (level.current_level_at, level.next_level_at) == (0, 100)
    assert result.raw == RESULT
    assert (result.meta.status, result.meta.request_id, result.meta.attempts) == (200, "req_1", 1)
    assert result.meta.rate_limit == RateLimit(limit=100, remaining=9)


@pytest.mark.parametrize("level", [None, "absent"])
async def test_a_level_may_be_null_or_absent(level: str | None) -> None:
    """Both read as None; catches a required level."""
    body = {**RESULT, "level": None} if level is None else {k: v for k, v in RESULT.items() if k != "level"}

    result = await emit_against(httpx.Response(200, json=body))

    assert getattr(result, "level", "?") is None


WRONG: list[tuple[dict[str, object], str]] = [
    ({"applied": "false"}, "applied"),
    ({"applied": 1}, "applied"),
    ({"applied": None}, "applied"),
    ({"duplicate": []}, "duplicate"),
    ({"leveled_up": "yes"}, "leveled_up"),
    ({"delta": {}}, "delta"),
    ({"delta": "points"}, "delta"),
    ({"delta": [1]}, "delta[0]"),
    ({"delta": [{"wallet": "a", "amount": 1}, {"wallet": None, "amount": 1}]}, "delta[1].wallet"),
    ({"delta": [{"wallet": "a", "amount": True}]}, "delta[0].amount"),
    ({"delta": [{"wallet": "a", "amount": "1"}]}, "delta[0].amount"),
    ({"delta": [{"wallet": "a"}]}, "delta[0].amount"),
    ({"unlocked": None}, "unlocked"),
    ({"unlocked": [{"key": 1}]}, "unlocked[0].key"),
    ({"wallet_state": []}, "wallet_state"),
    ({"wallet_state": {"a": "1"}}, "wallet_state"),
    ({"level": []}, "level"),
    ({"level": {"wallet": "points"}}, "level.level"),
    ({"level": {**LEVEL, "level": 1.5}}, "level.level"),
    (
        {"level": {"wallet": "p", "level": 1, "current": 1, "currentLevelAt": "0", "progress": 0}},
        "level.currentLevelAt",
    ),
]


@pytest.mark.parametrize(("change", "path"), WRONG, ids=[f"{path}: {change}"[:60] for change, path in WRONG])
async def test_a_known_field_of_the_wrong_type_is_refused(change: dict[str, object], path: str) -> None:
    """Nothing is coerced, and the error names the field on the wire; catches cattrs' own converter (finding 0.9)."""
    with pytest.raises(PerkamoResponseError) as caught:
        await emit_against(httpx.Response(200, json={**RESULT, **change}))

    assert f" at {path}." in str(caught.value)
    assert "may have been applied" in str(caught.value)
    assert "same transaction id is safe" in str(caught.value)
    assert (caught.value.outcome, caught.value.status, caught.value.retryable) == ("unknown", 200, True)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("missing", ["applied", "duplicate", "delta", "leveled_up", "unlocked", "wallet_state"])
async def test_a_missing_field_is_refused(missing: str) -> None:
    """A result without a published field can't be trusted; catches a default that invents an answer."""
    body = {name: value for name, value in RESULT.items() if name != missing}

    with pytest.raises(PerkamoResponseError, match=f"lacks a field at {missing}"):
        await emit_against(httpx.Response(200, json=body))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"<html>", b"{", b"\xff\xfe", b'{"a":NaN}', b"1"])
async def test_a_body_that_is_no_result_is_refused(body: bytes) -> None:
    """Row F29: each raises the typed error without showing the body; catches a JSONDecodeError in the open."""
    with pytest.raises(PerkamoResponseError) as caught:
        await emit_against(httpx.Response(200, content=body))

    assert "html" not in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b"{", headers={"x-request-id": "req_7 sk_live_1"}),
        httpx.Response(200, content=b"", headers={"content-encoding": "br", "x-request-id": "req_7 sk_live_1"}),
    ],
    ids=["not JSON", "an encoding nobody asked for"],
)
async def test_an_answer_that_cannot_be_used_names_its_request(response: httpx.Response) -> None:
    """Whoever asks Perkamo's support needs the id, cleaned of keys; catches a text that leaves it out."""
    with pytest.raises(PerkamoResponseError) as caught:
        await emit_against(response)

    assert "(request id req_7 ***)." in str(caught.value)


@pytest.mark.parametrize("status", [200, 202])
async def test_identify_accepts_an_answer_without_a_body(status: int) -> None:
    """Its answer is unpublished, so nothing is asked of it; catches a parse of nothing."""
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            router.route().respond(status)
            answer = await client.identify("u")

    assert (answer.raw, answer.meta.status) == ({}, status)


async def test_a_customer_is_read_with_all_that_is_known() -> None:
    """Traits, wallets, level and perks are typed, the rest is raw; catches personal data in the repr."""
    body = {
        "user_id": "bob@example.com",
        "traits": {"email": "bob@example.com"},
        "wallets": {"points": 5},
        "perks": [{"key": "k", "until": "2027"}],
        "flags": {"vip": True},
    }
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            router.route().respond(json=body)
            customer = await client.customer("bob@example.com")

    assert (customer.user_id, customer.traits) == ("bob@example.com", {"email": "bob@example.com"})
    assert (customer.wallets, customer.level) == ({"points": 5}, None)
    assert customer.perks[0].key == "k"
    assert customer.raw["flags"] == {"vip": True}
    assert "bob" not in repr(customer)


@pytest.mark.parametrize("blueprint", [None, {}, {"earningRules": None}, {"earningRules": []}, "absent"])
async def test_the_catalogue_is_empty_where_there_is_none(blueprint: object) -> None:
    """As in the other clients (published); catches a KeyError on a Space without a program."""
    body = {} if blueprint == "absent" else {"blueprint": blueprint}
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            router.route().respond(json=body)
            catalog = await client.event_catalog()

    assert catalog == ()


@pytest.mark.parametrize("expires_at", ["tomorrow", "2026-06-04T12:10:00", 1, None])
async def test_a_token_needs_a_moment_with_a_zone(expires_at: object) -> None:
    """An expiry that can't be placed in time is refused; catches a naive datetime."""
    body = {"token": "jwt_secret", "token_type": "Bearer", "expires_at": expires_at, "expires_in": 600}
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            router.route().respond(json=body)
            with pytest.raises(PerkamoResponseError, match="expires_at"):
                await client.create_browser_token("pk_test", "u")


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "PerkamoApiError"),
        (401, "PerkamoAuthenticationError"),
        (403, "PerkamoPermissionError"),
        (404, "PerkamoNotFoundError"),
        (409, "PerkamoConflictError"),
        (422, "PerkamoApiError"),
        (429, "PerkamoRateLimitError"),
        (500, "PerkamoServerError"),
        (503, "PerkamoServerError"),
    ],
)
async def test_an_error_answer_raises_its_class_with_all_that_it_told(status: int, name: str) -> None:
    """Status, body, ids, waits and limits are attributes, and the text is fit for a log; catches a lost header."""
    headers = {
        "x-perkamo-request-id": "req_9",
        "x-request-id": "other",
        "retry-after": "7",
        "ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "ratelimit-reset": "60",
    }
    body = {"message": "No, bob@example.com with sk_live_1: the amount is wrong.", "code": 7}

    with pytest.raises(PerkamoApiError) as caught:
        await emit_against(httpx.Response(status, json=body, headers=headers))

    error = caught.value
    assert type(error).__name__ == name
    assert (error.status, error.body, error.request_id) == (status, body, "req_9")
    assert (error.retry_after, error.retry_after_seconds) == ("7", 7.0)
    assert error.rate_limit == RateLimit(limit=100, remaining=0, reset="60")
    assert error.outcome == ("rejected" if status < 500 else "unknown")
    assert error.retryable is (status in (409, 429, 500, 503))
    assert f"{status} No, *** with ***: the amount is wrong (request id req_9)." in str(error)
    assert error.attempts == 1


@pytest.mark.parametrize("body", [b"", b"<html>bob@example.com</html>", b"[1]", b'{"message":5}', b"\xff"])
async def test_an_error_body_of_any_kind_raises_the_error_with_its_status(body: bytes) -> None:
    """Published: not JSON must still raise; catches a parse error in the error path."""
    with pytest.raises(PerkamoApiError) as caught:
        await emit_against(httpx.Response(502, content=body))

    assert caught.value.status == 502
    assert "bob" not in str(caught.value)


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "", "\u0661", "9" * 30])
async def test_a_rate_limit_that_is_no_number_reads_as_none(text: str) -> None:
    """Published: integer, none unless all digits; catches int() on a foreign text."""
    with pytest.raises(PerkamoRateLimitError) as caught:
        await emit_against(httpx.Response(429, headers=[(b"ratelimit-limit", text.encode())]))

    assert caught.value.rate_limit.limit is None


async def test_a_read_says_nothing_of_applying() -> None:
    """WriteOutcome belongs to writes; catches advice about transaction ids on a GET."""
    async with AsyncPerkamoClient("sk_test", base_url=BASE, retry=RetryPolicy.none()) as client:
        with respx.mock as router:
            router.route().respond(500)
            with pytest.raises(PerkamoError) as caught:
                await client.program()

    assert caught.value.outcome is None
    assert "transaction" not in str(caught.value)
