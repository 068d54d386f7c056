"""Webhooks: deliveries of Perkamo to an application's own server, parsed, checked and handled once.

**Deliveries are unsigned in their first version (published): anybody who knows the address can post one.** Treat a
delivery as a hint that something happened. Keep the address secret (``secret_matches``), and read the customer with
``client.customer(delivery.data.user_id)`` before you do anything of value.

Deliveries are repeated until they are answered with a 2xx within 5 seconds (published): ``deduplicate`` runs a handler
once for each delivery id.
"""

from perkamo.webhooks.delivery import (
    MAX_WEBHOOK_BYTES,
    PerkamoWebhookError,
    WebhookData,
    WebhookDelivery,
    WebhookHeaders,
    WebhookSpace,
    secret_matches,
)
from perkamo.webhooks.logs import Claim, DeliveryLog, MemoryDeliveryLog, PerkamoDeliveryLogError, SqliteDeliveryLog
from perkamo.webhooks.once import PerkamoDeliveryBusyError, deduplicate
from perkamo.webhooks.postgres_log import PostgresDeliveryLog

__all__ = [
    "MAX_WEBHOOK_BYTES",
    "Claim",
    "DeliveryLog",
    "MemoryDeliveryLog",
    "PerkamoDeliveryBusyError",
    "PerkamoDeliveryLogError",
    "PerkamoWebhookError",
    "PostgresDeliveryLog",
    "SqliteDeliveryLog",
    "WebhookData",
    "WebhookDelivery",
    "WebhookHeaders",
    "WebhookSpace",
    "deduplicate",
    "secret_matches",
]
