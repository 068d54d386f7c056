"""A shop of Flask's, as a user of the library would write it: ``tests.integrations.flask_shop:create_app()``."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime

from flask import Flask, Response, jsonify, render_template_string, request

from perkamo import Event
from perkamo.integrations.flask import Perkamo
from perkamo.webhooks import MemoryDeliveryLog, WebhookDelivery

perkamo = Perkamo()
handled: list[str] = []


def connect() -> sqlite3.Connection:
    """Open the shop's database."""
    return sqlite3.connect(os.environ["SHOP_DATABASE"], timeout=20, isolation_level=None)


def save(order_id: str, amount: int) -> Event:
    """Save an order, once, and say what it means, in the same bytes each time."""
    now = datetime.now(UTC).isoformat()
    with closing(connect()) as database:
        database.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?)", (order_id, amount, now))
        amount, paid_at = database.execute("SELECT amount, paid_at FROM orders WHERE id = ?", (order_id,)).fetchone()
    return Event("customer_123", "purchase.completed", order_id, {"order": order_id, "amount": amount}, paid_at)


def paid(order_id: str) -> Response:
    """Take a purchase; the event waits on the disk until Perkamo has it."""
    perkamo.outbox.put(save(order_id, int(request.args["amount"])))
    return jsonify(accepted=True)


def paid_without_outbox(order_id: str) -> Response:
    """Take a purchase, and send the event at once."""
    return jsonify(accepted=perkamo.client.emit_event(save(order_id, int(request.args["amount"]))).accepted)


def page() -> str:
    """Show a page that loads the browser SDK."""
    return render_template_string("<head>{{ tags }}</head>", tags=perkamo.script_tags(nonce="n0nce"))


def on_delivery(delivery: WebhookDelivery) -> None:
    """Take a webhook as a hint, and read the truth."""
    perkamo.client.customer(delivery.data.user_id)
    handled.append(delivery.delivery_id)


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Make the application."""
    app = Flask(__name__)
    app.config.from_mapping({"PERKAMO_WEBHOOK_SECRET": "sésame-123456"}, **(config or {}))
    perkamo.init_app(app)
    app.add_url_rule("/orders/<order_id>/paid", view_func=paid, methods=["POST"])
    app.add_url_rule("/orders/<order_id>/paid-without-outbox", view_func=paid_without_outbox, methods=["POST"])
    app.add_url_rule("/page", view_func=page)
    hook = perkamo.webhook(on_delivery, MemoryDeliveryLog())
    app.add_url_rule("/hooks/perkamo", view_func=hook, methods=["POST"])
    app.add_url_rule("/hooks/<secret>/perkamo", view_func=hook, methods=["POST"])
    app.register_blueprint(perkamo.browser_blueprint(lambda: request.headers.get("x-user")))
    with closing(connect()) as database:
        database.execute("CREATE TABLE IF NOT EXISTS orders(id TEXT PRIMARY KEY, amount INTEGER, paid_at TEXT)")
    return app
