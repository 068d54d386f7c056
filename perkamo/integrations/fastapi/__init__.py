"""FastAPI: one client for each process, a dependency, routes for browser tokens, errors as answers, webhooks.

    app = FastAPI(lifespan=perkamo_lifespan())
    app.add_exception_handler(PerkamoError, perkamo_error_handler)

    @app.post("/orders/{order_id}/paid")
    async def paid(order_id: str, perkamo: PerkamoDep) -> dict[str, bool]:
        result = await perkamo.emit("customer_123", "purchase.completed", transaction_id=order_id)
        return {"accepted": result.accepted}

Needs the extra: ``pip install "perkamo[fastapi]"``.
"""

from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ModuleNotFoundError(
        'perkamo.integrations.fastapi needs FastAPI: pip install "perkamo[fastapi]"', name="fastapi"
    )

from perkamo.integrations.fastapi.answers import Problem, perkamo_error_handler
from perkamo.integrations.fastapi.client import PerkamoDep, get_perkamo, perkamo_lifespan
from perkamo.integrations.fastapi.outbox import PerkamoOutbox, perkamo_outbox
from perkamo.integrations.fastapi.tokens import BrowserConfig, BrowserTokenRouter, IssuedToken, browser_token_router
from perkamo.integrations.fastapi.webhook import PerkamoWebhook, receive_webhook, secret_webhook

__all__ = [
    "BrowserConfig",
    "BrowserTokenRouter",
    "IssuedToken",
    "PerkamoDep",
    "PerkamoOutbox",
    "PerkamoWebhook",
    "Problem",
    "browser_token_router",
    "get_perkamo",
    "perkamo_error_handler",
    "perkamo_lifespan",
    "perkamo_outbox",
    "receive_webhook",
    "secret_webhook",
]
