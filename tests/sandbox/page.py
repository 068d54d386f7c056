"""What the tests of the page share: arming a fault as the page does, and reading what the page is sent."""

import json

from tests.sandbox.wire import Sender

EVENTS = "POST /v1/events"
JSON = {"content-type": "application/json"}
ORDER = {"route": EVENTS, "kind": "status", "value": 503}


def arm(wire: Sender, order: object, **headers: str) -> tuple[int, dict[str, object]]:
    """Send an order for a fault as the page does."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = wire.send("POST", "/_sandbox/faults", json.dumps(order).encode(), {**JSON, **names})
    return answer.status, dict(answer.json)


def rows(update: dict[str, object], name: str) -> list[dict[str, object]]:
    """The list of objects under a name."""
    found = update[name]
    assert isinstance(found, list)
    return found
