"""Errors of this library -> HTTP answers that tell the caller what to do and nothing of what Perkamo said."""

import logging
from typing import Final

from fastapi import Request, Response
from pydantic import BaseModel, Field

from perkamo.errors import PerkamoError
from perkamo.integrations.answers import Answer, error_answer

_LOGGER: Final = logging.getLogger("perkamo.fastapi")


class Problem(BaseModel):
    """The body of an error answer."""

    detail: str = Field(description="What went wrong, in a sentence for developers.")


def perkamo_error_handler(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the framework's signature
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
    return respond_to_error(error)


def respond(answer: Answer) -> Response:
    """Turn an answer into a response of FastAPI's."""
    return Response(answer.to_bytes(), answer.status, answer.headers, "application/json")


def respond_to_error(error: PerkamoError) -> Response:
    """Turn an error into a response, and log it."""
    return respond(error_answer(error, _LOGGER))
