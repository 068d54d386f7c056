"""A sandbox as full as after a load test: for the tests and benchmarks of its page."""

from perkamo.sandbox import Sandbox
from perkamo.sandbox.messages import Json


def fill(sandbox: Sandbox) -> None:
    """Apply 100,000 events of 10,000 customers, by the way that takes no HTTP."""
    with sandbox._lock:
        for number in range(100_000):
            user_id = f"customer_{number % 10_000:05}"
            item: dict[str, Json] = {"user_id": user_id, "event": "review.created", "transaction_id": f"t{number}"}
            item["context"] = {"n": number, "of": "the crowd"}
            sandbox._space._apply(item, "")
