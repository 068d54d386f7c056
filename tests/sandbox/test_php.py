"""What the PHP client 0.7.0 sends, verbatim: json_encode's bytes, DATE_ATOM times, its headers."""

import pytest

from perkamo.sandbox.messages import Request
from tests.sandbox.caller import API_KEY, Caller, make_caller


@pytest.fixture
def api() -> Caller:
    """A fresh Space with the default program."""
    return make_caller()


def send(api: Caller, path: str, body: bytes) -> Request:
    """Build a request with the header names and order of the PHP client, signed over exactly these bytes."""
    signed = dict(api.signed(path, body))
    names = ("accept", "x-perkamo-api-key", "content-type", "x-perkamo-timestamp", "x-perkamo-signature")
    return Request("POST", path, (("host", "localhost"), *((name, signed[name]) for name in names)), body)


@pytest.mark.parametrize(
    "body",
    [
        (
            rb'{"user_id":"customer_123","event":"user.registered",'
            rb'"transaction_id":"tx_9f86d081884c7d659a2feaa0",'
            rb'"context":[],"occurred_at":"2026-06-01T10:00:00+00:00"}'
        ),
        (
            rb'{"user_id":"customer_123","event":"user.registered","transaction_id":"order\/1092",'
            rb'"context":{"path":"\/pricing","name":"P\u0159\u00edli\u0161 \ud83d\ude00","nested":{"a":[]}},'
            rb'"occurred_at":"2026-06-01T10:00:00+00:00"}'
        ),
    ],
)
def test_an_event_of_the_php_client_is_applied(api: Caller, body: bytes) -> None:
    """Expect [] for an empty context, escaped slashes, escaped letters and whole seconds with an offset to be taken."""
    answer = api.send(send(api, "/v1/events", body))

    assert answer.json["applied"] is True
    assert answer.notes == ()
    assert api.space.ledger.events()[0].occurred_at == "2026-06-01T10:00:00+00:00"


def test_escapes_are_read_as_the_text_they_stand_for(api: Caller) -> None:
    """Expect the same customer whether an id was written raw or escaped."""
    body = rb'{"user_id":"P\u0159\/\ud83d\ude00","traits":[]}'

    answer = api.send(send(api, "/v1/identify", body))

    assert answer.json == {"user_id": "Př/😀", "traits": {}}


def test_the_same_event_from_php_and_from_another_client_is_the_same(api: Caller) -> None:
    """Expect [] and {} to be one empty context: a resend from the other client is a plain duplicate, without a note."""
    php = (
        rb'{"user_id":"a","event":"user.registered","transaction_id":"t\/1","context":[],'
        rb'"occurred_at":"2026-06-01T10:00:00+00:00"}'
    )
    api.send(send(api, "/v1/events", php))

    again = api.post("/v1/events", php.replace(b"[]", b"{}").replace(rb"\/", b"/"))

    assert again.json["duplicate"] is True
    assert again.notes == ()


def test_a_batch_of_the_php_client_is_applied(api: Caller) -> None:
    """Expect the shape that json_encode gives a list of payloads."""
    body = (
        rb'{"events":[{"user_id":"customer_123","event":"purchase.completed","transaction_id":"order_1","context":'
        rb'{"order_id":"order_1","amount":12900,"currency":"CZK"},"occurred_at":"2026-06-01T10:00:00+00:00"},'
        rb'{"user_id":"customer_123","event":"page.viewed","transaction_id":"pageview_01","context":[],'
        rb'"occurred_at":"2026-06-01T10:00:01+00:00"}]}'
    )

    answer = api.send(send(api, "/v1/events:batch", body))

    assert answer.status == 200
    assert api.space.ledger.customer("customer_123").wallets == {"points": 129}


@pytest.mark.parametrize(
    ("body", "ttl"),
    [
        (rb'{"browser_key":"pk_test_of_the_tests","user_id":"customer_123"}', 600),
        (rb'{"browser_key":"pk_test_of_the_tests","user_id":"customer_123","purpose":"stream","ttl_seconds":120}', 120),
    ],
)
def test_token_wishes_of_the_php_client_are_granted(api: Caller, body: bytes, ttl: int) -> None:
    """Expect what its BrowserToken insists on: texts that are not empty and an integer."""
    answer = api.send(send(api, "/v1/browser-tokens", body))

    assert isinstance(answer.json["token"], str)
    assert answer.json["expires_in"] == ttl


def test_event_results_satisfy_the_php_client(api: Caller) -> None:
    """Expect each field that its EventIngestResult insists on, in a failed item of a batch too."""
    body = rb'{"events":[{"user_id":"a","event":"user.registered","transaction_id":"1","context":[]},{"user_id":"a"}]}'

    results = api.send(send(api, "/v1/events:batch", body)).json["results"]

    assert isinstance(results, list)
    for result in results:
        assert isinstance(result["applied"], bool)
        assert isinstance(result["duplicate"], bool)
        assert isinstance(result["leveled_up"], bool)
        assert isinstance(result["delta"], list)
        assert isinstance(result["unlocked"], list)
        assert isinstance(result["wallet_state"], dict)


def test_php_sends_no_signature_with_a_get(api: Caller) -> None:
    """Expect reading to need the key alone."""
    headers = (("accept", "application/json"), ("x-perkamo-api-key", API_KEY))

    assert api.send(Request("GET", "/v1/customer/a%2Fb", headers)).status == 200
