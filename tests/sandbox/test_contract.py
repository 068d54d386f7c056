"""Every rule of the wire, over the pure ``handle``: what is taken, what is refused, and what is answered."""

import json
import re

import pytest

from perkamo.sandbox.checks import MAX_DEPTH
from perkamo.sandbox.messages import Request
from tests.sandbox.caller import Caller, event, make_caller

CUSTOMER = "/v1/customer/customer_123"


@pytest.fixture
def api() -> Caller:
    """A fresh Space with the default program."""
    return make_caller()


def test_a_registration_answers_as_the_published_example(api: Caller) -> None:
    """Expect the example of the contract page, byte for byte but for the order of members."""
    answer = api.post("/v1/events", event())

    assert answer.status == 200
    assert answer.json == {
        "applied": True,
        "duplicate": False,
        "delta": [{"wallet": "points", "amount": 50}],
        "leveled_up": False,
        "unlocked": [{"type": "perk", "key": "welcome_member", "name": "Welcome member"}],
        "wallet_state": {"points": 50},
        "level": {
            "wallet": "points",
            "level": 1,
            "current": 50,
            "nextLevelAt": 100,
            "currentLevelAt": 0,
            "progress": 0.5,
        },
    }
    assert answer.notes == ()


def test_whole_amounts_are_written_without_a_fraction(api: Caller) -> None:
    """Expect 129 and not 129.0, as JavaScript writes it; and 123.45 where it is one."""
    whole = api.post("/v1/events", event(event="purchase.completed", context={"amount": 12900}))
    broken = api.post("/v1/events", event(event="purchase.completed", context={"amount": 12345}, transaction_id="2"))

    assert b'"amount":129}' in whole.raw
    assert b'"amount":123.45}' in broken.raw


def test_a_level_up_and_what_it_unlocks_are_reported_once(api: Caller) -> None:
    """Expect leveled_up with the event that crosses the line, and its perk in that answer only."""
    api.post("/v1/events", event())

    up = api.post("/v1/events", event(event="purchase.completed", context={"amount": 5000}, transaction_id="2"))
    after = api.post("/v1/events", event(event="purchase.completed", context={"amount": 100}, transaction_id="3"))

    assert up.json["leveled_up"] is True
    assert [item["key"] for item in up.objects("unlocked")] == ["free_shipping", "first_purchase"]
    assert [item["type"] for item in up.objects("unlocked")] == ["perk", "achievement"]
    assert (after.json["leveled_up"], after.json["unlocked"]) == (False, [])


