"""Customers, program, tokens, rewards, paths and headers, over the pure ``handle``."""

import json

import pytest

from perkamo.sandbox.ledger import CustomerChange, LedgerCleared
from perkamo.sandbox.messages import Request
from tests.sandbox.caller import BROWSER_KEY, Caller, event, make_caller, objects

CUSTOMER = "/v1/customer/customer_123"


@pytest.fixture
def api() -> Caller:
    """A fresh Space with the default program."""
    return make_caller()


def test_a_customer_reads_as_published_in_the_older_excerpt(api: Caller) -> None:
    """Expect user_id, traits, wallets, level and perks."""
    api.post("/v1/events", event())

    assert api.get(CUSTOMER).json == {
        "user_id": "customer_123",
        "traits": {},
        "wallets": {"points": 50},
        "level": {
            "wallet": "points",
            "level": 1,
            "current": 50,
            "nextLevelAt": 100,
            "currentLevelAt": 0,
            "progress": 0.5,
        },
        "perks": [{"type": "perk", "key": "welcome_member", "name": "Welcome member"}],
        "achievements": [],
    }


def test_a_customer_that_nothing_was_sent_for_reads_as_an_empty_one(api: Caller) -> None:
    """Expect 200 without balances, and reading to create nobody."""
    answer = api.get("/v1/customer/nobody")

    assert answer.status == 200
    assert (answer.json["wallets"], answer.json["level"], answer.json["perks"]) == ({}, None, [])
    assert api.space.ledger.customer_count == 0


