"""A caller's values -> the bytes that ``JSON.stringify`` would make, checked on the way, in one pass.

Published: no spaces, raw UTF-8, ``/`` not escaped, numbers as JavaScript writes them. What the service could not
hold, or would hold as something else, is refused here with the path of the value, never with the value itself.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Final, TypeAlias, cast
from uuid import UUID

from perkamo.errors import PerkamoValidationError
from perkamo.redaction import without_personal_data

MAX_DEPTH: Final = 64
MAX_SAFE_INTEGER: Final = 2**53 - 1


class Omit:
    """The type of ``OMIT``, which has one value only."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "OMIT"

    def __reduce__(self) -> str:
        return "OMIT"


OMIT: Final = Omit()
"""JavaScript's ``undefined``: a property with this value is left out of its object, at every depth."""

JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"
"""What parsed JSON may hold."""

JSONInput: TypeAlias = (
    bool | int | float | str | datetime | UUID | Omit | Sequence["JSONInput"] | Mapping[str, "JSONInput"] | None
)
"""What a caller may put in a context or in traits. str and int enums count as text and integers."""

_REMEDIES: Final[tuple[tuple[type, str], ...]] = (
    (Decimal, "is a Decimal; write int(amount * 100) for the currency's minor unit, or str(amount) for text"),
    (Enum, "is an enum member that is neither text nor integer; send its .value"),
    (bytes, "is bytes; decode it to text"),
    (bytearray, "is bytes; decode it to text"),
    (set, "is a set; send a list in the order that you want"),
    (frozenset, "is a set; send a list in the order that you want"),
    (date, "is a date; send its .isoformat()"),
    (time, "is a time; send its .isoformat()"),
    (timedelta, "is a timedelta; send its .total_seconds()"),
)


class _RefusedError(Exception):
    """Carries the reason up through the containers, each of which adds its part of the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts: list[str] = []


def encode(value: object, field: str) -> str:
    """Check one value and return its JSON text, as ``JSON.stringify`` would write it.

    Args:
        value: What the caller gave.
        field: The name that the path of an offending value begins with.

    Raises:
        PerkamoValidationError: The value, or one inside it, is nothing that the service can hold.
    """
    try:
        return _text(value, 1)
    except _RefusedError as refused:
        path = field + "".join(reversed(refused.parts))
        reason = refused.reason
    if cycle := _cycle(value, field):
        path, reason = cycle, "contains itself; send plain data without cycles"
    raise PerkamoValidationError(f"{path} {reason}. Nothing was sent.", field=field, path=path)


def canonical_json(value: JSONInput) -> str:
    """Return JSON text that is equal for equal values: for comparing and logging, not for signing.

    Args:
        value: Anything that an event's context may hold, at most 64 levels deep.

    Returns:
        The text with the keys of every object in the order of their UTF-16 code units, without spaces.

    Raises:
        PerkamoValidationError: The value, or one inside it, is not JSON.
    """
    # Every number goes through a float, so that one that is written as an integer is not measured as one again.
    plain: object = json.loads(encode(value, "value"), object_pairs_hook=_in_utf16_order, parse_int=float)
    return encode(plain, "value")


def utf16_length(text: str) -> int:
    """Count UTF-16 code units, as the service is assumed to count characters."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def moment_text(value: datetime) -> str:
    """Write a moment as the service takes it: UTC, milliseconds, ``Z``. The datetime must have a zone.

    Raises:
        ValueError: The datetime has no zone, or lies outside the years 1 to 9999 in UTC.
    """
    if value.utcoffset() is None:
        raise ValueError("is a datetime without a zone; add one, such as datetime.now(UTC)")
    try:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    except OverflowError:
        raise ValueError("is a datetime outside the years 1 to 9999 in UTC") from None


def _text(value: object, depth: int) -> str:  # noqa: PLR0911 - the hot path: one flat dispatch
    kind = type(value)
    if kind is str:
        return _string(cast("str", value))
    if kind is int:
        return _integer(cast("int", value))
    if kind is dict:
        return _object(cast("dict[object, object]", value), depth)
    if kind is list or kind is tuple:
        return _array(cast("list[object]", value), depth)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return _float(cast("float", value))
    return _uncommon(value, depth)


