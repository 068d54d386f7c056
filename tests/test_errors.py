"""errors: one hierarchy, that survives pickling and copying."""

import copy
import json
import pickle
from collections.abc import Callable, Iterator

import pytest

import perkamo
from perkamo import PerkamoOutboxError
from perkamo.errors import (
    API_ERRORS,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoNotFoundError,
    PerkamoPermissionError,
    PerkamoRateLimitError,
    PerkamoRedirectError,
    PerkamoResponseError,
    PerkamoServerError,
    PerkamoStreamError,
    PerkamoTimeoutError,
    PerkamoValidationError,
    RateLimit,
    api_error_class,
)
from perkamo.webhooks import PerkamoWebhookError

MADE: list[PerkamoError] = [
    PerkamoError("a", outcome="unknown", retryable=True, attempts=3),
    PerkamoValidationError("b", field="context", path="context.a"),
    PerkamoConnectionError("c", outcome="not_sent"),
    PerkamoTimeoutError("d", outcome="unknown"),
    PerkamoResponseError("e", status=200, request_id="req_1", outcome="unknown", attempts=2),
    PerkamoRateLimitError(
        "f",
        status=429,
        body={"message": "m"},
        retry_after="7",
        retry_after_seconds=7.0,
        rate_limit=RateLimit(10, 0, "9"),
    ),
    PerkamoStreamError("g", status=410),
]


@pytest.mark.parametrize("error", MADE, ids=[type(error).__name__ for error in MADE])
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_an_error_survives_pickling_and_copying(error: PerkamoError, way: str) -> None:
    """Type, text and every attribute come through; catches a constructor with keywords and no reduce."""
    ways: dict[str, Callable[[PerkamoError], PerkamoError]] = {
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }
    again = ways[way](error)

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


def all_errors(root: type[PerkamoError] = PerkamoError) -> Iterator[type[PerkamoError]]:
    """Walk the hierarchy, with the errors of every package of ours."""
    for name in perkamo.__all__:
        getattr(perkamo, name)
    yield root
    for below in root.__subclasses__():
        yield from all_errors(below)


def test_every_error_can_be_made_from_its_message() -> None:
    """Celery's JSON results and others rebuild an exception from its args; catches a keyword that is asked for."""
    kinds = set(all_errors())
    assert {PerkamoWebhookError, PerkamoOutboxError, PerkamoRateLimitError} <= kinds
    for kind in kinds:
        error = kind("message")
        args = json.loads(json.dumps(error.args))

        again = kind(*args)

        assert (str(again), type(again)) == ("message", kind)
        assert again.__dict__ == error.__dict__
        assert str(pickle.loads(pickle.dumps(again))) == "message"


def test_an_error_of_one_status_has_it_also_when_made_from_its_message() -> None:
    """Where the class tells the status, it is known; else it is 0; catches an attribute that is missing."""
    for status, kind in API_ERRORS.items():
        assert kind("m").status == status
    assert (PerkamoApiError("m").status, PerkamoServerError("m").status) == (0, 0)
    assert PerkamoResponseError("m").status == 0
    assert (PerkamoValidationError("m").field, PerkamoValidationError("m").path) == ("", "")


def test_every_public_error_stands_under_the_root() -> None:
    """One except clause catches all; catches an error outside the hierarchy."""
    public = [getattr(perkamo, name) for name in perkamo.__all__ if name.endswith("Error")]

    assert len(public) >= 15
    assert all(issubclass(one, PerkamoError) for one in public)


def test_errors_fit_into_what_python_code_expects() -> None:
    """Bad input is a ValueError and a timeout a TimeoutError; catches a lost base class."""
    assert issubclass(PerkamoValidationError, ValueError)
    assert issubclass(PerkamoTimeoutError, TimeoutError)
    assert issubclass(PerkamoTimeoutError, PerkamoConnectionError)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, PerkamoRedirectError),
        (400, PerkamoApiError),
        (401, PerkamoAuthenticationError),
        (403, PerkamoPermissionError),
        (404, PerkamoNotFoundError),
        (409, PerkamoConflictError),
        (422, PerkamoApiError),
        (429, PerkamoRateLimitError),
        (500, PerkamoServerError),
        (599, PerkamoServerError),
    ],
)
def test_a_status_has_its_class(status: int, expected: type[PerkamoApiError]) -> None:
    """Each status of the table has exactly its class; catches a row that is missing."""
    assert api_error_class(status) is expected