def test_falling_below_a_level_is_no_level_up_and_keeps_the_perk(api: Caller) -> None:
    """Expect a refund to take points and level, and nothing that was unlocked; coming back unlocks nothing again."""
    api.post("/v1/events", event(event="purchase.completed", context={"amount": 12000}))

    down = api.post("/v1/events", event(event="purchase.refunded", context={"amount": 12000}, transaction_id="2"))
    again = api.post("/v1/events", event(event="purchase.completed", context={"amount": 12000}, transaction_id="3"))

    assert (down.json["leveled_up"], down.json["wallet_state"]) == (False, {"points": 0})
    assert (again.json["leveled_up"], again.json["unlocked"]) == (True, [])
    assert {perk["key"] for perk in api.get(CUSTOMER).objects("perks")} == {"welcome_member", "free_shipping"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": ...}, "user_id is missing"),
        ({"user_id": None}, "user_id must be text"),
        ({"user_id": 7}, "user_id must be text"),
        ({"user_id": ""}, "user_id must not be blank"),
        ({"user_id": " \t"}, "user_id must not be blank"),
        ({"user_id": "a" * 257}, "user_id must be at most 256"),
        ({"user_id": "😀" * 129}, "user_id must be at most 256"),
        ({"user_id": "\ud800"}, "user_id contains a lone surrogate"),
        ({"event": ...}, "event is missing"),
        ({"event": []}, "event must be text"),
        ({"event": ""}, "event must not be blank"),
        ({"event": "a" * 129}, "event must be at most 128"),
        ({"event": "😀" * 65}, "event must be at most 128"),
        ({"transaction_id": ...}, "transaction_id is missing"),
        ({"transaction_id": None}, "transaction_id must be text"),
        ({"transaction_id": ""}, "transaction_id must not be blank"),
        ({"transaction_id": "a" * 257}, "transaction_id must be at most 256"),
        ({"context": None}, "context must be an object"),
        ({"context": "a"}, "context must be an object"),
        ({"context": [1]}, "context must be an object"),
        ({"context": {"": 1}}, "context has an empty key"),
        ({"context": {"a": {"": 1}}}, "context.a has an empty key"),
        ({"context": {"a": [{"b": [{"": 1}]}]}}, r"context.a\[0\].b\[0\] has an empty key"),
        ({"context": {"a": "\ud800"}}, "context.a contains a lone surrogate"),
        ({"context": {"\udfff": 1}}, "a key of context contains a lone surrogate"),
        ({"context": {"xp": 1}}, "context.xp is reserved"),
        ({"context": {"wallet": 1}}, "context.wallet is reserved"),
        ({"context": {"wallets": 1}}, "context.wallets is reserved"),
        ({"context": {"rewards": 1}}, "context.rewards is reserved"),
        ({"context": {"level": 1}}, "context.level is reserved"),
        ({"context": {"perks": 1}}, "context.perks is reserved"),
        ({"context": {"achievements": 1}}, "context.achievements is reserved"),
        ({"context": {"LeVeL": 1}}, "context.LeVeL is reserved"),
        ({"occurred_at": None}, "occurred_at must be a time"),
        ({"occurred_at": 1780308000}, "occurred_at must be a time"),
        ({"occurred_at": ""}, "occurred_at must be a time"),
        ({"occurred_at": "2026-06-01"}, "occurred_at must be a time"),
        ({"occurred_at": "2026-06-01T10:00:00"}, "occurred_at must be a time"),
        ({"occurred_at": "2026-06-01 10:00:00Z"}, "occurred_at must be a time"),
        ({"occurred_at": "٢٠٢٦-06-01T10:00:00Z"}, "occurred_at must be a time"),
        ({"occurred_at": "2026-13-01T10:00:00Z"}, "not a valid date and time"),
        ({"occurred_at": "2026-02-30T10:00:00Z"}, "not a valid date and time"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(api: Caller, change: dict[str, object], reason: str) -> None:
    """Expect 400 with the path and never the value, alone and in a batch, and nothing applied."""
    alone = api.post("/v1/events", event(**change))
    batched = api.post("/v1/events:batch", {"events": [event(**change)]})

    assert alone.status == 400
    assert re.search(reason, alone.message)
    result = batched.objects("results")[0]
    assert batched.status == 200
    assert result["applied"] is False
    assert '"events[0].' in json.dumps(result["error"]) or "a key of events[0]." in json.dumps(result["error"])
    assert api.space.ledger.events() == ()


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "a" * 256},
        {"user_id": "😀" * 128},
        {"user_id": " spaces stay "},
        {"user_id": "a/b?c#d%20ěšč"},
        {"event": "a" * 128},
        {"event": "Any Thing"},
        {"transaction_id": "😀" * 128},
        {"context": ...},
        {"context": []},
        {"context": {"nested": {"level": 1, "xp": 2}}},
        {"context": {"items": [{"wallet": 1}], "none": None, "yes": True, "n": 1.5, "t": "x", "big": 2**53 - 1}},
        {"occurred_at": ...},
        {"occurred_at": "2026-06-01T10:00:00+00:00"},
        {"occurred_at": "2026-06-01T12:00:00+02:00"},
        {"occurred_at": "2026-06-01t10:00:00.5z"},
        {"occurred_at": "2026-06-01T10:00:00.123456789Z"},
        {"occurred_at": "2028-02-29T23:59:59Z"},
    ],
)
def test_an_event_within_the_rules_is_applied(api: Caller, change: dict[str, object]) -> None:
    """Expect 200 and the id exactly as it was sent: catches trimming, narrow limits and narrow times."""
    answer = api.post("/v1/events", event(**change))

    assert answer.json["applied"] is True
    applied = api.space.ledger.events()[0]
    assert applied.user_id == change.get("user_id", "customer_123")
    assert applied.occurred_at.upper() == str(change.get("occurred_at", "2026-06-01T10:00:00.000Z")).upper().replace(
        "ELLIPSIS", "2026-06-01T10:00:00.000Z"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"user_id":"a"}x', "not JSON"),
        (b"[]", "must be an object"),
        (b'"text"', "must be an object"),
        (b"null", "must be an object"),
        (b"\xff", "not UTF-8"),
        (b'\xef\xbb\xbf{"user_id":"a"}', "not JSON"),
        (b'{"user_id":NaN}', "NaN"),
        (b'{"user_id":Infinity}', "Infinity"),
        (b'{"user_id":-Infinity}', "Infinity"),
        (b'{"user_id":"a","user_id":"b"}', "same key twice"),
        (b'{"context":{"a":1,"a":2}}', "same key twice"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events:batch", "/v1/identify", "/v1/browser-tokens"])
def test_a_body_that_is_no_strict_json_object_is_refused(api: Caller, path: str, body: bytes, reason: str) -> None:
    """Expect 400 with the reason on every route that takes a body."""
    answer = api.post(path, body)

    assert answer.status == 400
    assert reason in answer.message


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 400, b"9" * 5000])
def test_a_number_beyond_all_numbers_is_refused(api: Caller, number: bytes) -> None:
    """Expect JavaScript's infinity to be no finite number."""
    body = json.dumps(event(context={"amount": 0})).encode().replace(b'"amount": 0', b'"amount": ' + number)

    answer = api.post("/v1/events", body)

    assert (answer.status, answer.message) == (400, "context.amount must be a finite number")


