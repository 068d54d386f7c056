"""encoding/serializable: values become plain data, for ``json``, ``dict`` and pydantic."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from perkamo import (
    ApiResponse,
    BatchIngestResponse,
    BrowserToken,
    Customer,
    CustomerUpdate,
    DeadLetter,
    Event,
    EventIngestResponse,
    IdentifyResponse,
    JSONValue,
    Level,
    OutboxStats,
    Program,
    RateLimit,
    ResponseMeta,
    SpaceStats,
    UnlockedPerk,
    WalletDelta,
)
from perkamo.encoding.serializable import Serializable
from perkamo.webhooks import WebhookDelivery
from tests.webhooks.samples import HEADERS, body

LEVEL = Level("points", 1, 50, 0, 0.5)
LEVEL_DATA: dict[str, JSONValue] = {
    "wallet": "points",
    "level": 1,
    "current": 50,
    "current_level_at": 0,
    "progress": 0.5,
    "next_level_at": None,
}
RESULT = EventIngestResponse(
    applied=True,
    duplicate=False,
    delta=(WalletDelta("points", 50),),
    leveled_up=False,
    unlocked=(),
    wallet_state={"points": 50},
)
RESULT_DATA: dict[str, JSONValue] = {
    "applied": True,
    "duplicate": False,
    "delta": [{"wallet": "points", "amount": 50}],
    "leveled_up": False,
    "unlocked": [],
    "wallet_state": {"points": 50},
    "level": None,
}
CUSTOMER = Customer("u1", {"tags": ["a"]}, {"points": 5}, LEVEL, (UnlockedPerk("perk", "k"),), raw={"later": 1})
CUSTOMER_DATA: dict[str, JSONValue] = {
    "user_id": "u1",
    "traits": {"tags": ["a"]},
    "wallets": {"points": 5},
    "level": LEVEL_DATA,
    "perks": [{"type": "perk", "key": "k", "name": None}],
    "flags": None,
}
META = ResponseMeta(200, "req_1", RateLimit(1, 2, "3"), 2, 0.5)
META_DATA: dict[str, JSONValue] = {
    "status": 200,
    "request_id": "req_1",
    "rate_limit": {"limit": 1, "remaining": 2, "reset": "3"},
    "attempts": 2,
    "seconds": 0.5,
}

SPACE = SpaceStats("live", 1, 1.5, None, 2, "503", datetime(2026, 6, 4, 12, 10, tzinfo=UTC), None, None)
SPACE_DATA: dict[str, JSONValue] = {
    "space": "live",
    "pending": 1,
    "oldest_age": 1.5,
    "last_delivery": None,
    "delivered_last_minute": 2,
    "last_error": "503",
    "last_error_at": "2026-06-04T12:10:00.000Z",
    "paused": None,
    "paused_until": None,
}

EVENT = Event("u1", "purchase.completed", "order_1", {"items": [1]}, "2026-06-01T12:00:00+02:00")
EVENT_DATA: dict[str, JSONValue] = {
    "user_id": "u1",
    "event": "purchase.completed",
    "transaction_id": "order_1",
    "context": {"items": [1]},
    "occurred_at": "2026-06-01T10:00:00.000Z",
}

CASES: list[tuple[Serializable, dict[str, JSONValue]]] = [
    (RESULT, RESULT_DATA),
    (BatchIngestResponse((RESULT,)), {"results": [RESULT_DATA]}),
    (CUSTOMER, CUSTOMER_DATA),
    (CustomerUpdate(CUSTOMER, "message", "7"), {"customer": CUSTOMER_DATA, "event": "message", "id": "7"}),
    (IdentifyResponse(raw={"later": 1}), {}),
    (Program(), {"blueprint": {"earning_rules": []}, "metrics": None, "usage": None}),
    (
        BrowserToken("t", "Bearer", datetime(2026, 6, 4, 12, 10, tzinfo=UTC), 600),
        {"token": "t", "token_type": "Bearer", "expires_at": "2026-06-04T12:10:00.000Z", "expires_in": 600},
    ),
    (ApiResponse({"any": [1]}, META), {"raw": {"any": [1]}, "meta": META_DATA}),
    (META, META_DATA),
    (
        OutboxStats(1, 2, 3, 4, 5, 6, 7, 8).with_spaces([SPACE]),
        {
            "accepted": 1,
            "delivered": 2,
            "pending": 3,
            "dead": 4,
            "missing": 5,
            "size": 6,
            "files": 7,
            "set_aside": 8,
            "oldest_age": 1.5,
            "last_delivery": None,
            "delivered_last_minute": 2,
            "last_error": "503",
            "paused": None,
            "paused_until": None,
            "spaces": [SPACE_DATA],
        },
    ),
    (EVENT, EVENT_DATA),
    (DeadLetter("t1", b'{"a":1}', "422"), {"transaction_id": "t1", "body": '{"a":1}', "reason": "422"}),
]

each_case = pytest.mark.parametrize(("value", "data"), CASES, ids=[type(value).__name__ for value, _ in CASES])


@each_case
def test_a_value_becomes_plain_data(value: Serializable, data: dict[str, JSONValue]) -> None:
    """The typed fields by our names, which json and dict() take; catches a moment or a tuple that json refuses."""
    assert value.to_dict() == dict(value) == json.loads(json.dumps(value.to_dict())) == data


@each_case
def test_pydantic_takes_a_value_and_writes_the_same_data(value: Serializable, data: dict[str, JSONValue]) -> None:
    """As a type and as a model's field, there and back; catches a class that pydantic can't describe."""
    kind = type(value)

    class Shop(BaseModel):
        value: kind  # type: ignore[valid-type]  # a class of the table

    adapter = TypeAdapter(kind)

    assert adapter.validate_python(value) is value
    assert json.loads(adapter.dump_json(value)) == adapter.dump_python(value) == data
    assert json.loads(Shop(value=value).model_dump_json()) == {"value": data}
    if kind is not DeadLetter:  # whose bytes read as text in JSON
        assert adapter.validate_json(adapter.dump_json(value)) == value
    for mode in ("validation", "serialization"):
        assert set(adapter.json_schema(mode=mode).get("properties", {})) == set(data)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"event": "e"}, "user_id"),
        ({"user_id": "u", "event": " "}, "event must not be blank"),
        ({"user_id": "u", "event": "e", "context": {"XP": 1}}, "context.XP is reserved"),
        ({"user_id": "u", "event": "e", "occurred_at": "yesterday"}, "occurred_at must be ISO 8601"),
    ],
)
def test_pydantic_refuses_an_event_by_the_rules_of_the_wire(fields: dict[str, object], words: str) -> None:
    """As a validation error, which a web framework answers; catches a handler that fails on what somebody sent."""
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Event).validate_json(json.dumps(fields))


def test_a_delivery_of_a_webhook_is_plain_data_too() -> None:
    """Without the raw body, which repeats it; catches a parsed delivery that no queue takes."""
    delivery = WebhookDelivery.parse(HEADERS, body())

    data = delivery.to_dict()

    assert json.loads(json.dumps(data)) == data
    assert sorted(data) == ["attempt", "created_at", "data", "delivery_id", "id", "type"]
    assert TypeAdapter(WebhookDelivery).validate_json(TypeAdapter(WebhookDelivery).dump_json(delivery)) == delivery


def test_the_data_is_a_copy() -> None:
    """Changing it changes no value; catches traits that a caller shares with the model."""
    tags = CUSTOMER.to_dict()["traits"]
    assert isinstance(tags, dict)

    tags["tags"] = None

    assert CUSTOMER.to_dict() == CUSTOMER_DATA


def test_the_models_load_no_pydantic() -> None:
    """Pydantic asks for a schema where it is; catches an extra that becomes a dependency."""
    program = (
        "import sys; sys.modules['pydantic'] = sys.modules['pydantic_core'] = None\n"
        "from perkamo import Customer; print(Customer('u').to_dict()['user_id'])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert (done.stdout, done.stderr) == ("u\n", "")
