"""The errors that end a stream: what each says, and what to do next."""

from typing import Final

from perkamo.errors import PerkamoError, PerkamoStreamError

TOKEN_STATUSES: Final = frozenset({401, 403})
"""The statuses by which the service refuses a stream token."""


def gave_up(label: str, last: PerkamoError, attempts: int) -> PerkamoStreamError:
    """Make the error of a stream that failed too often in a row.

    Args:
        label: The request's label, without ids.
        last: The error of the last attempt.
        attempts: The number of attempts.
    """
    return PerkamoStreamError(
        f"{label}: gave up after {attempts} attempts in a row without an update. The last one: {last}",
        status=status_of(last),
        retryable=True,
        attempts=attempts,
    )


def failed_permanently(label: str, error: PerkamoError, *, attempts: int, renewed: bool) -> PerkamoStreamError:
    """Make the error of a stream that another attempt would not repair.

    Args:
        label: The request's label, without ids.
        error: The error of the attempt.
        attempts: The number of attempts.
        renewed: Whether a fresh token was refused as well.
    """
    status = status_of(error)
    what = f"{error} The stream is closed."
    if status in TOKEN_STATUSES:
        fresh = ", a fresh one too" if renewed else ""
        what = f"{label}: {status}, the stream token was refused{fresh}. Get it with create_stream_token."
    return PerkamoStreamError(what, status=status, attempts=attempts)


def not_a_customer(label: str, reason: str) -> PerkamoStreamError:
    """Make the error of an event whose data is not a valid customer.

    Args:
        label: The request's label, without ids.
        reason: What is wrong with the data, without showing it.
    """
    return PerkamoStreamError(
        f"{label}: the data of an event {reason}, so it is not a customer. The stream is closed; "
        "subscribe with bad_data='skip' to skip such events."
    )


def status_of(error: PerkamoError) -> int | None:
    """Return the HTTP status of an error, if it has one."""
    status: object = getattr(error, "status", None)
    return status if isinstance(status, int) else None
