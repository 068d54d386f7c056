"""What a caller sends: events, with every rule of the wire checked before anything leaves.

The rules are published unless a constant says otherwise. An ``Event`` makes its bytes when it is built, so that nothing
that happens to the caller's objects afterwards changes what is sent.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Final, NotRequired, TypeAlias, TypedDict, cast

from attrs import evolve, field, frozen

from perkamo.encoding.encode import MAX_SAFE_INTEGER, JSONValue, encode, moment_text
from perkamo.encoding.ids import MAX_EVENT_LENGTH, MAX_TRANSACTION_ID_LENGTH, MAX_USER_ID_LENGTH, check_id, refusal
from perkamo.encoding.serializable import SchemaHandler, Serializable, value_schema
from perkamo.errors import PerkamoValidationError

MAX_BATCH_EVENTS: Final = 100
MAX_EVENT_BYTES: Final = 256 * 1024
"""Assumed: the service's own limit is unpublished."""

MAX_FIELD_NAME: Final = 40
"""Characters of an unknown field's name that are still shown."""

RESERVED_CONTEXT_KEYS: Final = frozenset({"xp", "wallet", "wallets", "rewards", "level", "perks", "achievements"})
"""Computed by the service; refused at the top level of a context, in any case of letters (published)."""

Context: TypeAlias = Mapping[str, object]
"""Business facts of an event, such as an order's id, amount and currency; a TypedDict of yours is one, too.

The values are those of ``JSONInput``. A ``dict[str, object]`` can't say so by its type: what can't be sent is refused
when the event is built.
"""

Traits: TypeAlias = Mapping[str, object]
"""Non-secret facts about a customer that the application may share; ``TraitsDict`` names what the Console knows."""


def encode_object(value: object, name: str) -> str:
    """Return the JSON text of an object of facts; None counts as an empty one.

    Args:
        value: A mapping from non-empty text to what JSON can hold; see ``JSONInput``.
        name: The field's name, for the path of an offending value.

    Raises:
        PerkamoValidationError: It is not a mapping, or something in it can't be sent.
    """
    if value is None:
        return "{}"
    if type(value) is not dict and not isinstance(value, Mapping):
        raise refusal(name, f"must be a mapping from text to values, not {type(value).__name__}")
    text = encode(cast("object", value), name)
    if len(text) > MAX_EVENT_BYTES // 4 and len(text.encode()) > MAX_EVENT_BYTES:
        raise refusal(name, f"must be at most {MAX_EVENT_BYTES} bytes of JSON")
    return text


class _CheckedText(str):
    """The JSON of a context that was checked, which ``attrs.evolve`` hands to the next event as it is."""

    __slots__ = ()


def _context_text(value: Context | _CheckedText | None) -> _CheckedText:
    if type(value) is _CheckedText:
        return value
    text = _CheckedText(encode_object(value, "context"))
    if not value or RESERVED_CONTEXT_KEYS.isdisjoint(map(str.lower, value)):
        return text
    for key in value:
        if key.lower() in RESERVED_CONTEXT_KEYS:
            raise PerkamoValidationError(
                f"context.{key} is reserved: the service computes it. Rename the key. Nothing was sent.",
                field="context",
                path=f"context.{key}",
            )
    return text


def _occurred_text(value: datetime | str | None) -> str:
    """Accept a datetime with a zone, or ISO 8601 text with a zone (as the other clients send it)."""
    if value is None:
        second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
        return f"{_second_text(second)}.{nanosecond // 1_000_000:03d}Z"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise refusal("occurred_at", "must be ISO 8601, such as 2026-06-01T10:00:00.000Z") from None
    try:
        return moment_text(value)
    except AttributeError:
        raise refusal("occurred_at", f"must be a datetime with a zone, not {type(value).__name__}") from None
    except ValueError as error:
        raise refusal("occurred_at", str(error)) from None