def test_nesting_is_bounded_without_a_crash(api: Caller) -> None:
    """Expect 64 levels, the client's limit, to pass, and 400 levels to be refused."""

    def nested(depth: int) -> bytes:
        inner = b"[" * depth + b"]" * depth
        return json.dumps(event(context={"a": 0})).encode().replace(b'"a": 0', b'"a": ' + inner)

    assert api.post("/v1/events", nested(64)).status == 200
    assert api.post("/v1/events", nested(MAX_DEPTH - 1)).status == 200  # the context itself is the first level
    assert "nested deeper" in api.post("/v1/events", nested(MAX_DEPTH)).message
    assert "nested deeper" in api.post("/v1/events", nested(400)).message


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(api: Caller, kind: str) -> None:
    """Expect 415: the published clients all send application/json."""
    raw = json.dumps(event()).encode()
    headers = tuple((name, kind if name == "content-type" else value) for name, value in api.signed("/v1/events", raw))

    answer = api.send(Request("POST", "/v1/events", headers, raw))

    assert answer.status == 415


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_the_content_type_may_have_a_charset(api: Caller, kind: str) -> None:
    """Expect parameters and letter case not to matter."""
    raw = json.dumps(event()).encode()
    headers = tuple((name, kind if name == "content-type" else value) for name, value in api.signed("/v1/events", raw))

    assert api.send(Request("POST", "/v1/events", headers, raw)).status == 200


def test_a_repeated_transaction_is_a_duplicate_that_earns_nothing(api: Caller) -> None:
    """Expect applied false, duplicate true, an empty delta and the balances as they are."""
    api.post("/v1/events", event())

    again = api.post("/v1/events", event())

    assert (again.json["applied"], again.json["duplicate"], again.json["delta"]) == (False, True, [])
    assert (again.json["wallet_state"], again.json["unlocked"]) == ({"points": 50}, [])
    assert again.notes == ()
    assert len(api.space.ledger.events()) == 1


@pytest.mark.parametrize(
    "change",
    [{"context": {"a": 1}}, {"event": "review.created"}, {"user_id": "other"}, {"occurred_at": "2026-06-01T10:00:01Z"}],
)
def test_a_repeated_transaction_with_another_body_is_noted(api: Caller, change: dict[str, object]) -> None:
    """Expect a duplicate all the same, and a note for the request log: the caller has mixed up ids."""
    api.post("/v1/events", event())

    again = api.post("/v1/events", event(**change))

    assert again.json["duplicate"] is True
    assert "with another body" in again.notes[0]
    assert api.space.ledger.customer("other").wallets == {}


