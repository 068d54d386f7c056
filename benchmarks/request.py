"""The one request that everybody makes: the same bytes and headers, by our client and by bare ones."""

import time
from collections.abc import Sequence
from typing import Final

from perkamo import Context, Event
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

API_KEY: Final = "sk_test_benchmark"
PATH: Final = "/v1/events"
USER: Final = "customer_123"
NAME: Final = "purchase.completed"
CONTEXT: Final[Context] = {"order_id": "order_1092", "amount": 12900, "currency": "CZK"}
TRANSACTION: Final = "order_1092"

EVENT: Final = Event(USER, NAME, TRANSACTION, CONTEXT)
BODY: Final = EVENT.to_bytes()


def events(count: int) -> list[Event]:
    """Return so many events under different transaction ids."""
    return [Event(USER, NAME, f"order_{number}", CONTEXT) for number in range(count)]


def batch_body(events_of_batch: Sequence[Event]) -> bytes:
    """Return the bytes of a batch, prepared."""
    return b'{"events":[' + b",".join(event.to_bytes() for event in events_of_batch) + b"]}"


def headers(path: str, body: bytes) -> dict[str, str]:
    """Return the headers of the signed request, prepared."""
    timestamp = str(int(time.time()))
    return {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "benchmark",
        API_KEY_HEADER: API_KEY,
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(API_KEY, timestamp, "POST", path, body),
    }