@lru_cache(maxsize=2)
def _second_text(second: int) -> str:
    """Write a moment down to its second; nearly all events of one second are made together."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _user_id(value: str) -> str:
    return check_id(value, "user_id", MAX_USER_ID_LENGTH)


def _event_key(value: str) -> str:
    return check_id(value, "event", MAX_EVENT_LENGTH)


def _transaction_id(value: str | None) -> str | None:
    return None if value is None else check_id(value, "transaction_id", MAX_TRANSACTION_ID_LENGTH)


@frozen(repr=False)
class Event(Serializable):
    """One activity event, checked by the published rules and turned into bytes when it is built.

    Args:
        user_id: The application's own id of the customer, 1 to 256 characters, not blank, sent exactly as given.
        event: The event key, such as ``purchase.completed``, 1 to 128 characters.
        transaction_id: 1 to 256 characters. The service applies one transaction id once, so take an id of the
            business, such as the order's. Without one, ``emit_event`` makes one; ``batch`` asks for one.
        context: Business facts: text, numbers, booleans, None, lists and objects, at most 64 levels deep; also
            datetimes with a zone, UUIDs, str and int enums. ``OMIT`` leaves a property out.
        occurred_at: When it happened: a datetime with a zone or ISO 8601 text with one; now when not given. Reads as
            UTC text with milliseconds.

    Raises:
        PerkamoValidationError: Something can't be sent; ``.path`` says where it is.
    """

    user_id: str = field(converter=_user_id)
    event: str = field(converter=_event_key)
    transaction_id: str | None = field(default=None, converter=_transaction_id)
    _context: _CheckedText = field(default=None, converter=_context_text)
    occurred_at: str = field(default=None, converter=_occurred_text)

    @property
    def context(self) -> dict[str, JSONValue]:
        """A fresh copy of the context as it will be sent."""
        return cast("dict[str, JSONValue]", _parse(self._context))

    @classmethod
    def from_mapping(cls, fields: Mapping[str, object]) -> "Event":
        """Build an event from a mapping with the wire's own field names.

        Args:
            fields: ``user_id`` and ``event``, and where wanted ``transaction_id``, ``context``, ``occurred_at``.

        Raises:
            PerkamoValidationError: A field is missing, unknown or can't be sent.
        """
        given = _wire_fields(fields)
        transaction_id, context = given.get("transaction_id"), given.get("context")
        return cls(given["user_id"], given["event"], transaction_id, context, given.get("occurred_at"))

    def with_transaction_id(self, transaction_id: str) -> "Event":
        """Return the same event, at the same moment, under another transaction id.

        Raises:
            PerkamoValidationError: It is not a transaction id.
        """
        return evolve(self, transaction_id=transaction_id)

    def with_context(self, context: Context | None) -> "Event":
        """Return the same event, under the same transaction id, with another context in place of its own.

        The service ignores a transaction id that has counted: change an event only before it is sent.

        Raises:
            PerkamoValidationError: Something in it can't be sent.
        """
        return evolve(self, context=context)

    def with_occurred_at(self, occurred_at: datetime | str) -> "Event":
        """Return the same event, under the same transaction id, at another moment.

        Args:
            occurred_at: A datetime with a zone, or ISO 8601 text with one.

        Raises:
            PerkamoValidationError: It is not such a time.
        """
        return evolve(self, occurred_at=occurred_at)

    def to_bytes(self) -> bytes:
        """Return the JSON bytes of the event, which are what is sent: for a queue or broker of your own.

        Raises:
            PerkamoValidationError: The event has no transaction id yet; without one, sending it again would earn twice.
        """
        return _to_bytes(self.user_id, self.event, self.transaction_id, self._context, self.occurred_at)

    def to_dict(self) -> dict[str, JSONValue]:
        """Return the event as plain data, under the wire's field names; ``json.dumps`` takes it.

        Returns:
            A fresh dict, with None for a transaction id that is still to be made. ``Event.from_mapping`` takes it back.
        """
        return {
            "user_id": self.user_id,
            "event": self.event,
            "transaction_id": self.transaction_id,
            "context": self.context,
            "occurred_at": self.occurred_at,
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: SchemaHandler) -> Mapping[str, object]:
        """Tell pydantic, which alone calls this, what an event looks like in JSON; its rules are checked besides."""
        from pydantic_core import core_schema  # noqa: PLC0415 - it is there: pydantic calls

        text, facts = core_schema.str_schema(), core_schema.dict_schema(core_schema.str_schema())
        fields = {name: core_schema.typed_dict_field(text, required=True) for name in _REQUIRED}
        for name, schema in (("transaction_id", text), ("context", facts), ("occurred_at", text)):
            fields[name] = core_schema.typed_dict_field(core_schema.nullable_schema(schema), required=False)
        return value_schema(cls, core_schema.typed_dict_schema(fields), cls.from_mapping, cls.to_dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Event":
        """Build the event again from what ``to_bytes`` returned; the bytes come out the same.

        Raises:
            PerkamoValidationError: The bytes are not an event.
        """
        try:
            fields = _parse(data)
        except (ValueError, RecursionError):
            raise refusal("event", "must be the JSON bytes of one event") from None
        return cls.from_mapping(cast("Mapping[str, object]", fields))

    def __repr__(self) -> str:
        """Name the kind of event only: ids and context may be personal data."""
        return f"<Event {self.event!r}>"


@frozen(repr=False)
class EncodedEvent:
    """An event as ``Event.to_bytes`` made it, to be sent by ``batch`` as it is: it was checked when it was made.

    Attributes:
        transaction_id: The event's transaction id.
        body: The event's bytes.
    """

    transaction_id: str
    body: bytes


class EventDict(TypedDict):
    """An event as a mapping, with the wire's field names: what ``batch``, ``emit_many`` and ``Outbox.put`` take, too.

    Attributes:
        user_id: As for ``Event``.
        event: As for ``Event``.
        transaction_id: As for ``Event``.
        context: As for ``Event``.
        occurred_at: As for ``Event``.
    """

    user_id: str
    event: str
    transaction_id: NotRequired[str | None]
    context: NotRequired[Context | None]
    occurred_at: NotRequired[datetime | str | None]


class TraitsDict(TypedDict, total=False):
    """The identity traits by which Perkamo's Console shows and searches customers, all optional.

    That it knows e-mail, name, phone, external id, customer id and CRM id is published; of the names, those of e-mail,
    name and CRM id are, the others are assumed alike. For further traits take a TypedDict of your own or any mapping.

    Attributes:
        email: The e-mail address.
        name: The name to show.
        phone: The phone number.
        external_id: The customer's id in another system.
        customer_id: The customer's id in the shop.
        crm_id: The customer's id in the CRM.
    """

    email: str
    name: str
    phone: str
    external_id: str
    customer_id: str
    crm_id: str


_NAMES: Final = frozenset(EventDict.__annotations__)
_REQUIRED: Final = ("user_id", "event")


def _wire_fields(fields: object) -> EventDict:
    if type(fields) is not dict and not isinstance(fields, Mapping):
        raise refusal("event", f"must be an Event or a mapping, not {type(fields).__name__}")
    given = cast("Mapping[str, object]", fields)
    if not _NAMES.issuperset(given):
        raise refusal(
            "event", f"has an unknown field{_name_unknown(given)}; the fields are {', '.join(sorted(_NAMES))}"
        )
    for name in _REQUIRED:
        if name not in given:
            raise refusal(name, "is missing")
    return cast("EventDict", given)


def _name_unknown(given: Mapping[str, object]) -> str:
    """Name the first field that is not an event's, if it reads as a name and not as somebody's data."""
    name = next(name for name in cast("Mapping[object, object]", given) if name not in _NAMES)
    return f", {name}" if isinstance(name, str) and len(name) <= MAX_FIELD_NAME and name.isidentifier() else ""


def _parse(text: str | bytes) -> object:
    return cast("object", json.loads(text, parse_int=_number))


def _number(digits: str) -> int | float:
    """Read digits as JavaScript does: what is beyond its integers was a float when it was written."""
    value = float(digits)
    return int(value) if abs(value) <= MAX_SAFE_INTEGER else value


def _to_bytes(user_id: str, event: str, transaction_id: str | None, context: _CheckedText, occurred_at: str) -> bytes:
    """Return the JSON bytes of an event whose fields were checked."""
    if transaction_id is None:
        raise refusal("transaction_id", "is missing; pass one, so that the event counts once even if it is sent again")
    ids = f'{{"user_id":{encode_basestring(user_id)},"event":{encode_basestring(event)}'
    rest = f'"context":{context},"occurred_at":"{occurred_at}"}}'
    return f'{ids},"transaction_id":{encode_basestring(transaction_id)},{rest}'.encode()


def encode_mapping(fields: Mapping[str, object]) -> tuple[str | None, bytes]:
    """Check a mapping as ``Event.from_mapping`` does; return its transaction id and its bytes, with no event made.

    Raises:
        PerkamoValidationError: A field is missing, unknown or can't be sent.
    """
    given = _wire_fields(fields)
    user_id = check_id(given["user_id"], "user_id", MAX_USER_ID_LENGTH)
    event = check_id(given["event"], "event", MAX_EVENT_LENGTH)
    transaction_id = _transaction_id(given.get("transaction_id"))
    context, occurred_at = _context_text(given.get("context")), _occurred_text(given.get("occurred_at"))
    return transaction_id, _to_bytes(user_id, event, transaction_id, context, occurred_at)


def as_event(event: Event | Mapping[str, object]) -> Event:
    """Return an event as it is, and build one from a mapping."""
    return event if isinstance(event, Event) else Event.from_mapping(event)


def assert_safe_event(event: Event | Mapping[str, object], *, require_transaction_id: bool = False) -> None:
    """Check an event as sending it would, and send nothing.

    Args:
        event: An ``Event``, or a mapping with the wire's field names.
        require_transaction_id: Also refuse an event without a transaction id, as ``batch`` does.

    Raises:
        PerkamoValidationError: It would be refused; ``.path`` says where and the message why.
    """
    checked = as_event(event)
    if require_transaction_id and checked.transaction_id is None:
        raise refusal("transaction_id", "is missing; pass one, so that the event counts once even if it is sent again")
