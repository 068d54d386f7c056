"""The fields of an event's context that the earning rules read: the ``{{placeholders}}`` of their formulas.

Placeholders are published; the place of a formula in a rule is not, so every text of a rule is searched.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, TypeAlias

from perkamo.encoding.encode import JSONValue
from perkamo.events import RESERVED_CONTEXT_KEYS
from perkamo.models import ProgramEvent

FieldType: TypeAlias = "Literal['number', 'unknown'] | dict[str, FieldType]"
"""The type of a field: a number that a formula calculates with, an unknown type, or an object of fields."""

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")
_CALCULATION: Final = re.compile(r"[-+*/().\s0-9]*")
_NO_FORMULA: Final = ("event", "label")


def context_paths(rule: ProgramEvent) -> tuple[str, ...]:
    """Return the dotted paths that a rule reads from the context, each once, in order."""
    return tuple(dict.fromkeys(path for path, _ in _found(rule)))


def context_fields(rules: Iterable[ProgramEvent]) -> dict[str, FieldType]:
    """Return the fields that the rules of one event read, by name; ``{}`` if they read none.

    Args:
        rules: All rules of one event, which share its context.
    """
    fields: dict[str, FieldType] = {}
    for rule in rules:
        for path, is_number in _found(rule):
            _add(fields, path.split("."), is_number=is_number)
    return fields


def _found(rule: ProgramEvent) -> Iterator[tuple[str, bool]]:
    """Yield each placeholder's path, and whether its text only calculates with numbers."""
    for name, value in rule.raw.items():
        if name in _NO_FORMULA:
            continue
        for text in _texts(value):
            is_number = _CALCULATION.fullmatch(_PLACEHOLDER.sub("", text)) is not None
            for match in _PLACEHOLDER.finditer(text):
                keys = match[1].split(".")
                # Keys that the service computes itself can't be in a context: such a placeholder reads something else.
                if all(keys) and keys[0].lower() not in RESERVED_CONTEXT_KEYS:
                    yield match[1], is_number


def _texts(value: JSONValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _add(fields: dict[str, FieldType], keys: Sequence[str], *, is_number: bool) -> None:
    head, rest = keys[0], keys[1:]
    known = fields.get(head)
    if rest and not rest[0].isdigit() and (known is None or isinstance(known, dict)):
        inner = known or {}
        fields[head] = inner
        _add(inner, rest, is_number=is_number)
        return
    found: FieldType = "number" if is_number and not rest else "unknown"  # a digit may be an index or a key
    fields[head] = found if known in (None, found) else "unknown"
