"""What serializers ask of a value: plain data for ``json``, pairs for ``dict``, a schema for pydantic."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, cast, get_args

import attrs

from perkamo.encoding.encode import JSONValue, moment_text

if TYPE_CHECKING:
    from pydantic_core import core_schema


class SchemaHandler(Protocol):
    """What pydantic hands to a class that it asks for a schema."""

    def generate_schema(self, source_type: object, /) -> object:
        """Return the schema of a type."""
        ...


class Serializable:
    """Lets an attrs class be returned by a web handler, dumped as JSON, and be a field of a pydantic model.

    A field that does not count for equality, as ``raw`` and ``meta`` do not, is not part of the value and is left out.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, JSONValue]:
        """Return the typed fields as plain data, by their names here; ``json.dumps`` takes it.

        Returns:
            A fresh dict. Moments are text in UTC with milliseconds, such as ``2026-06-01T10:00:00.000Z``. What the
            service answered besides is in ``raw``, where there is one.
        """
        return _plain_fields(self)

    def __iter__(self) -> Iterator[tuple[str, JSONValue]]:
        """Yield the pairs of ``to_dict``: ``dict(value)`` is what FastAPI tries where a handler names no type."""
        return iter(self.to_dict().items())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: SchemaHandler) -> Mapping[str, object]:
        """Tell pydantic, which alone calls this, what the class looks like in JSON.

        An instance passes as it is; a mapping with its fields is turned into one.
        """
        return _schema(cls, handler)


def _value_fields(cls: type) -> list["attrs.Attribute[object]"]:
    return [one for one in attrs.fields(cls) if one.eq]


def _plain_fields(value: object) -> dict[str, JSONValue]:
    return {one.name: _plain(getattr(value, one.name)) for one in _value_fields(type(value))}


def _plain(value: object) -> JSONValue:
    if attrs.has(type(value)):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast("list[object]", value)]
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")  # an event's own JSON, or why it was refused
    return cast("JSONValue", value)


def _schema(cls: type, handler: SchemaHandler) -> "core_schema.CoreSchema":
    from pydantic_core import core_schema  # noqa: PLC0415 - it is there: pydantic calls

    def field(one: "attrs.Attribute[object]") -> core_schema.TypedDictField:
        kind = cast("object", one.type)
        if kind == JSONValue:
            schema: object = core_schema.any_schema()
        elif JSONValue in get_args(kind):
            schema = core_schema.dict_schema(core_schema.str_schema())
        elif isinstance(kind, type) and attrs.has(kind) and not issubclass(kind, Serializable):
            schema = _schema(kind, handler)
        else:
            schema = handler.generate_schema(kind)
        return core_schema.typed_dict_field(
            cast("core_schema.CoreSchema", schema), required=one.default is attrs.NOTHING
        )

    def make(fields: dict[str, object]) -> object:
        return cls(**fields)

    shape = core_schema.typed_dict_schema({one.name: field(one) for one in _value_fields(cls)}, cls=cls)
    return value_schema(cls, shape, make, _plain_fields)


def value_schema(
    cls: type,
    shape: "core_schema.CoreSchema",
    make: Callable[[dict[str, object]], object],
    dump: Callable[..., dict[str, JSONValue]],
) -> "core_schema.CoreSchema":
    """Return pydantic's schema of a class: an instance passes as it is, a mapping of this shape is turned into one.

    Args:
        cls: The class.
        shape: The schema of the mapping.
        make: Makes an instance of the mapping; a ValueError says why it can't.
        dump: Makes the mapping of an instance.
    """
    from pydantic_core import core_schema  # noqa: PLC0415 - it is there: pydantic calls

    from_fields = core_schema.no_info_after_validator_function(make, shape)
    return core_schema.json_or_python_schema(
        json_schema=from_fields,
        python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_fields]),
        serialization=core_schema.plain_serializer_function_ser_schema(dump),
    )
