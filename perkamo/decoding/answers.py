"""JSON of the service -> the classes of ``models``, strictly: a known field of the wrong type is never guessed at.

cattrs by itself turns ``"false"`` into True and null into ``"None"``; here each such answer is an error that names the
field.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Final, TypeVar, cast, get_args, get_origin

from attrs import fields, has
from cattrs import AttributeValidationNote, BaseConverter, ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from perkamo.constructors import Constructors, MismatchError
from perkamo.decoding.failures import read_failure
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.errors import PerkamoResponseError, WriteOutcome
from perkamo.models import (
    Answer,
    ApiResponse,
    BatchIngestResponse,
    Blueprint,
    EventFailure,
    EventIngestResponse,
    Level,
    Part,
    Program,
    ResponseMeta,
)
from perkamo.redaction import clean

AnswerT = TypeVar("AnswerT", bound=Answer)
_Hook = Callable[[object, type], object]

WIRE_NAMES: Final[Mapping[type, Mapping[str, str]]] = {
    Level: {"current_level_at": "currentLevelAt", "next_level_at": "nextLevelAt"},
    Blueprint: {"earning_rules": "earningRules"},
}
"""Names are alike here and on the wire, but for these."""

_NULL_IS_ABSENT: Final = (Program, Blueprint)
"""A Space without an active program may well answer null; the other clients read that as an empty catalogue."""


def decode(cls: type[AnswerT], body: bytes, meta: ResponseMeta, call: str, outcome: WriteOutcome | None) -> AnswerT:
    """Turn an answer's body into its class.

    Args:
        cls: The class of the answer.
        body: The bytes of the body.
        meta: What the answer's head told.
        call: Method and endpoint, for the error.
        outcome: What became of the write if the answer can't be used; None for a read.

    Raises:
        PerkamoResponseError: The body is not JSON, or a known field is missing or of the wrong type.
    """
    try:
        return structure(cls, parse(body), meta)
    except ValueError as error:
        reason = str(error)
    raise _unusable(call, reason, meta, outcome)


def decode_batch(
    body: bytes, meta: ResponseMeta, call: str, count: int, secrets: tuple[str, ...] = ()
) -> BatchIngestResponse:
    """Turn the answer to a batch into one result for each event; one that can't be read concerns its event alone.

    Args:
        body: The bytes of the body. A list alone is read as the results, too.
        meta: What the answer's head told.
        call: Method and endpoint, for the error.
        count: How many events were sent.
        secrets: Texts of the request that no message may repeat.

    Raises:
        PerkamoResponseError: The body can't be used, or there are more or fewer results than events, so that none can
            be told apart.
    """
    try:
        value = parse(body)
    except ValueError as error:
        reason = str(error)
    else:
        items = value.get("results") if isinstance(value, dict) else value
        if isinstance(items, list) and len(items) == count:
            results = tuple([_result(item, meta, secrets) for item in items])
            return BatchIngestResponse(results, raw=value if isinstance(value, dict) else {}, meta=meta)
        reason = f"has {len(items)} results for {count} events" if isinstance(items, list) else "has no list of results"
    raise _unusable(call, reason, meta, "unknown")


def _result(item: JSONValue, meta: ResponseMeta, secrets: tuple[str, ...]) -> EventIngestResponse | EventFailure:
    try:
        result = structure(EventIngestResponse, item, meta)
    except ValueError as error:
        return read_failure(item, str(error), meta, secrets)
    return result if result.accepted else read_failure(item, None, meta, secrets)


def decode_any(body: bytes, meta: ResponseMeta, call: str, outcome: WriteOutcome | None) -> ApiResponse:
    """Turn the answer of an endpoint without a class into JSON; no body reads as None.

    Raises:
        PerkamoResponseError: The body is not JSON.
    """
    try:
        return ApiResponse(raw=parse(body) if body else None, meta=meta)
    except ValueError as error:
        reason = str(error)
    raise _unusable(call, reason, meta, outcome)


def _unusable(call: str, reason: str, meta: ResponseMeta, outcome: WriteOutcome | None) -> PerkamoResponseError:
    advice = "Nothing was changed by reading."
    if outcome is not None:
        advice = "It may have been applied; sending it again with the same transaction id is safe."
    request = f" (request id {clean(meta.request_id)})" if meta.request_id else ""
    return PerkamoResponseError(
        f"{call}: the service answered {meta.status}, but the body {reason}{request}. {advice}",
        status=meta.status,
        request_id=meta.request_id,
        outcome=outcome,
        attempts=meta.attempts,
    )


class _WrongError(ValueError):
    """A value of the wrong type, and on the way up its path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts: list[str] = []

    def __str__(self) -> str:
        path = "".join(reversed(self.parts)).lstrip(".")
        return f"{self.reason} at {path}" if path else self.reason


