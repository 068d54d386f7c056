"""What the tests of handling once share."""

from perkamo.webhooks import DeliveryLog, WebhookDelivery, deduplicate
from tests.webhooks.samples import HEADERS, body


def delivery(name: str = "dlv_1") -> WebhookDelivery:
    """A delivery with an id of its own."""
    return WebhookDelivery.parse({**HEADERS, "x-perkamo-delivery": name}, body())


def handle(log: DeliveryLog, name: str = "dlv_1") -> bool:
    """Handle a delivery; tell whether it was new."""
    with deduplicate(delivery(name), log) as is_new:
        return is_new
