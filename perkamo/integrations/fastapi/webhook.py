"""Webhooks as a handler's parameter."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, TypeAlias

from fastapi import Depends, HTTPException, Request

from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.answers import Answer
from perkamo.integrations.webhooks import Secret, parse_delivery
from perkamo.webhooks import MAX_WEBHOOK_BYTES, WebhookDelivery


async def receive_webhook(request: Request) -> WebhookDelivery:
    """Read a delivery: the dependency behind ``PerkamoWebhook``. **It is unsigned**; see ``perkamo.webhooks``.

    Of a body that is too large no more is read than it takes to see that.

    Raises:
        HTTPException: 413 for more than 256 KiB, 400 for what is not a delivery.
    """
    body = bytearray()
    async with aclosing(request.stream()) as chunks:  # trio wants a generator ended that is left early
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_WEBHOOK_BYTES:
                break
    delivery = parse_delivery(request.headers, body)
    if isinstance(delivery, Answer):
        raise HTTPException(delivery.status, delivery.body["detail"])
    return delivery


PerkamoWebhook: TypeAlias = Annotated[WebhookDelivery, Depends(receive_webhook)]
"""The type of a handler's parameter that is to be the delivery."""


def secret_webhook(
    secret: str, *, header: str | None = None, path_parameter: str | None = None
) -> Callable[[Request], Awaitable[WebhookDelivery]]:
    """Return a dependency like ``receive_webhook`` for those only who know a secret; all others get 404.

    Args:
        secret: A long random one, such as from ``secrets.token_urlsafe()``.
        header: The header that has to hold it.
        path_parameter: Or else the parameter of the route's path, such as ``secret`` in ``/hooks/{secret}``. Mind that
            servers and proxies log paths.

    Raises:
        PerkamoConfigurationError: The secret is empty, or neither or both of the places are given.
    """
    hidden = Secret(secret)
    del secret  # the error below is a programmer's, but its frame may be reported, too
    if (header is None) == (path_parameter is None):
        raise PerkamoConfigurationError("Give header or path_parameter: the one place where the secret is.")

    async def receive(request: Request) -> WebhookDelivery:
        if not hidden.matches(_given(request, header, path_parameter)):
            raise HTTPException(404)
        return await receive_webhook(request)

    return receive


def _given(request: Request, header: str | None, path_parameter: str | None) -> str | bytes | None:
    if header is not None:
        text = request.headers.get(header)
        return None if text is None else text.encode("latin-1")  # the bytes that came
    found: object = request.path_params.get(path_parameter or "")
    return found if isinstance(found, str) else None