def structure(cls: type[AnswerT], value: JSONValue, meta: ResponseMeta) -> AnswerT:
    """Turn parsed JSON into its class.

    Args:
        cls: The class of the answer.
        value: The parsed body.
        meta: What the answer's head told.

    Raises:
        ValueError: A known field is missing or of the wrong type; the text names its path.
    """
    if cls not in _NULL_IS_ABSENT:
        try:
            return _CONSTRUCTORS.of(cls)(value, meta)
        except (MismatchError, KeyError, ValueError):
            pass  # cattrs will say what is wrong
    answer: AnswerT = _converter().structure(value, cls)
    object.__setattr__(answer, "meta", meta)
    return answer


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    for kind, hook in ((str, _text), (bool, _bool), (int, _integer), (float, _number), (datetime, _moment)):
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_factory(_is_tuple, _tuple_hook)
    converter.register_structure_hook_factory(_is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(has, _class_hook)
    return converter


def _is_tuple(kind: object) -> bool:
    return get_origin(kind) is tuple


def _is_mapping(kind: object) -> bool:
    return get_origin(kind) is Mapping


def _class_hook(cls: type[Part], converter: BaseConverter) -> _Hook:
    names = WIRE_NAMES.get(cls, {})
    overrides = {
        one.name: override(rename=names.get(one.name), omit=one.name in {"raw", "meta"}) for one in fields(cls)
    }
    # The signature lists cattrs' own switches only; every other keyword is an attribute's override.
    generate = cast("Callable[..., _Hook]", make_dict_structure_fn)
    make = generate(cls, converter, **overrides)

    def hook(value: object, _: type) -> object:
        raw = cast("dict[str, object]", value)
        if type(value) is not dict:
            raise _WrongError(f"has {_name(value)} for an object")
        if cls in _NULL_IS_ABSENT:
            raw = {name: item for name, item in raw.items() if item is not None}
        try:
            made = make(raw, cls)
        except ClassValidationError as group:
            first = group.exceptions[0]
        else:
            object.__setattr__(made, "raw", value)
            return made
        raise _named(first, names)

    return hook


def _named(error: Exception, names: Mapping[str, str]) -> _WrongError:
    """Turn the first complaint of cattrs about a class into ours, with the field's name on the wire."""
    notes: list[object] = getattr(error, "__notes__", [])
    name = next((note.name for note in reversed(notes) if isinstance(note, AttributeValidationNote)), "?")
    wrong = error if isinstance(error, _WrongError) else _WrongError("lacks a field")
    wrong.parts.append(f".{names.get(name, name)}")
    return wrong


def _tuple_hook(kind: type, converter: BaseConverter) -> _Hook:
    inner = get_args(kind)[0]
    make = converter.get_structure_hook(inner)

    def hook(value: object, _: type) -> object:
        if type(value) is not list:
            raise _WrongError(f"has {_name(value)} for a list")
        made: list[object] = []
        try:
            for item in cast("list[object]", value):
                made.append(make(item, inner))  # noqa: PERF401 - their number is the index of a wrong one
        except _WrongError as wrong:
            wrong.parts.append(f"[{len(made)}]")
            raise
        return tuple(made)

    return hook


def _mapping_hook(kind: type, _: BaseConverter) -> _Hook:
    numbers = get_args(kind)[1] is float

    def hook(value: object, _: type) -> object:
        if type(value) is not dict:
            raise _WrongError(f"has {_name(value)} for an object")
        if numbers:
            for item in cast("dict[str, object]", value).values():
                _number(item, float)
        return cast("object", value)

    return hook


def _text(value: object, _: type) -> object:
    if type(value) is str:
        return value
    raise _WrongError(f"has {_name(value)} for a text")


def _bool(value: object, _: type) -> object:
    if type(value) is bool:
        return value
    raise _WrongError(f"has {_name(value)} for a boolean")


def _integer(value: object, _: type) -> object:
    if type(value) is int:
        return value
    raise _WrongError(f"has {_name(value)} for an integer")


def _number(value: object, _: type) -> object:
    if type(value) is int or type(value) is float:
        return value
    raise _WrongError(f"has {_name(value)} for a number")


def _moment(value: object, _: type) -> object:
    try:
        moment = datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise _WrongError("has no ISO 8601 text for a moment") from None
    if moment.tzinfo is None:
        raise _WrongError("has a moment without a zone")
    return moment


_NAMES: Final[Mapping[type, str]] = {
    str: "a text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    NoneType: "null",
}


def _name(value: object) -> str:
    return _NAMES.get(type(value), "an object")


_CONSTRUCTORS: Final = Constructors(WIRE_NAMES, _moment)
