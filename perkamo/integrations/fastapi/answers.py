"""Errors of this library -> HTTP answers that tell the caller what to do and nothing of what Perkamo said."""

import logging
import math
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

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

_logger = logging.getLogger("perkamo.fastapi")


class Problem(BaseModel):
    """The body of an error answer."""

    detail: str = Field(description="What went wrong, in a sentence for developers.")


def perkamo_error_handler(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - the framework's signature
    """Answer a ``PerkamoError`` that a handler did not: for ``app.add_exception_handler(PerkamoError, …)``.

    422 for bad input, 404 and 409 as Perkamo answered them, 503 with Retry-After where the same call may succeed
    later (also for Perkamo's rate limit, which is not the caller's), 500 for a wrong set-up, 400 for what is not a
    webhook, 200 for a webhook that was handled but can't be remembered, and 502 for the rest. The error itself goes to
    the log ``perkamo.fastapi``.

    Args:
        request: The request.
        error: The error; one that is not a ``PerkamoError`` is raised again.
    """
    if not isinstance(error, PerkamoError):
        raise error
    return answer(error)


def answer(error: PerkamoError) -> JSONResponse:
    """Turn an error into an answer, and log it."""
    status, detail = _meaning(error)
    headers = dict(NO_STORE)
    if status == 503:
        headers["retry-after"] = str(_wait(error))
    _logger.log(logging.INFO if 400 <= status < 500 else logging.ERROR, "answered %d: %s", status, error)
    return JSONResponse(Problem(detail=detail).model_dump(), status, headers)


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
