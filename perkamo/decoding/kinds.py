"""The hooks that cattrs calls for values and collections of one kind, strictly; and what they raise."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Final, TypeAlias, cast, get_args, get_origin

from perkamo.encoding.encode import JSONValue

if TYPE_CHECKING:
    from cattrs import BaseConverter

Hook: TypeAlias = Callable[[object, object], object]
"""What cattrs calls with a value and its type, to have it checked and turned into what a class holds."""


class MismatchError(ValueError):
    """A value of the wrong type; on the way up, the path to it grows."""

    def __init__(self, reason: str, *parts: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts: list[str] = [*parts]

    def __str__(self) -> str:
        path = "".join(reversed(self.parts)).lstrip(".")
        return f"{self.reason} at {path}" if path else self.reason


def name_of(value: object) -> str:
    """Name the JSON type of a value, for a reason."""
    return _TYPE_NAMES.get(type(value), "an object")


def located(error: KeyError | MismatchError, part: str) -> MismatchError:
    """Return the mismatch that an error is, with one more part of its path."""
    if isinstance(error, KeyError):
        return MismatchError("lacks a field", part)
    error.parts.append(part)
    return error


def wrong(value: object, wanted: str) -> MismatchError:
    """Return the mismatch of a value that is of another type than wanted."""
    return MismatchError(f"has {name_of(value)} instead of {wanted}")


def is_plain(kind: object) -> bool:
    """Return whether a field holds any JSON."""
    return kind == JSONValue  # an alias of itself, so a text


def is_tuple(kind: object) -> bool:
    """Return whether a field holds a list of one kind."""
    return get_origin(kind) is tuple


def is_mapping(kind: object) -> bool:
    """Return whether a field holds an object with any names."""
    return get_origin(kind) is Mapping


def tuple_hook(kind: type, converter: "BaseConverter") -> Hook:
    """Return the hook of a list whose items are of one kind."""
    make = converter.get_structure_hook(get_args(kind)[0])

    def hook(value: object, _: object) -> object:
        if type(value) is not list:
            raise wrong(value, "a list")
        made: list[object] = []
        try:
            for item in cast("list[object]", value):
                made.append(make(item, None))  # noqa: PERF401 - their number is the index of a wrong one
        except MismatchError as mismatch:
            raise located(mismatch, f"[{len(made)}]") from None
        return tuple(made)

    return hook


def mapping_hook(kind: type, _: "BaseConverter") -> Hook:
    """Return the hook of an object with any names, and numbers for values where the kind says so."""
    numbers = get_args(kind)[1] is float

    def hook(value: object, _: object) -> object:
        if type(value) is not dict:
            raise wrong(value, "an object")
        if numbers:
            for item in cast("dict[str, object]", value).values():
                if type(item) is not int and type(item) is not float:
                    raise wrong(item, "a number")
        return cast("object", value)

    return hook


def read_plain(value: object, _: object) -> object:
    """Take any JSON."""
    return value


def read_text(value: object, _: object) -> object:
    """Take text alone."""
    if type(value) is str:
        return value
    raise wrong(value, "a text")


def read_bool(value: object, _: object) -> object:
    """Take booleans alone."""
    if type(value) is bool:
        return value
    raise wrong(value, "a boolean")


def read_integer(value: object, _: object) -> object:
    """Take integers alone, also one that is written with a fraction of nothing."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)  # 1.0 is the integer 1 in JSON, and some languages write it so
    raise wrong(value, "an integer")


def read_number(value: object, _: object) -> object:
    """Take integers and floats, and no boolean."""
    if type(value) is int or type(value) is float:
        return value
    raise wrong(value, "a number")


def read_moment(value: object, _: object) -> object:
    """Take ISO 8601 text with a zone."""
    try:
        moment = datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise MismatchError("has a time that is not ISO 8601 text") from None
    if moment.tzinfo is None:
        raise MismatchError("has a time without a zone")
    return moment


_TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "a text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    NoneType: "null",
}
