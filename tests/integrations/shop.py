"""A shop as a user of the library would write it: run by uvicorn as ``tests.integrations.shop:app``."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header

from perkamo import AsyncPerkamoClient, PerkamoError, RetryPolicy
from perkamo.integrations.fastapi import (
    PerkamoDep,
    PerkamoWebhook,
    browser_token_router,
    perkamo_error_handler,
    perkamo_lifespan,
    secret_webhook,
)
from perkamo.webhooks import WebhookDelivery, deduplicate

SECRET = "sésame-123456"


def make_client() -> AsyncPerkamoClient:
    """Make the process's client, which waits for nothing between attempts."""
    return AsyncPerkamoClient(retry=RetryPolicy(base_delay=0.001, max_delay=0.002))


def logged_in(x_user: Annotated[str | None, Header()] = None) -> str | None:
    """Stand in for the application's session."""
    return x_user


app = FastAPI(lifespan=perkamo_lifespan(make_client))
app.add_exception_handler(PerkamoError, perkamo_error_handler)
app.include_router(
    browser_token_router(browser_key=os.environ.get("PERKAMO_BROWSER_KEY", "pk_test"), get_user_id=logged_in)
)
handled: list[str] = []


@app.post("/orders/{order_id}/paid")
async def paid(order_id: str, amount: int, perkamo: PerkamoDep) -> dict[str, object]:
    """Take a purchase; the order's id makes it safe to ask again."""
    result = await perkamo.emit("customer_123", "purchase.completed", {"amount": amount}, transaction_id=order_id)
    return {"accepted": result.accepted, "process": os.getpid()}


@app.post("/hooks/perkamo")
async def hook(delivery: PerkamoWebhook, perkamo: PerkamoDep) -> dict[str, object]:
    """Take a webhook as a hint, once, and read the truth."""
    async with deduplicate(delivery) as is_new:
        if is_new:
            await perkamo.customer(delivery.data.user_id)
            handled.append(delivery.delivery_id)
    return {"new": is_new}


@app.post("/hooks/header")
async def by_header(delivery: Annotated[WebhookDelivery, Depends(secret_webhook(SECRET, header="x-secret"))]) -> str:
    """Take a webhook of those who know the header."""
    return delivery.delivery_id


@app.post("/hooks/path/{secret}")
async def by_path(
    delivery: Annotated[WebhookDelivery, Depends(secret_webhook(SECRET, path_parameter="secret"))],
) -> str:
    """Take a webhook of those who know the path."""
    return delivery.delivery_id