def test_an_event_that_no_rule_names_is_applied_and_earns_nothing(api: Caller) -> None:
    """Expect an assumed answer: applied, with an empty delta, and the customer exists from then on."""
    answer = api.post("/v1/events", event(event="page.viewed"))

    assert (answer.json["applied"], answer.json["delta"], answer.json["wallet_state"]) == (True, [], {})
    assert api.space.ledger.customer("customer_123").level == 1
    assert api.post("/v1/events", event(event="page.viewed")).json["duplicate"] is True


def test_a_formula_without_its_value_earns_nothing_and_is_noted(api: Caller) -> None:
    """Expect the event to be applied, and the log to say why it earned nothing."""
    answer = api.post("/v1/events", event(event="purchase.completed"))

    assert (answer.json["applied"], answer.json["delta"]) == (True, [])
    assert answer.notes == ("a rule on purchase.completed earned nothing: context.amount is missing",)


def test_unknown_fields_are_ignored_and_noted(api: Caller) -> None:
    """Expect 200: the service may know more fields, and no tenant field is to be sent."""
    answer = api.post("/v1/events", event(space="demo"))

    assert answer.status == 200
    assert answer.notes == ("space is not a field of this request and was ignored",)


def test_a_batch_answers_in_order_and_is_not_atomic(api: Caller) -> None:
    """Expect a result for each item, failed ones decodable as event results with an error, the others applied."""
    answer = api.post(
        "/v1/events:batch",
        {"events": [event(), event(context={"xp": 1}, transaction_id="2"), 7, event(), event(transaction_id="3")]},
    )

    results = answer.objects("results")
    assert [result["applied"] for result in results] == [True, False, False, False, True]
    assert [result["duplicate"] for result in results] == [False, False, False, True, False]
    assert [result.get("error") for result in results] == [
        None,
        {"message": "events[1].context.xp is reserved: Perkamo computes it"},
        {"message": "events[2] must be an object"},
        None,
        None,
    ]
    assert all(set(results[0]) <= set(result) for result in results)
    assert len(answer.notes) == 2


@pytest.mark.parametrize("count", [0, 101, 1000])
def test_a_batch_holds_1_to_100_events(api: Caller, count: int) -> None:
    """Expect 400 for the whole batch outside of that."""
    answer = api.post("/v1/events:batch", {"events": [event(transaction_id=str(index)) for index in range(count)]})

    assert (answer.status, answer.message) == (400, f"events must hold 1 to 100 events, not {count}")
    assert api.space.ledger.events() == ()


def test_a_batch_of_100_is_taken(api: Caller) -> None:
    """Expect the limit itself to be allowed."""
    answer = api.post("/v1/events:batch", {"events": [event(transaction_id=str(index)) for index in range(100)]})

    assert len(answer.objects("results")) == 100
    assert api.space.ledger.customer("customer_123").wallets == {"points": 5000}


@pytest.mark.parametrize("body", [{}, {"events": None}, {"events": {}}, {"events": "a"}])
def test_a_batch_without_a_list_is_refused(api: Caller, body: object) -> None:
    """Expect 400."""
    assert api.post("/v1/events:batch", body).message == "events must be a list"


def test_identify_creates_and_merges(api: Caller) -> None:
    """Expect later traits to replace earlier ones by name, reserved words to be fine, and the customer to show them."""
    api.post("/v1/identify", {"user_id": "customer_123", "traits": {"plan": "free", "level": 9}})

    answer = api.post("/v1/identify", {"user_id": "customer_123", "traits": {"plan": "premium"}})

    assert answer.json == {"user_id": "customer_123", "traits": {"plan": "premium", "level": 9}}
    assert api.get(CUSTOMER).json["traits"] == {"plan": "premium", "level": 9}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"traits": {}}, "user_id is missing"),
        ({"user_id": " "}, "user_id must not be blank"),
        ({"user_id": "a", "traits": [1]}, "traits must be an object"),
        ({"user_id": "a", "traits": {"": 1}}, "traits has an empty key"),
    ],
)
def test_identify_refuses_what_breaks_the_rules(api: Caller, body: object, reason: str) -> None:
    """Expect 400 with the path."""
    answer = api.post("/v1/identify", body)

    assert (answer.status, answer.message) == (400, reason)


def test_a_message_is_bounded(api: Caller) -> None:
    """Expect a key of a megabyte not to come back in the message."""
    assert len(api.post("/v1/events", event(context={"k" * 1_000_000: {"": 1}})).raw) < 2000
