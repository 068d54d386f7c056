"""Every error this library raises, under one root.

Each says what happened, whether anything was sent, and what to do next; the facts are in attributes as well as in the
text. No message or repr holds a key, a token or a customer's data: what the service answered is in
``PerkamoApiError.body`` only.

Pickling and copying keep everything. Each can also be made from its message alone, because Celery's JSON results and
others keep no more of an exception than its ``args``; what the message does not tell is unknown then.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal, TypeAlias

from attrs import frozen

WriteOutcome: TypeAlias = Literal["not_sent", "rejected", "unknown"]
"""The outcome of a write.

It never left, the service refused it, or nobody can tell (sending the same transaction id again is safe).
"""

ErrorBody: TypeAlias = "bool | int | float | str | Sequence[ErrorBody] | Mapping[str, ErrorBody] | None"
"""What an error answer may hold: parsed JSON, or the text where it was not JSON."""


@frozen
class RateLimit:
    """The rate limit as the service or its gateway stated it (published header names).

    Attributes:
        limit: Requests allowed in the window, or None when not stated as a number.
        remaining: Requests left in the window, or None when not stated as a number.
        reset: When the window ends, as the raw header text, or None.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: str | None = None


class PerkamoError(Exception):
    """The root of all errors of this library.

    Attributes:
        outcome: After a write: ``"not_sent"``, ``"rejected"`` or ``"unknown"``; None where no write was asked for.
        retryable: Whether the same call may succeed when it is made again later. Always with the same transaction id.
        attempts: How many requests were made for the call.
    """

    outcome: WriteOutcome | None
    retryable: bool
    attempts: int

    def __init__(
        self, message: str, *, outcome: WriteOutcome | None = None, retryable: bool = False, attempts: int = 0
    ) -> None:
        """Describe what happened, whether anything was sent, and what to do next."""
        super().__init__(message)
        self.outcome = outcome
        self.retryable = retryable
        self.attempts = attempts

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy by state: the constructors take keywords that ``args`` does not hold."""
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(cls: type[PerkamoError], args: tuple[object, ...], state: dict[str, object]) -> PerkamoError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PerkamoConfigurationError(PerkamoError):
    """The client was set up in a way that cannot work: no key, a bad base URL, a limit out of range.

    Nothing was sent.
    """


class PerkamoClosedError(PerkamoError):
    """The client was used after it was closed. Nothing was sent."""


class PerkamoValidationError(PerkamoError, ValueError):
    """The input would be refused or misunderstood by the service. Nothing was sent.

    Attributes:
        field: The argument at fault, such as ``"context"``.
        path: Where in it the offending value is, such as ``"context.items[2].price"``.
    """

    field: str
    path: str

    def __init__(self, message: str, *, field: str = "", path: str | None = None) -> None:
        """Name the field and the path of the offending value, never the value."""
        super().__init__(message, outcome="not_sent")
        self.field = field
        self.path = field if path is None else path


class PerkamoConnectionError(PerkamoError):
    """No complete answer came: the connection could not be made or broke.

    ``outcome`` says whether anything may have been applied.
    """


class PerkamoTimeoutError(PerkamoConnectionError, TimeoutError):
    """The time for an attempt or for the whole call ran out.

    ``outcome`` says whether anything may have been applied.
    """


class PerkamoResponseError(PerkamoError):
    """The answer cannot be trusted: it is not JSON, too large, or a known field has the wrong type.

    After a write the event may have been applied; sending the same transaction id again is safe.

    Attributes:
        status: The HTTP status of the answer; 0 where it is unknown.
        request_id: The request id of the answer, or None.
    """

    status: int
    request_id: str | None

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        request_id: str | None = None,
        outcome: WriteOutcome | None = None,
        attempts: int = 0,
    ) -> None:
        """Describe the answer by its shape, never by its content."""
        super().__init__(message, outcome=outcome, retryable=True, attempts=attempts)
        self.status = status
        self.request_id = request_id


class PerkamoApiError(PerkamoError):
    """The service answered with a status other than 2xx (published).

    Attributes:
        status: The HTTP status; 0 where it is unknown.
        body: The answer's body: parsed JSON, its text where it was not JSON, None where it was empty. It may hold
            personal data.
        request_id: The request id to quote to Perkamo's support, or None.
        retry_after: The raw ``retry-after`` header, or None.
        retry_after_seconds: The same in seconds from the moment of the answer; None when absent or not understood.
        rate_limit: The rate limit as the answer stated it.
    """

    _STATUS: ClassVar[int] = 0

    status: int
    body: ErrorBody
    request_id: str | None
    retry_after: str | None
    retry_after_seconds: float | None
    rate_limit: RateLimit

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: ErrorBody = None,
        request_id: str | None = None,
        retry_after: str | None = None,
        retry_after_seconds: float | None = None,
        rate_limit: RateLimit | None = None,
        outcome: WriteOutcome | None = None,
        retryable: bool = False,
        attempts: int = 1,
    ) -> None:
        """Keep everything that the answer said; the message holds only what may be logged."""
        super().__init__(message, outcome=outcome, retryable=retryable, attempts=attempts)
        self.status = self._STATUS if status is None else status
        self.body = body
        self.request_id = request_id
        self.retry_after = retry_after
        self.retry_after_seconds = retry_after_seconds
        self.rate_limit = rate_limit if rate_limit is not None else RateLimit()


class PerkamoAuthenticationError(PerkamoApiError):
    """401: the key or the signature was not accepted, or this machine's clock is wrong."""

    _STATUS = 401


