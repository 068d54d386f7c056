"""webhooks: from headers and body to a delivery."""

import pickle
from datetime import UTC, datetime
from email.message import Message

import httpx
import pytest

from perkamo import PerkamoConfigurationError
from perkamo.webhooks import MAX_WEBHOOK_BYTES, PerkamoWebhookError, WebhookDelivery, WebhookHeaders, secret_matches
from tests.webhooks.samples import BODY, HEADERS, body, data


def message() -> Message:
    """The headers as http.server has them."""
    made = Message()
    for name, value in HEADERS.items():
        made[name.title()] = value
    return made


FORMS: dict[str, WebhookHeaders] = {
    "a dict": HEADERS,
    "other case": {name.upper(): value for name, value in HEADERS.items()},
    "bytes": {name.encode(): value.encode() for name, value in HEADERS.items()},
    "ASGI's pairs": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    "WSGI's environ": {
        "wsgi.version": (1, 0),
        "CONTENT_LENGTH": 5,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()},
    },
    "httpx": httpx.Headers(HEADERS),
    "http.server": message(),
}


def test_everything_published_is_read() -> None:
    """The example of the contract page, whole; catches a lost or renamed field."""
    delivery = WebhookDelivery.parse(HEADERS, body(later=1))

    assert (delivery.delivery_id, delivery.attempt) == ("dlv_1", 2)
    assert (delivery.id, delivery.type) == ("evt_01J", "purchase.completed")
    assert delivery.created_at == datetime(2026, 6, 1, 10, tzinfo=UTC)
    told = delivery.data
    assert told.space is not None
    assert (told.space.slug, told.space.name, told.space.environment) == ("commerce-live", "Commerce Live", "live")
    assert (told.user_id, told.event, told.transaction_id) == ("bob@example.com", "purchase.completed", "order_1092")
    assert (told.status, told.occurred_at) == ("applied", datetime(2026, 6, 1, 10, tzinfo=UTC))
    assert told.context == {"amount": 12900, "currency": "CZK"}
    assert [(delta.wallet, delta.amount) for delta in told.delta] == [("loyalty_points", 10)]
    assert told.wallet_state == {"loyalty_points": 120}
    assert (delivery.raw, told.raw["effects"]) == ({**BODY, "later": 1}, [])


@pytest.mark.parametrize("headers", FORMS.values(), ids=FORMS)
def test_headers_of_any_framework_are_understood(headers: WebhookHeaders) -> None:
    """Each framework has a form of its own; catches a look-up that knows one case or one type."""
    delivery = WebhookDelivery.parse(headers, body())

    assert (delivery.delivery_id, delivery.attempt) == ("dlv_1", 2)


@pytest.mark.parametrize("given", [body(), bytearray(body()), memoryview(body()), body().decode()])
def test_a_body_of_any_kind_is_read(given: bytes | bytearray | memoryview | str) -> None:
    """Text and every kind of bytes; catches a parser that wants one of them."""
    assert WebhookDelivery.parse(HEADERS, given).id == "evt_01J"


def test_a_type_that_nobody_knows_yet_is_read_as_far_as_it_goes() -> None:
    """Perkamo may add types with less in them; catches a field that is required without need."""
    delivery = WebhookDelivery.parse({"x-perkamo-delivery": "dlv_2"}, body(type="level.reached", data={"user_id": "u"}))

    assert (delivery.type, delivery.attempt, delivery.data.event, delivery.data.delta) == ("level.reached", 1, None, ())


WRONG = {
    "not JSON": (b"{", "is not JSON"),
    "no object": (b"[]", "instead of an object"),
    "NaN": (b'{"id": NaN}', "NaN"),
    "a key twice": (b'{"id": "a", "id": "b"}', "twice"),
    "no UTF-8": (b"\xff", "UTF-8"),
    "a lone surrogate": ('"\ud800"', "UTF-8"),
    "no id": (body(id=...), "lacks a field at id"),
    "a type that is not text": (body(type=1), "at type"),
    "a moment without a zone": (body(created_at="2026-06-01T10:00:00"), "at created_at"),
    "no data": (body(data=None), "at data"),
    "no customer": (data(user_id=...), "lacks a field at data.user_id"),
    "an amount in text": (data(delta=[{"wallet": "p", "amount": "10"}]), "at data.delta[0].amount"),
    "balances in a list": (data(wallet_state=[]), "at data.wallet_state"),
    "too large": (b" " * (MAX_WEBHOOK_BYTES + 1), "is larger than 262144 bytes"),
}


@pytest.mark.parametrize(("given", "reason"), WRONG.values(), ids=WRONG)
def test_a_body_of_the_wrong_shape_is_refused(given: bytes | str, reason: str) -> None:
    """The error names the place and nothing of what came; catches a delivery that is half understood."""
    with pytest.raises(PerkamoWebhookError) as caught:
        WebhookDelivery.parse(HEADERS, given)

    assert reason in str(caught.value)
    assert "bob" not in str(caught.value)
    assert caught.value.__context__ is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_largest_body_is_read() -> None:
    """The bound is the bound; catches one that is off by one."""
    filled = body() + b" " * (MAX_WEBHOOK_BYTES - len(body()))

    assert WebhookDelivery.parse(HEADERS, filled).id == "evt_01J"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-perkamo-delivery": " "},
        {"x-perkamo-delivery": "a\tb"},
        {"x-perkamo-delivery": "d" * 257},
        {**HEADERS, "x-perkamo-attempt": "0"},
        {**HEADERS, "x-perkamo-attempt": "-1"},
        {**HEADERS, "x-perkamo-attempt": "\u0661"},
        {**HEADERS, "x-perkamo-attempt": "9" * 5000},
        [("x-perkamo-delivery", "a"), ("X-Perkamo-Delivery", "b")],
    ],
)
def test_headers_that_identify_nothing_are_refused(headers: WebhookHeaders) -> None:
    """Without one delivery id repetitions can't be told apart; catches an int() on a foreign text."""
    with pytest.raises(PerkamoWebhookError, match="answer with status 400"):
        WebhookDelivery.parse(headers, body())


def test_no_repr_shows_the_customer() -> None:
    """Deliveries end in logs; catches an id, a transaction or a context in a repr."""
    shown = repr(WebhookDelivery.parse(HEADERS, body()))

    assert not [word for word in ("bob", "order_1092", "12900") if word in shown]
    assert "dlv_1" in shown


@pytest.mark.parametrize(
    ("given", "matches"),
    [("sésame", True), ("sésame".encode(), True), ("sesame", False), ("", False), (None, False), ("\udcff", False)],
)
def test_a_secret_matches_itself_only(given: str | bytes | None, *, matches: bool) -> None:
    """Text and bytes alike, also beyond ASCII; catches compare_digest's TypeError and a None that passes."""
    assert secret_matches(given, "sésame") is matches


def test_a_secret_that_does_not_match_leaves_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """One warning each, without any secret; catches deliveries that are refused in silence, or a secret in the log."""
    for given in ("right", None, "guessed"):
        secret_matches(given, "right")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "A webhook was refused: it came without a secret"),
        ("WARNING", "A webhook was refused: it came with a wrong one"),
    ]


def test_an_empty_secret_is_no_secret() -> None:
    """An unset variable must not let everybody in; catches an empty text that matches an empty header."""
    with pytest.raises(PerkamoConfigurationError, match="empty"):
        secret_matches("", "")
