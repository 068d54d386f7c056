"""events: the rules of the contract page, at construction."""

import copy
import json
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
import time_machine

from perkamo import Context, Event, PerkamoValidationError, assert_safe_event, create_transaction_id

FULL = (
    b'{"user_id":"customer_123","event":"purchase.completed","transaction_id":"order_1092",'
    b'"context":{"order_id":"order_1092","amount":12900,"currency":"CZK"},"occurred_at":"2026-06-01T10:00:00.000Z"}'
)


def purchase() -> Event:
    """The example of the contract page."""
    context: Context = {"order_id": "order_1092", "amount": 12900, "currency": "CZK"}
    return Event("customer_123", "purchase.completed", "order_1092", context, datetime(2026, 6, 1, 10, tzinfo=UTC))


def test_the_bytes_are_those_of_the_contract() -> None:
    """Keys stand in the published order, without spaces; catches a reordering, which would change nothing but bytes."""
    assert purchase().to_bytes() == FULL


def test_an_event_comes_back_from_its_bytes_the_same() -> None:
    """to_bytes and from_bytes are inverse, floats beyond 2^53 included; catches a lossy parse."""
    event = Event("u", "e", "t", {"big": 1e20, "tiny": 1e-7, "text": "é😀"})

    again = Event.from_bytes(event.to_bytes())

    assert again == event
    assert again.to_bytes() == event.to_bytes()


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"user_id":"u"}', b"[" * 100_000])
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    """Foreign bytes raise the validation error and nothing else; catches a stray ValueError or RecursionError."""
    with pytest.raises(PerkamoValidationError):
        Event.from_bytes(data)


def test_changing_the_context_afterwards_changes_nothing() -> None:
    """The bytes are fixed at construction; catches a reference to the caller's dict."""
    items = [{"price": 1}]
    context = {"items": items}
    event = Event("u", "e", "t", context)
    before = event.to_bytes()

    items[0]["price"] = 2
    event.context["items"] = 3

    assert event.to_bytes() == before
    assert event.context == {"items": [{"price": 1}]}


def test_an_empty_context_is_an_object() -> None:
    """None and {} are both sent as {}; catches null or [] on the wire."""
    assert json.loads(Event("u", "e", "t").to_bytes())["context"] == {}
    assert Event("u", "e", "t", {}).context == {}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (datetime(2026, 6, 1, 12, 0, 0, 5000, timezone(timedelta(hours=2))), "2026-06-01T10:00:00.005Z"),
        ("2026-06-01T10:00:00Z", "2026-06-01T10:00:00.000Z"),
        ("2026-06-01T12:00:00+02:00", "2026-06-01T10:00:00.000Z"),
        ("2026-06-01T10:00:00.123456Z", "2026-06-01T10:00:00.123Z"),
    ],
)
def test_a_moment_is_sent_in_utc_with_milliseconds(given: datetime | str, sent: str) -> None:
    """Every zone ends as UTC; catches local times and microseconds on the wire."""
    assert Event("u", "e", occurred_at=given).occurred_at == sent


def test_the_moment_is_now_when_none_is_given() -> None:
    """occurred_at is fixed when the event is built; catches a moment made at the time of sending."""
    before = datetime.now(UTC)

    event = Event("u", "e")

    moment = datetime.fromisoformat(event.occurred_at)
    assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.occurred_at)


def test_each_event_has_the_moment_at_which_it_was_built() -> None:
    """Milliseconds count on within a second, into the next and back; catches a second's text that is kept too long."""
    texts = []
    for moment in (1_780_308_000.999_999, 1_780_308_001.0, 1_780_308_000.07_05):
        with time_machine.travel(moment, tick=False):
            texts.append(Event("u", "e").occurred_at)

    assert texts == ["2026-06-01T10:00:00.999Z", "2026-06-01T10:00:01.000Z", "2026-06-01T10:00:00.070Z"]


@pytest.mark.parametrize("missing", ["user_id", "event"])
def test_a_mapping_without_a_field_is_refused_by_its_name(missing: str) -> None:
    """What every event needs is asked for by name; catches a bare KeyError."""
    fields: dict[str, object] = {"user_id": "u", "event": "e"}
    del fields[missing]

    with pytest.raises(PerkamoValidationError, match=f"^{missing} is missing. Nothing was sent.$") as caught:
        Event.from_mapping(fields)

    assert caught.value.field == missing


@pytest.mark.parametrize("text", [" u ", "é", "a/b", "%2F", "\u202e", "a" * 256, "😀" * 128, "\u6c49" * 256])
def test_an_id_is_kept_exactly_as_given(text: str) -> None:
    """Ids are neither trimmed nor normalised, up to 256 UTF-16 units; catches two spellings of one customer."""
    assert Event(text, "e").user_id == text


def test_reserved_words_are_free_below_the_top_level() -> None:
    """Nested objects may use reserved keys; catches a check at every depth."""
    event = Event("u", "e", "t", {"order": {"level": 1, "XP": 2}, "levels": 3})

    assert event.context["order"] == {"level": 1, "XP": 2}


def test_a_mapping_with_wire_names_is_an_event() -> None:
    """from_mapping takes what to_bytes wrote; catches a renamed field."""
    assert Event.from_mapping(json.loads(FULL)) == purchase()


def test_with_transaction_id_changes_the_id_only() -> None:
    """The moment and context stay; catches a new occurred_at on a resend."""
    event = Event("u", "e", context={"a": 1.5})

    named = event.with_transaction_id("order_1")

    assert (named.transaction_id, named.occurred_at, named.context) == ("order_1", event.occurred_at, {"a": 1.5})
    assert event.transaction_id is None


def test_an_event_without_an_id_has_no_bytes() -> None:
    """to_bytes asks for a transaction id; catches bytes that would earn twice when they are sent twice."""
    with pytest.raises(PerkamoValidationError, match="transaction_id"):
        Event("u", "e").to_bytes()


def test_transaction_ids_are_unique_and_carry_their_prefix() -> None:
    """tx_<uuid4> by default; catches a shared or unprefixed id."""
    made = {create_transaction_id() for _ in range(1000)} | {create_transaction_id("order")}

    assert len(made) == 1001
    assert all(
        re.fullmatch(r"(tx|order)_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one)
        for one in made
    )


@pytest.mark.parametrize("prefix", ["", " ", "a" * 220, "a\n"])
def test_a_prefix_that_makes_no_id_is_refused(prefix: str) -> None:
    """The made id always fits 256 characters; catches a prefix that pushes it over."""
    with pytest.raises(PerkamoValidationError) as caught:
        create_transaction_id(prefix)

    assert caught.value.field == "prefix"


def test_assert_safe_event_accepts_and_refuses_as_sending_does() -> None:
    """A safe event passes silently, a reserved key raises; catches a check that can't fail."""
    assert_safe_event(purchase())
    assert_safe_event({"user_id": "u", "event": "e", "context": {"amount": 1}})
    with pytest.raises(PerkamoValidationError) as caught:
        assert_safe_event({"user_id": "u", "event": "e", "context": {"Level": 1}})

    assert caught.value.path == "context.Level"


def test_an_event_shows_no_personal_data_and_survives_copies() -> None:
    """The repr names the kind of event only, and pickling and copying keep equality; catches an attrs repr."""
    event = Event("bob@example.com", "e", "t", {"email": "bob@example.com"})

    assert "bob" not in repr(event)
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event
    assert hash(event) == hash(copy.copy(event))
