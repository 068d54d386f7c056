"""What the shops of Flask and Django answer alike."""

import json
from collections.abc import Callable
from typing import Final

from perkamo.sandbox import Sandbox, Status
from tests.webhooks.samples import HEADERS, body

SECRET: Final = {"x-perkamo-secret": "sésame-123456".encode().decode("latin-1")}
DELIVERY: Final = {**HEADERS, **SECRET}
DELIVERIES: Final = (
    ("/hooks/perkamo", HEADERS, body(), 404),
    ("/hooks/perkamo", {**HEADERS, "x-perkamo-secret": "wrong"}, body(), 404),
    ("/hooks/wrong/perkamo", DELIVERY, body(), 404),
    ("/hooks/s%C3%A9same-123456/perkamo", HEADERS, body(), 200),
    ("/hooks/perkamo", DELIVERY, b"{}", 400),
    ("/hooks/perkamo", SECRET, body(), 400),
    ("/hooks/perkamo", DELIVERY, b" " * (256 * 1024 + 1), 413),
)
"""What is posted where, with which headers, and the status that answers it."""


def check_outage(buy: Callable[[str], tuple[int, str, str]], sandbox: Sandbox) -> None:
    """While Perkamo is down, a view that did not catch the error is 503 with Retry-After, and says nothing about it.

    Args:
        buy: Posts to a path; returns status, Retry-After and body of the answer.
        sandbox: What stands in for Perkamo.
    """
    sandbox.faults.next("POST /v1/events", Status(503, headers={"retry-after": "0"}, body="secret"), times=3)

    status, retry_after, text = buy("/orders/order_1/paid-without-outbox?amount=1")

    assert (status, retry_after) == (503, "1")
    assert "secret" not in text


def embedded_config(html: str) -> dict[str, str]:
    """Return the configuration that a page gives to the browser SDK."""
    config: dict[str, str] = json.loads(html.partition("})(")[2].partition(");\n</script>")[0])
    return config
