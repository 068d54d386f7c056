"""The delivery of the contract page."""

import json
from typing import Final

BODY: Final[dict[str, object]] = {
    "id": "evt_01J",
    "type": "purchase.completed",
    "created_at": "2026-06-01T10:00:00.000Z",
    "data": {
        "space": {"slug": "commerce-live", "name": "Commerce Live", "environment": "live"},
        "user_id": "bob@example.com",
        "transaction_id": "order_1092",
        "event": "purchase.completed",
        "status": "applied",
        "occurred_at": "2026-06-01T10:00:00.000Z",
        "context": {"amount": 12900, "currency": "CZK"},
        "delta": [{"wallet": "loyalty_points", "amount": 10}],
        "effects": [],
        "wallet_state": {"loyalty_points": 120},
    },
}
HEADERS: Final = {
    "user-agent": "Perkamo-Webhook/1.0",
    "x-perkamo-delivery": "dlv_1",
    "x-perkamo-event": "purchase.completed",
    "x-perkamo-space": "commerce-live",
    "x-perkamo-attempt": "2",
}


def body(**changes: object) -> bytes:
    """The body with other members; ``...`` leaves one out."""
    return json.dumps({name: value for name, value in {**BODY, **changes}.items() if value is not ...}).encode()


def data(**changes: object) -> bytes:
    """The body with other members of its data; ``...`` leaves one out."""
    inner = BODY["data"]
    assert isinstance(inner, dict)
    return body(data={name: value for name, value in {**inner, **changes}.items() if value is not ...})