@pytest.mark.parametrize(
    ("user_id", "path"),
    [
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a/b", "a%2fb"),
        ("ěšč", "%C4%9B%C5%A1%C4%8D"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%b", "a%25b"),
        ("a-_.~Z9", "a-_.~Z9"),
        ("😀", "%F0%9F%98%80"),
        ("a+b", "a%2Bb"),
        ("...", "..."),
        ("/v1/events", "%2Fv1%2Fevents"),
    ],
)
def test_the_id_in_the_path_is_percent_decoded(api: Caller, user_id: str, path: str) -> None:
    """Expect every id to come back exactly: catches double decoding and plus signs read as spaces."""
    answer = api.get(f"/v1/customer/{path}")

    assert (answer.status, answer.json["user_id"], answer.notes) == (200, user_id, ())


def test_an_id_that_is_not_encoded_completely_is_noted(api: Caller) -> None:
    """Expect the service to take it, and the log to say that our rule is stricter."""
    answer = api.get("/v1/customer/a+b!")

    assert (answer.json["user_id"], answer.notes) == ("a+b!", ("the id in the path is not percent-encoded completely",))


@pytest.mark.parametrize("path", ["%", "%2", "%zz", "%ff", "a%C3", "%ED%A0%80"])
def test_an_id_that_cannot_be_decoded_is_refused(api: Caller, path: str) -> None:
    """Expect 400."""
    assert api.get(f"/v1/customer/{path}").status == 400


@pytest.mark.parametrize("path", ["", ".", "..", "%2e", "%2E%2e", "a/b"])
def test_dot_segments_and_deeper_paths_lead_nowhere(api: Caller, path: str) -> None:
    """Expect 404: a proxy may have resolved them to another route."""
    assert api.get(f"/v1/customer/{path}").status == 404


def test_an_id_in_the_path_is_at_most_256_characters(api: Caller) -> None:
    """Expect the same limit as in bodies."""
    assert api.get(f"/v1/customer/{'a' * 256}").status == 200
    assert api.get(f"/v1/customer/{'a' * 257}").status == 400


def test_the_program_serves_its_rules_in_camel_case(api: Caller) -> None:
    """Expect blueprint.earningRules[] with event, label and a reward that is an amount or a formula."""
    program = api.get("/v1/program").json

    blueprint = program["blueprint"]
    assert isinstance(blueprint, dict)
    rules = objects(blueprint["earningRules"])
    assert {
        "event": "user.registered",
        "label": "Created an account",
        "reward": {"wallet": "points", "amount": 50},
    } in rules
    assert {
        "event": "purchase.completed",
        "label": "Bought something",
        "reward": {"wallet": "points", "formula": "{{amount}} / 100"},
    } in rules
    assert set(program) == {"blueprint", "metrics", "usage"}


def test_usage_counts_events_and_customers(api: Caller) -> None:
    """Expect duplicates not to count."""
    api.post("/v1/events", event())
    api.post("/v1/events", event())

    assert api.get("/v1/usage").json == {"events": 1, "customers": 1}


@pytest.mark.parametrize(
    ("wish", "expires_in", "expires_at"),
    [
        ({}, 600, "2026-06-01T10:10:00.000Z"),
        ({"ttl_seconds": 1}, 1, "2026-06-01T10:00:01.000Z"),
        ({"ttl_seconds": 1800}, 1800, "2026-06-01T10:30:00.000Z"),
        ({"purpose": "stream"}, 120, "2026-06-01T10:02:00.000Z"),
        ({"purpose": "stream", "ttl_seconds": 300}, 300, "2026-06-01T10:05:00.000Z"),
    ],
)
def test_a_browser_token_is_answered_as_published(
    api: Caller, wish: dict[str, object], expires_in: int, expires_at: str
) -> None:
    """Expect token, token_type, expires_at and expires_in, by the sandbox's clock."""
    answer = api.post("/v1/browser-tokens", {"browser_key": BROWSER_KEY, "user_id": "customer_123", **wish})

    token = answer.json.pop("token")
    assert isinstance(token, str)
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", expires_in)
    assert answer.json["expires_at"] == expires_at
    kept = api.space.tokens.check(token, "stream" if "purpose" in wish else "browser", api.clock.time())
    assert kept.user_id == "customer_123"


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"browser_key": "pk_other"}, 403, "not this Space's public browser key"),
        ({"browser_key": ""}, 400, "browser_key must not be blank"),
        ({"user_id": ""}, 400, "user_id must not be blank"),
        ({"purpose": "write"}, 400, "purpose must be"),
        ({"purpose": None}, 400, "purpose must be"),
        ({"ttl_seconds": 0}, 400, "from 1 to 1800"),
        ({"ttl_seconds": 1801}, 400, "from 1 to 1800"),
        ({"ttl_seconds": -1}, 400, "from 1 to 1800"),
        ({"ttl_seconds": "600"}, 400, "from 1 to 1800"),
        ({"ttl_seconds": True}, 400, "from 1 to 1800"),
        ({"ttl_seconds": 1.5}, 400, "from 1 to 1800"),
        ({"ttl_seconds": None}, 400, "from 1 to 1800"),
    ],
)
def test_a_wrong_wish_for_a_token_is_refused(api: Caller, change: dict[str, object], status: int, reason: str) -> None:
    """Expect the limits of the PHP client to be checked here too."""
    answer = api.post("/v1/browser-tokens", {"browser_key": BROWSER_KEY, "user_id": "customer_123", **change})

    assert answer.status == status
    assert reason in answer.message


def test_redeeming_takes_the_cost_once(api: Caller) -> None:
    """Expect an assumed answer like an event's, idempotent; 409 for a small balance, 404 for no reward."""
    api.post("/v1/events", event(event="referral.completed"))
    wish = {"user_id": "customer_123", "reward": "voucher_10", "transaction_id": "redeem_1"}

    first = api.post("/v1/rewards/redeem", wish)
    again = api.post("/v1/rewards/redeem", wish)

    assert (first.json["applied"], first.json["delta"]) == (True, [{"wallet": "points", "amount": -100}])
    assert (again.json["duplicate"], again.json["wallet_state"]) == (True, {"points": 100})
    assert api.post("/v1/rewards/redeem", {**wish, "reward": "gift_box", "transaction_id": "2"}).status == 409
    assert api.post("/v1/rewards/redeem", {**wish, "user_id": "nobody", "transaction_id": "3"}).status == 409
    assert api.post("/v1/rewards/redeem", {**wish, "reward": "moon"}).status == 404
    assert api.space.ledger.customer("nobody").level is None


def test_redeeming_tells_those_who_listen(api: Caller) -> None:
    """Expect one change with the smaller balance, and none for the same id again: streams live on these."""
    api.post("/v1/events", event(event="referral.completed"))
    changes: list[CustomerChange | LedgerCleared] = []
    api.space.ledger.listen(changes.append)
    wish = {"user_id": "customer_123", "reward": "voucher_10", "transaction_id": "redeem_1"}

    api.post("/v1/rewards/redeem", wish)
    api.post("/v1/rewards/redeem", wish)

    [change] = changes
    assert isinstance(change, CustomerChange)
    assert (change.user_id, change.customer["wallets"]) == ("customer_123", {"points": 100})


