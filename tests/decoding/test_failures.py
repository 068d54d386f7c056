"""failures: what an item of a batch says in place of a result, in any usual shape."""

import pytest

from perkamo import EventFailure, JSONValue, ResponseMeta
from perkamo.decoding.failures import read_failure, words_of
from perkamo.redaction import Secrets

META = ResponseMeta(request_id="req_1")

REASONS: list[tuple[JSONValue, str | None, str, str]] = [
    ({"error": {"code": "invalid_event", "message": "no"}}, "invalid_event", "no", "rejected"),
    ({"error": {"message": "context.xp is reserved."}}, None, "context.xp is reserved", "rejected"),
    ({"error": "invalid_event", "message": "no"}, "invalid_event", "no", "rejected"),
    ({"error": "unknown event", "status": "rejected"}, "rejected", "unknown event", "rejected"),
    ({"error": "invalid_event"}, "invalid_event", "invalid_event", "rejected"),
    ({"errors": [{"code": "too_long", "detail": "user_id"}]}, "too_long", "user_id", "rejected"),
    ({"errors": ["user_id is too long"]}, None, "user_id is too long", "rejected"),
    ({"type": "about:blank", "title": "Bad", "status": 422}, "about:blank", "Bad", "rejected"),
    ({"status": 404}, None, "status 404", "rejected"),
    ({"code": 400, "message": "no"}, None, "no", "rejected"),
    ("invalid_event", "invalid_event", "invalid_event", "rejected"),
    ("the event is unknown", None, "the event is unknown", "rejected"),
    ({"error": {"code": "internal_error", "message": "oops"}}, "internal_error", "oops", "unknown"),
    ({"error": {"message": "Please try again later"}}, None, "Please try again later", "unknown"),
    ({"statusCode": 503, "message": "no"}, None, "no", "unknown"),
    ({"status": 429}, None, "status 429", "unknown"),
    ({"status": 409, "error": "conflict"}, "conflict", "conflict", "unknown"),
    ({"status": "applied"}, "applied", "applied", "unknown"),
    ({"status": "ok", "message": "Welcome"}, "ok", "Welcome", "unknown"),
    ({"status": 200, "message": "fine"}, None, "fine", "unknown"),
    ("success", "success", "success", "unknown"),
    ({"status": "503"}, None, "status 503", "unknown"),
    ({"code": "429", "message": "no"}, None, "no", "unknown"),
    ({"status": "400"}, None, "status 400", "rejected"),
    ({"status": "pending"}, "pending", "pending", "unknown"),
    ({"message": "ok"}, None, "ok", "unknown"),
    ({"message": "Event was recorded."}, None, "Event was recorded", "unknown"),
    ({"message": "The event cannot be accepted"}, None, "The event cannot be accepted", "rejected"),
    ({"success": True, "message": "Welcome"}, None, "Welcome", "unknown"),
    ({"success": False, "message": "no"}, None, "no", "rejected"),
    ({"status": "failed"}, "failed", "failed", "unknown"),
    ({"status": "failed", "reason": "no"}, "failed", "no", "rejected"),
    ({"error": "customer is locked"}, None, "customer is locked", "unknown"),
    ({"statusCode": 400, "message": ["too long", "b"], "error": "Bad Request"}, None, "too long", "rejected"),
    ({"errors": {"user_id": ["is too long"]}}, None, "is too long", "rejected"),
    ({"message": {"en": "is too long"}}, None, "is too long", "rejected"),
    ({"error": {"error": {"message": "deep"}}}, None, "deep", "rejected"),
    (["is too long"], None, "is too long", "rejected"),
    ([{"code": "too_long"}], "too_long", "too_long", "rejected"),
    (None, None, "its result has null instead of an object", "unknown"),
    ([], None, "its result has null instead of an object", "unknown"),
    ({}, None, "its result has null instead of an object", "unknown"),
    (7, None, "its result has null instead of an object", "unknown"),
    ({"error": None, "message": "", "status": True}, None, "its result has null instead of an object", "unknown"),
]