def _uncommon(value: object, depth: int) -> str:  # noqa: C901, PLR0911 - the rest of the same dispatch
    match value:
        case str():
            return _string(str.__str__(value.value if isinstance(value, Enum) else value))
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case datetime():
            try:
                return f'"{moment_text(value)}"'
            except ValueError as error:
                raise _RefusedError(str(error)) from None
        case UUID():
            return f'"{value}"'
        case Mapping():
            return _object(cast("Mapping[object, object]", value), depth)
        case list() | tuple():
            return _array(cast("Sequence[object]", value), depth)
        case Omit():
            raise _RefusedError("is OMIT, which only a property of an object can be; remove it from the list")
        case _:
            pass
    for kind, remedy in _REMEDIES:
        if isinstance(value, kind):
            raise _RefusedError(remedy)
    raise _RefusedError(f"is of type {type(value).__name__}; send text, numbers, booleans, None, lists or dicts")


def _object(value: Mapping[object, object], depth: int) -> str:
    _check_depth(depth)
    members: list[str] = []
    key = ""
    try:
        for name, item in value.items():
            if item is OMIT:
                continue
            key = ""
            key = name if type(name) is str and name else _plain_key(name)
            # Most members are plain text under plain names: calls for these would cost more than the work.
            quoted = encode_basestring(key) if key.isascii() else _string(key)
            if type(item) is str and item.isascii():
                members.append(f"{quoted}:{encode_basestring(item)}")
            else:
                members.append(f"{quoted}:{_text(item, depth + 1)}")
    except _RefusedError as refused:
        if key:
            refused.parts.append(_step(key))
        raise
    return "{" + ",".join(members) + "}"


def _array(value: Sequence[object], depth: int) -> str:
    _check_depth(depth)
    texts: list[str] = []
    try:
        for item in value:
            texts.append(_text(item, depth + 1))  # noqa: PERF401 - their number is the index of a refused one
    except _RefusedError as refused:
        refused.parts.append(f"[{len(texts)}]")
        raise
    return "[" + ",".join(texts) + "]"


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _RefusedError(f"is nested deeper than {MAX_DEPTH} levels; flatten it")


def _plain_key(key: object) -> str:
    if isinstance(key, str):
        text = str.__str__(key.value if isinstance(key, Enum) else key)
        if text:
            return text
        raise _RefusedError("has an empty key; every key must be non-empty text")
    raise _RefusedError(f"has a key of type {type(key).__name__}; every key must be non-empty text")


def _in_utf16_order(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(sorted(pairs, key=lambda pair: pair[0].encode("utf-16-be")))


def _string(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _RefusedError("contains a lone surrogate, which UTF-8 cannot encode; repair the text") from None
    return encode_basestring(text)


def _integer(value: int) -> str:
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        return int.__repr__(value)
    raise _RefusedError("is an integer beyond 2^53-1, which JavaScript would round; send it as text")


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise _RefusedError("is NaN or infinite, which JSON cannot hold; leave it out or send None")
    text = float.__repr__(value)
    if text.endswith(".0"):
        return text[:-2] if value else "0"
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    # JavaScript writes plain digits from 1e-6 up to 1e21, Python from 1e-4 up to 1e16; both give the shortest digits.
    power = int(exponent)
    return format(Decimal(text), "f") if -7 < power < 21 else f"{mantissa}e{power:+d}"


def _cycle(value: object, path: str, ancestors: tuple[int, ...] = ()) -> str | None:
    """Return the path of a container that is among its own ancestors, looking as deep as the check above did."""
    own = id(value)
    if own in ancestors:
        return path
    below: Iterable[tuple[str, object]] = ()
    if isinstance(value, Mapping):
        below = ((_step(key), item) for key, item in cast("Mapping[object, object]", value).items())
    elif isinstance(value, list | tuple):
        below = ((f"[{index}]", item) for index, item in enumerate(cast("Sequence[object]", value)))
    if len(ancestors) < MAX_DEPTH:
        for step, item in below:
            if found := _cycle(item, path + step, (*ancestors, own)):
                return found
    return None


def _step(key: object) -> str:
    if isinstance(key, str):
        key = without_personal_data(key)
        return f".{key}" if key.isidentifier() else f"[{encode_basestring_ascii(key)}]"
    return "[?]"
