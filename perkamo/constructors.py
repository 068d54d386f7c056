"""Plain constructors for answers, written as source from the attrs classes at first use.

They check as strictly as ``codec`` asks for and cost a third of cattrs' way. They say no more than that something is
wrong; what it is, and where, ``codec`` finds out by cattrs, which walks the same classes.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import NoneType
from typing import TypeVar, cast, get_args, get_origin, get_type_hints

import attrs

from perkamo.models import Part, ResponseMeta

PartT = TypeVar("PartT", bound=Part)
Constructor = Callable[[object, ResponseMeta], PartT]
Moment = Callable[[object, type], object]


class MismatchError(Exception):
    """A field is missing or of the wrong type."""


class Constructors:
    """Makes constructors, each once.

    Args:
        names: Names on the wire of attributes that differ from theirs, by class.
        moment: Reads a moment in time.
    """

    def __init__(self, names: Mapping[type, Mapping[str, str]], moment: Moment) -> None:
        self._names = names
        self._moment = moment
        self._made: dict[object, object] = {}

    def of(self, cls: type[PartT]) -> Constructor[PartT]:
        """Return the function that turns parsed JSON, and the meta of its answer, into an instance.

        Raises:
            TypeError: The class has a field of a type that has no rule here.
        """
        made = self._made.get(cls)
        if made is None:
            made = self._made[cls] = self._make(cls)
        return cast("Constructor[PartT]", made)

    def _make(self, cls: type[Part]) -> object:
        namespace: dict[str, object] = {"Mismatch": MismatchError, "cls": cls, "new": object.__new__}
        namespace["moment"] = self._moment
        lines = [*_refuse_unless("type(raw) is dict"), *self._read_fields(cls, namespace), "made = new(cls)"]
        for attribute in attrs.fields(cls):
            value = attribute.name if attribute.name in {"raw", "meta"} else f"v_{attribute.name}"
            # The slot's own descriptor, which asks no frozen class for leave: nobody has seen the instance yet.
            namespace[f"set_{attribute.name}"] = getattr(cls, attribute.name).__set__
            lines.append(f"set_{attribute.name}(made, {value})")
        source = "\n".join(["def make(raw, meta):", *_indented([*lines, "return made"])])
        exec(source, namespace)  # noqa: S102 - as attrs makes its own methods; all names are those of our classes
        return namespace["make"]

    def _read_fields(self, cls: type[Part], namespace: dict[str, object]) -> list[str]:
        lines: list[str] = []
        hints, names = get_type_hints(cls), self._names.get(cls, {})
        for attribute in attrs.fields(cls):
            if attribute.name in {"raw", "meta"}:
                continue
            key, name = names.get(attribute.name, attribute.name), f"v_{attribute.name}"
            reading = [f"{name} = raw[{key!r}]", *self._check(hints[attribute.name], name, namespace)]
            default: object = attribute.default
            if default is attrs.NOTHING:
                lines += reading
                continue
            factory: object = getattr(default, "factory", None)
            namespace[f"d_{attribute.name}"] = default if factory is None else factory
            otherwise = f"d_{attribute.name}" if factory is None else f"d_{attribute.name}()"
            lines += [f"if {key!r} in raw:", *_indented(reading), "else:", f"    {name} = {otherwise}"]
        return lines

    def _check(self, kind: object, name: str, namespace: dict[str, object]) -> list[str]:
        """Write the statements that check a variable, and turn it into what the class holds."""
        origin, inner = get_origin(kind), get_args(kind)
        if NoneType in inner:
            [other] = [one for one in inner if one is not NoneType]
            return [f"if {name} is not None:", *_indented(self._check(other, name, namespace))]
        if kind in _CHECKS:
            return _refuse_unless(_CHECKS[kind].format(name))
        if kind is datetime:
            return [f"{name} = moment({name}, None)"]
        if origin is tuple:
            made = self._nested(inner[0], namespace)
            return [*_refuse_unless(f"type({name}) is list"), f"{name} = tuple([{made}(one, meta) for one in {name}])"]
        if origin is Mapping:
            lines = _refuse_unless(f"type({name}) is dict")
            if inner[1] is float:
                lines += [f"for one in {name}.values():", *_indented(_refuse_unless(_CHECKS[float].format("one")))]
            return lines
        return [f"{name} = {self._nested(kind, namespace)}({name}, meta)"]

    def _nested(self, kind: object, namespace: dict[str, object]) -> str:
        if not (isinstance(kind, type) and issubclass(kind, Part)):
            raise TypeError(f"there is no rule for {kind!r}")
        namespace[f"make_{kind.__name__}"] = self.of(kind)
        return f"make_{kind.__name__}"


_CHECKS: Mapping[object, str] = {
    str: "type({0}) is str",
    bool: "type({0}) is bool",
    int: "type({0}) is int",
    float: "type({0}) is int or type({0}) is float",
}


def _refuse_unless(condition: str) -> list[str]:
    return [f"if not ({condition}):", "    raise Mismatch"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
