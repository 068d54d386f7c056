"""A sandbox as full as after a load test: for the tests and benchmarks of its page."""

from perkamo.sandbox import Sandbox
from perkamo.sandbox.messages import Json


def fill(sandbox: Sandbox, events: int = 100_000) -> None:
    """Apply events, ten of each customer, by the way that takes no HTTP."""
    with sandbox._lock:
        for number in range(events):
            user_id = f"customer_{number % (events // 10):05}"
            item: dict[str, Json] = {"user_id": user_id, "event": "review.created", "transaction_id": f"t{number}"}
            item["context"] = {"n": number, "of": "the crowd"}
            sandbox._space._apply(item, "")
