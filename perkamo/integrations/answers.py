"""What an application answers over HTTP: errors of this library, tokens, deliveries. Without any framework."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from perkamo.errors import (
    PerkamoApiError,
    PerkamoConfigurationError,
    PerkamoConflictError,
    PerkamoError,
    PerkamoNotFoundError,
    PerkamoValidationError,
)
from perkamo.webhooks import PerkamoDeliveryLogError, PerkamoWebhookError

RETRY_AFTER_SECONDS: Final = 5
_LONGEST_WAIT: Final = 3600
NO_STORE: Final = {"cache-control": "no-store"}


@frozen
class Answer:
    """An answer in JSON.

    Attributes:
        status: The HTTP status.
        body: The members of the JSON object; a token may be among them.
        headers: Further headers.
    """

    status: int
    body: Mapping[str, object] = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict[str, str])

    def to_bytes(self) -> bytes:
        """Return the body as JSON."""
        return json.dumps(dict(self.body)).encode()


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that says what went wrong, and that no cache keeps.

    Args:
        status: The HTTP status.
        detail: A sentence for developers.
        headers: Further headers.
    """
    return Answer(status, {"detail": detail}, {**(headers or {}), **NO_STORE})


def error_answer(error: PerkamoError, logger: logging.Logger) -> Answer:
    """Return the answer to a caller whose request failed with this error, and log the error.

    422 for bad input, 404 and 409 as Perkamo answered them, 503 with Retry-After where the same call may succeed
    later (also for Perkamo's rate limit, which is not the caller's), 500 for a wrong set-up, 400 for what is not a
    webhook, 200 for a webhook that was handled but can't be remembered, and 502 for the rest. What Perkamo said is in
    the log only.

    Args:
        error: The error.
        logger: The framework's own logger.
    """
    status, detail = _meaning(error)
    headers = {"retry-after": str(_wait(error))} if status == 503 else {}
    logger.log(logging.INFO if 400 <= status < 500 else logging.ERROR, "answered %d: %s", status, error)
    return problem(status, detail, headers)


def _meaning(error: PerkamoError) -> tuple[int, str]:  # noqa: PLR0911 - a table that asks for classes
    if isinstance(error, PerkamoValidationError):
        return 422, f"The value for {error.field} can't be used."
    if isinstance(error, PerkamoWebhookError):
        return 400, "This is not a delivery of Perkamo's."
    if isinstance(error, PerkamoDeliveryLogError) and error.handled:
        return 200, "The delivery was handled."  # a repetition, which a failure asks for, would be handled again
    if isinstance(error, PerkamoNotFoundError):
        return 404, "Perkamo does not know this."
    if isinstance(error, PerkamoConflictError):
        return 409, "Perkamo has something else under this id."
    if isinstance(error, PerkamoConfigurationError):
        return 500, "The loyalty service is not set up."
    if error.retryable:
        return 503, "The loyalty service can't be reached now. Try again later."
    return 502, "The loyalty service did not do this."


def _wait(error: PerkamoError) -> int:
    seconds = error.retry_after_seconds if isinstance(error, PerkamoApiError) else None
    return RETRY_AFTER_SECONDS if seconds is None else min(max(1, math.ceil(seconds)), _LONGEST_WAIT)
