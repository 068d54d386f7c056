"""A request that claims to be a delivery -> the delivery, or the answer that refuses it. Without any framework."""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final

from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.answers import Answer, problem
from perkamo.webhooks import MAX_WEBHOOK_BYTES, PerkamoWebhookError, WebhookDelivery, WebhookHeaders, secret_matches

WEBHOOK_HEADER: Final = "x-perkamo-secret"
"""The header that has to hold the secret, unless the application names another."""
TOO_LARGE: Final = problem(413, f"A webhook has at most {MAX_WEBHOOK_BYTES} bytes.")
STRANGER: Final = problem(404, "Not found.")


class Secret:
    """What a delivery has to bring with it, where no traceback shows it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: object) -> None:
        """Keep the secret.

        Raises:
            PerkamoConfigurationError: It is empty, which everybody would guess.
        """
        self._secret = str(secret)
        del secret
        secret_matches(self._secret, self._secret)  # refuses an empty one, and logs no stranger

    def matches(self, given: str | bytes | None) -> bool:
        """Return whether what came is the secret, in a time that tells nothing of how much is right."""
        return secret_matches(given, self._secret)

    def __repr__(self) -> str:
        return "<Secret ***>"


def refuse_coroutine(handle: Callable[[WebhookDelivery], object]) -> None:
    """Refuse a function that nobody would await, so that each delivery would count as handled and none would be.

    Raises:
        PerkamoConfigurationError: It is an ``async def``.
    """
    if iscoroutinefunction(handle) or iscoroutinefunction(type(handle).__call__):
        raise PerkamoConfigurationError(
            "The function that handles deliveries is an async def, which this view can't await: give it a def."
        )


def read_delivery(
    headers: WebhookHeaders, body: bytes | bytearray, *, secret: Secret | None, given: str | bytes | None
) -> WebhookDelivery | Answer:
    """Read a delivery of somebody who knows the secret.

    Args:
        headers: The request's headers.
        body: Its body, of which no more needs to be read than one byte above ``MAX_WEBHOOK_BYTES``.
        secret: The secret.
        given: What came in its place.

    Returns:
        The delivery, or an answer: 404 without the secret, 413 for too much, 400 for what is not a delivery.

    Raises:
        PerkamoConfigurationError: The application has no secret.
    """
    if secret is None:
        raise PerkamoConfigurationError(
            "There is no secret for webhooks, and deliveries are unsigned: set PERKAMO_WEBHOOK_SECRET, or "
            "WEBHOOK_SECRET in the application's settings, to a long random one, and let Perkamo send it in a header "
            "or in the address. Nothing was handled."
        )
    return parse_delivery(headers, body) if secret.matches(given) else STRANGER


def parse_delivery(headers: WebhookHeaders, body: bytes | bytearray) -> WebhookDelivery | Answer:
    """Read a delivery of anybody; see ``read_delivery``."""
    if len(body) > MAX_WEBHOOK_BYTES:
        return TOO_LARGE
    try:
        return WebhookDelivery.parse(headers, body)
    except PerkamoWebhookError as error:
        return problem(400, str(error))
