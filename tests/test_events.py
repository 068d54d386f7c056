"""events: the rules of the contract page, at construction."""

import copy
import json
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NotRequired, TypedDict

import attrs
import pytest
import time_machine

from perkamo import (
    Context,
    Event,
    EventDict,
    PerkamoValidationError,
    Traits,
    TraitsDict,
    assert_safe_event,
)
from perkamo.events import encode_object

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


def test_with_context_changes_the_context_only() -> None:
    """Id and moment stay, and the new context is checked; catches a context that is sent unchecked."""
    event = purchase()

    other = event.with_context({"amount": 5})

    assert other.context == {"amount": 5}
    assert (other.user_id, other.event, other.transaction_id) == ("customer_123", "purchase.completed", "order_1092")
    assert other.occurred_at == event.occurred_at
    assert event.with_context(None).context == {}
    with pytest.raises(PerkamoValidationError, match="reserved"):
        event.with_context({"XP": 1})


def test_with_occurred_at_changes_the_moment_only() -> None:
    """Id and context stay; catches a moment that is sent in another zone."""
    other = purchase().with_occurred_at("2026-07-01T12:00:00+02:00")

    assert other.occurred_at == "2026-07-01T10:00:00.000Z"
    assert attrs.evolve(other, occurred_at=purchase().occurred_at) == purchase()
    with pytest.raises(PerkamoValidationError, match="occurred_at"):
        other.with_occurred_at("soon")


@pytest.mark.parametrize("context", [None, {}, {"amount": 100, "big": 1e20}])
def test_evolve_makes_another_event(context: Context | None) -> None:
    """The usual way to change a frozen value works, whatever the context; catches a context that is checked as text."""
    event = Event("customer_123", "purchase.completed", "order_1", context)

    other = attrs.evolve(event, transaction_id="order_2")

    assert other == event.with_transaction_id("order_2")
    assert other.to_bytes() == event.to_bytes().replace(b"order_1", b"order_2")
    assert attrs.evolve(event, context={"a": 1}).context == {"a": 1}
    assert pickle.loads(pickle.dumps(other)) == other


@pytest.mark.parametrize("text", ["{}", '{"xp":1}', ""])
def test_a_text_is_still_no_context(text: str) -> None:
    """Only what was checked passes unchecked; catches a way around the reserved keys."""
    with pytest.raises(PerkamoValidationError, match="context must be a mapping"):
        Event("u", "e", "t", text)  # type: ignore[arg-type]  # the mistake under test


class Purchase(TypedDict):
    """A context of the application's own."""

    amount: int
    items: NotRequired[list[str]]


def test_typed_dicts_and_dicts_of_objects_are_contexts_and_traits() -> None:
    """Type checkers take them as they are; catches an alias that only a dict of JSON fits."""
    purchased: Purchase = {"amount": 5, "items": ["a"]}
    whatever: dict[str, object] = {"amount": 5}
    fields: EventDict = {"user_id": "u", "event": "e", "transaction_id": "t", "context": purchased}
    traits: TraitsDict = {"email": "bob@example.com", "crm_id": "crm_1"}
    facts: Traits = traits

    assert Event("u", "e", "t", purchased).context == Event.from_mapping(fields).context == purchased
    assert Event("u", "e", "t", whatever).context == whatever
    assert facts["crm_id"] == "crm_1"
    with pytest.raises(PerkamoValidationError, match=r"context\.amount"):
        Event("u", "e", "t", {"amount": object()})


def test_an_event_without_an_id_has_no_bytes() -> None:
    """to_bytes asks for a transaction id; catches bytes that would earn twice when they are sent twice."""
    with pytest.raises(PerkamoValidationError, match="transaction_id"):
        Event("u", "e").to_bytes()


def test_assert_safe_event_accepts_and_refuses_as_sending_does() -> None:
    """A safe event passes silently, a reserved key raises; catches a check that can't fail."""
    assert_safe_event(purchase())
    assert_safe_event({"user_id": "u", "event": "e", "context": {"amount": 1}})
    with pytest.raises(PerkamoValidationError) as caught:
        assert_safe_event({"user_id": "u", "event": "e", "context": {"Level": 1}})

    assert caught.value.path == "context.Level"


def test_assert_safe_event_asks_for_a_transaction_id_where_it_is_asked_to() -> None:
    """As JavaScript's assertSafeEventInput does not by itself; catches an event that a batch would refuse."""
    assert_safe_event({"user_id": "u", "event": "e"})
    assert_safe_event(purchase(), require_transaction_id=True)
    with pytest.raises(PerkamoValidationError, match="transaction_id is missing") as caught:
        assert_safe_event({"user_id": "u", "event": "e"}, require_transaction_id=True)

    assert caught.value.path == "transaction_id"


def test_an_event_shows_no_personal_data_and_survives_copies() -> None:
    """The repr names the kind of event only, and pickling and copying keep equality; catches an attrs repr."""
    event = Event("bob@example.com", "e", "t", {"email": "bob@example.com"})

    assert "bob" not in repr(event)
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event
    assert hash(event) == hash(copy.copy(event))


LIMIT = 256 * 1024
AROUND = '{"v":""}'


@pytest.mark.parametrize("letter", ["x", "ž", "\u6c49", "😀"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
@pytest.mark.parametrize("name", ["context", "traits"])
def test_the_limit_of_an_object_counts_bytes(letter: str, name: str) -> None:
    """256 KiB of JSON fit exactly, one byte more does not, whatever the letters; catches a limit of characters."""
    size = len(letter.encode())
    letters, rest = divmod(LIMIT - len(AROUND), size)
    fits = {"v": letter * letters + "x" * rest}

    assert len(encode_object(fits, name).encode()) == LIMIT
    with pytest.raises(PerkamoValidationError, match=f"^{name} must be at most {LIMIT} bytes of JSON"):
        encode_object({"v": f"{fits['v']}x"}, name)