@pytest.mark.parametrize(("item", "error", "message", "outcome"), REASONS, ids=[str(row[0])[:60] for row in REASONS])
def test_a_reason_is_found_in_any_usual_shape(item: JSONValue, error: str | None, message: str, outcome: str) -> None:
    """Code, words and whether they are final are read; catches a shape whose words are lost."""
    failure = read_failure(item, "has null instead of an object", META, Secrets())

    assert (failure.error, failure.message, failure.outcome) == (error, message, outcome)
    assert (failure.raw, failure.accepted, failure.meta) == (item, False, META)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "no", "error": {"message": "other"}}, "no"),
        ({"error": {"code": "c", "message": "no"}}, "no"),
        ({"type": "about:blank", "title": "Bad", "detail": "no"}, "no"),
        ({"message": ["no", "b"]}, "no"),
        ({"errors": {"user_id": ["no"]}}, "no"),
        ({"error": "invalid_event"}, "invalid_event"),
        ({"message": ""}, None),
        ({}, None),
        ("<html>", None),
        (None, None),
    ],
)
def test_an_error_answer_without_a_message_may_have_words_elsewhere(body: JSONValue, words: str | None) -> None:
    """The message comes first; catches a dead letter whose reason is a bare status."""
    assert words_of(body) == words


def test_the_words_are_cleaned_of_what_was_sent() -> None:
    """Neither id, nor key, nor address stays in the text; catches an echo in a log."""
    item: JSONValue = {"error": {"code": "customer_77", "message": "customer_77 of bob@example.com has sk_live_1"}}

    failure = read_failure(item, None, META, Secrets(["customer_77"]))

    assert (failure.error, failure.message) == ("***", "*** of *** has ***")
    assert failure.raw == item
    assert "bob" not in repr(failure)


def test_a_result_of_an_event_that_was_not_accepted_without_a_reason_is_undecided() -> None:
    """Nobody knows why, so it may pass; catches a rejection without a reason."""
    failure = read_failure({"applied": False, "duplicate": False, "delta": []}, None, META, Secrets())

    assert (failure.message, failure.outcome, failure.accepted) == ("the service gave no reason", "unknown", False)


@pytest.mark.parametrize("name", ["applied", "duplicate"])
def test_what_says_that_it_counts_is_accepted_though_it_can_not_be_read(name: str) -> None:
    """The event need not be sent again; catches an applied event that ends as a dead letter."""
    failure = read_failure({name: True, "message": "welcome"}, "lacks a field at delta", META, Secrets())

    error = failure.to_error()
    assert failure.accepted
    assert (error.accepted, error.outcome, error.retryable) == (True, "unknown", False)
    assert str(error) == (
        "The event was accepted, but its result lacks a field at delta (request id req_1). It need not be sent again."
    )


@pytest.mark.parametrize(
    ("outcome", "retryable", "advice"),
    [
        ("rejected", False, "The event was refused: no (request id req_1). The same event will be refused again."),
        ("unknown", True, "The event was not accepted: no (request id req_1). Sending it again with the same"),
    ],
)
def test_its_error_says_what_to_do(outcome: str, retryable: bool, advice: str) -> None:
    """Outcome, advice and request id stand in text and attributes; catches a retry that is useless."""
    item: JSONValue = {"message": "no", "code": "c", "status": 400 if outcome == "rejected" else 500}

    error = read_failure(item, None, META, Secrets()).to_error()

    assert (error.outcome, error.retryable, error.code, error.request_id) == (outcome, retryable, "c", "req_1")
    assert str(error).startswith(advice)


def test_failure_is_a_value_of_three_things() -> None:
    """Tests of applications build one by error, message and raw; catches an order that changes."""
    failure = EventFailure("invalid_event", "no", {"error": "invalid_event"})

    assert (failure.error, failure.message, failure.raw) == ("invalid_event", "no", {"error": "invalid_event"})
    assert failure.outcome == "unknown"
