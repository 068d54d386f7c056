"""Errors of this library -> answers of Django's."""

import logging
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

from perkamo.errors import PerkamoError
from perkamo.integrations.answers import Answer, error_answer

_LOGGER: Final = logging.getLogger("perkamo.django")


class PerkamoMiddleware(MiddlewareMixin):
    """Answers a ``PerkamoError`` that a view did not, in JSON; for ``MIDDLEWARE``, sync and async.

    422 for bad input, 404 and 409 as Perkamo answered them, 503 with Retry-After where the same call may succeed later,
    500 for a wrong set-up, else 502. The error itself goes to the log ``perkamo.django``.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:  # noqa: ARG002
        """Answer, or leave the error to others. Django calls this.

        Args:
            request: The request.
            exception: What the view raised.
        """
        return respond_to_error(exception) if isinstance(exception, PerkamoError) else None


def respond(answer: Answer) -> HttpResponse:
    """Turn an answer into a response of Django's."""
    return HttpResponse(answer.to_bytes(), "application/json", answer.status, headers=dict(answer.headers))


def respond_to_error(error: PerkamoError) -> HttpResponse:
    """Turn an error into a response, and log it."""
    return respond(error_answer(error, _LOGGER))