class PerkamoPermissionError(PerkamoApiError):
    """403: the key may not do this."""

    _STATUS = 403


class PerkamoNotFoundError(PerkamoApiError):
    """404: it does not exist in this Space."""

    _STATUS = 404


class PerkamoConflictError(PerkamoApiError):
    """409: the request is in conflict with what the service holds.

    It is not retried unless the answer says when (meaning unpublished).
    """

    _STATUS = 409


class PerkamoRateLimitError(PerkamoApiError):
    """429: too many requests; ``retry_after_seconds`` says how long to wait, where the answer said so."""

    _STATUS = 429


class PerkamoServerError(PerkamoApiError):
    """5xx: the service or its gateway failed. After a write the event may have been applied."""


class PerkamoRedirectError(PerkamoApiError):
    """3xx: the answer was a redirect, which is never followed, because the key must not travel to another place.

    Attributes:
        location_host: The host that the redirect named, or None when it named none.
    """

    location_host: str | None = None


class PerkamoEventError(PerkamoError):
    """The service answered a batch, and did not accept this one event of it; the others are not concerned.

    ``outcome`` is ``"rejected"`` where the service gave a reason for which the same event will be refused again, else
    ``"unknown"``: then sending it again with the same transaction id is safe and may work.

    Attributes:
        code: The service's own code for the reason, such as ``"invalid_event"``, or None (assumed: the shape of a
            failed item is unpublished).
        accepted: The service said that the event counts, but the rest of its result can't be read.
        request_id: The request id of the batch's answer, or None.
    """

    code: str | None
    accepted: bool
    request_id: str | None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        accepted: bool = False,
        request_id: str | None = None,
        outcome: WriteOutcome = "unknown",
        attempts: int = 1,
    ) -> None:
        """Say why in the service's words, cleaned of ids and keys."""
        retryable = outcome == "unknown" and not accepted
        super().__init__(message, outcome=outcome, retryable=retryable, attempts=attempts)
        self.code = code
        self.accepted = accepted
        self.request_id = request_id


class PerkamoStreamError(PerkamoError):
    """The customer stream ended in a way that reconnecting does not repair.

    Attributes:
        status: The HTTP status of the answer that ended it, or None.
    """

    status: int | None

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = False, attempts: int = 0) -> None:
        """Name the rule that the stream broke, never its content."""
        super().__init__(message, retryable=retryable, attempts=attempts)
        self.status = status


class PerkamoAsyncUsageWarning(UserWarning):
    """The sync client was called inside a running event loop, which is blocked until the call is done.

    The message shows the line to write.
    """


API_ERRORS: Final[Mapping[int, type[PerkamoApiError]]] = {
    401: PerkamoAuthenticationError,
    403: PerkamoPermissionError,
    404: PerkamoNotFoundError,
    409: PerkamoConflictError,
    429: PerkamoRateLimitError,
}


def api_error_class(status: int) -> type[PerkamoApiError]:
    """Return the class of error that a status other than 2xx raises."""
    if 300 <= status < 400:
        return PerkamoRedirectError
    if status >= 500:
        return PerkamoServerError
    return API_ERRORS.get(status, PerkamoApiError)