def test_a_reset_begins_a_new_rate_window(api: Caller) -> None:
    """Expect the count to begin anew, with the same clock: catches a window that outlives what it counted."""
    before = [api.get("/v1/program").headers["ratelimit-remaining"] for _ in range(3)]

    api.space.reset()

    assert before == ["99999", "99998", "99997"]
    assert api.get("/v1/program").headers["ratelimit-remaining"] == "99999"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/events", "POST"),
        ("PUT", "/v1/events", "POST"),
        ("GET", "/v1/events:batch", "POST"),
        ("POST", "/v1/customer/a", "GET"),
        ("DELETE", "/v1/customer/a", "GET"),
        ("POST", "/v1/program", "GET"),
    ],
)
def test_the_wrong_method_is_405_and_says_which_is_right(api: Caller, method: str, path: str, allow: str) -> None:
    """Expect the Allow header."""
    answer = api.send(Request(method, path, api.headers()))

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert allow in answer.message


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/events", "/v1/event", "/v1/events/", "/v1/events%3Abatch", "*"]
)
def test_an_unknown_path_is_404(api: Caller, path: str) -> None:
    """Expect 404, also for the batch route with its colon encoded."""
    assert api.get(path).status == 404


def test_the_stream_is_404_where_nobody_serves_it(api: Caller) -> None:
    """Expect the pure Space to leave streams to a handler."""
    assert api.get("/v1/client/customer/a/stream").status == 404


def test_a_gateway_prefix_is_not_part_of_the_signed_path(api: Caller) -> None:
    """Expect a base URL with a path to work when /v1/… alone was signed."""
    raw = json.dumps(event()).encode()

    answer = api.send(Request("POST", "/pfx/deep/v1/events", api.signed("/v1/events", raw), raw))

    assert (answer.status, answer.notes) == (200, ())


def test_every_answer_carries_the_usual_headers(api: Caller) -> None:
    """Expect date, request id and rate limit on success and on errors, each request with an id of its own."""
    good, bad = api.get(CUSTOMER), api.get("/v1/nothing")

    for answer, remaining in ((good, "99999"), (bad, "99998")):
        assert answer.headers["date"] == "Mon, 01 Jun 2026 10:00:00 GMT"
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["ratelimit-limit"] == "100000"
        assert answer.headers["ratelimit-remaining"] == remaining
        assert answer.headers["ratelimit-reset"] == "60"
    assert good.headers["x-perkamo-request-id"] != bad.headers["x-perkamo-request-id"]


def test_the_rate_limit_window_moves_on_and_never_refuses(api: Caller) -> None:
    """Expect the count to begin again after a minute of the sandbox's clock."""
    for _ in range(5):
        api.get(CUSTOMER)

    api.clock.advance(59)
    late = api.get(CUSTOMER)
    api.clock.advance(1)
    fresh = api.get(CUSTOMER)

    assert (late.headers["ratelimit-remaining"], late.headers["ratelimit-reset"]) == ("99994", "1")
    assert fresh.headers["ratelimit-remaining"] == "99999"


def test_the_same_script_sees_the_same_bytes() -> None:
    """Expect ids, tokens and headers to follow from the seed; another seed gives others."""

    def play(seed: int) -> list[object]:
        api = make_caller(seed=seed)
        wish = {"browser_key": BROWSER_KEY, "user_id": "a"}
        answers = [api.post("/v1/events", event()), api.post("/v1/browser-tokens", wish), api.get("/v1/x")]
        return [(answer.headers, answer.raw) for answer in answers]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_oddities_are_noted_but_not_refused(api: Caller) -> None:
    """Expect a query, a signed GET and a missing accept header to be in the notes."""
    headers = tuple(pair for pair in api.signed(CUSTOMER, b"", method="GET") if pair[0] != "accept")

    answer = api.send(Request("GET", f"{CUSTOMER}?a=1", headers))

    assert answer.status == 200
    assert answer.notes == (
        "the published clients send accept: application/json",
        "GET requests are not signed",
        "no call takes a query",
    )
