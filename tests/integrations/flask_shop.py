"""A shop of Flask's, as a user of the library would write it: ``tests.integrations.flask_shop:create_app()``."""

from collections.abc import Mapping

from flask import Flask, Response, jsonify, render_template_string, request

from perkamo.integrations.flask import Perkamo
from perkamo.webhooks import MemoryDeliveryLog, WebhookDelivery
from tests.integrations import orders

perkamo = Perkamo()
handled: list[str] = []


def paid(order_id: str) -> Response:
    """Take a purchase; the event waits on the disk until Perkamo has it."""
    perkamo.outbox.put(orders.save(order_id, int(request.args["amount"])))
    return jsonify(accepted=True)


def paid_without_outbox(order_id: str) -> Response:
    """Take a purchase, and send the event at once."""
    return jsonify(accepted=perkamo.client.emit_event(orders.save(order_id, int(request.args["amount"]))).accepted)


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
    orders.create_table()
    return app
