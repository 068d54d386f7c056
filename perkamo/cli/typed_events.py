"""Writes a Space's events as a typed Python module: ``perkamo catalog --python``.

The layout is that of ``ruff format`` with its defaults, and stays the same at any greater line length. The same
catalogue always gives the same text, in any order of its rules.
"""

import keyword
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from perkamo.cli.fields import FieldType, context_fields
from perkamo.cli.text import columns
from perkamo.models import ProgramEvent

WIDTH: Final = 88
MAX_NAME: Final = 60
"""Characters; short enough that each line that begins with a name fits."""

_HEAD: Final = '''\
"""The events of a Perkamo Space, typed.

Written by ``perkamo catalog --python``: write it again when the program changes.
"""
'''

_MAKE_EVENT: Final = """\
def _event(
    user_id: str,
    event: str,
    context: Mapping[str, object] | None,
    extra: Mapping[str, object] | None,
    transaction_id: str | None,
    occurred_at: datetime | str | None,
) -> Event:
    return Event.from_mapping(
        {
            "user_id": user_id,
            "event": event,
            "transaction_id": transaction_id,
            "context": {**(context or {}), **(extra or {})},
            "occurred_at": occurred_at,
        }
    )
"""

_DOC: Final = '''\
    """Send one of the Space's events{how}.

    {facts}
    """
'''


@frozen
class _Typed:
    """One event, with its names in the module.

    Attributes:
        key: The event key.
        constant: The constant's name.
        context: The name of its context's TypedDict, or None if no formula reads the context.
        labels: The labels of its rules.
    """

    key: str
    constant: str
    context: str | None
    fields: dict[str, FieldType]
    labels: tuple[str, ...]


@frozen
class _Variant:
    """One way to call ``emit``: for these events, with this context."""

    event: str
    context: str | None


class _Names:
    """Makes names that are short enough and unique; a repeated name gets a number."""

    def __init__(self, joint: str) -> None:
        self._joint = joint
        self._taken: set[str] = set()

    def take(self, wish: str) -> str:
        name, count = wish[:MAX_NAME], 1
        while name in self._taken:
            count += 1
            name = f"{wish[:MAX_NAME]}{self._joint}{count}"
        self._taken.add(name)
        return name


def write_module(rules: Sequence[ProgramEvent]) -> str:
    """Return the source of a module with the Space's events.

    Args:
        rules: The event catalogue, with one rule at least.

    Returns:
        Constants, ``EventKey``, a TypedDict for each event whose formulas read its context, and the functions ``emit``
        and ``sync_emit``.
    """
    classes = _Names("")
    events = _named(rules, classes)
    blocks = ["\n".join(line for event in events for line in _constant(event)) + "\n"]
    blocks[0] += "\n" + _alias("EventKey", [event.key for event in events])
    for event in events:
        if event.context is not None:
            blocks += _typed_dicts(event.context, event.fields, classes)
    variants = [_Variant(_literal([event.key], 4, "event: ", ","), event.context) for event in events if event.context]
    plain = [event.key for event in events if event.context is None]
    if plain:
        variants.append(_Variant(_literal(plain, 4, "event: ", ","), None))
    blocks.append(_MAKE_EVENT)
    blocks += _functions(variants, "async def emit", "AsyncPerkamoClient", "await ", "")
    blocks += _functions(variants, "def sync_emit", "PerkamoClient", "", ", from synchronous code")
    return _HEAD + "\n" + _imports("".join(blocks[1:])) + "\n" + _joined(blocks)


def _joined(blocks: Sequence[str]) -> str:
    first, *others = blocks
    return first + "".join(f"\n\n{block}" for block in others)


def _named(rules: Sequence[ProgramEvent], classes: _Names) -> list[_Typed]:
    constants = _Names("_")
    events: list[_Typed] = []
    for key in sorted({rule.event for rule in rules}):
        own = [rule for rule in rules if rule.event == key]
        fields = context_fields(own)
        labels = tuple(sorted({rule.label for rule in own if rule.label}))
        context = classes.take(f"{_camel(key, 'Event')}Context") if fields else None
        events.append(_Typed(key, constants.take(_words(key, "EVENT").upper()), context, fields, labels))
    return events


def _words(key: str, otherwise: str) -> str:
    """Return a key as ASCII words joined by underscores, which can begin a name."""
    plain = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode()
    words = re.sub(r"[^0-9A-Za-z]+", "_", plain).strip("_")
    return words if words[:1].isalpha() else f"{otherwise}_{words}".rstrip("_")


def _camel(key: str, otherwise: str) -> str:
    return "".join(word[0].upper() + word[1:] for word in _words(key, otherwise).split("_"))


def _constant(event: _Typed) -> Iterator[str]:
    for label in event.labels:
        line = " ".join(f"# Rule: {''.join(sign if sign.isprintable() else ' ' for sign in label)}".split())
        yield line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
    line = f"{event.constant}: Final = {_quoted(event.key)}"
    inner = f"    {_quoted(event.key)}"
    yield line if columns(line) <= WIDTH or columns(inner) > WIDTH else f"{event.constant}: Final = (\n{inner}\n)"


def _alias(name: str, keys: Sequence[str]) -> str:
    return _literal(keys, 0, f"{name}: TypeAlias = ", "") + "\n"


def _literal(keys: Sequence[str], indent: int, before: str, after: str) -> str:
    """Return a line, or lines, with a ``Literal`` of keys."""
    space = " " * indent
    line = f"{space}{before}Literal[{_quoted(keys[0])}]{after}"
    if len(keys) == 1 and columns(line) <= WIDTH:
        return line
    inner = "\n".join(f"{space}    {_quoted(key)}," for key in keys)
    return f"{space}{before}Literal[\n{inner}\n{space}]{after}"


def _typed_dicts(name: str, fields: dict[str, FieldType], classes: _Names) -> Iterator[str]:
    """Yield the TypedDict of an object's fields, those of its inner objects first."""
    types: dict[str, str] = {}
    for key, kind in sorted(fields.items()):
        if isinstance(kind, dict):
            types[key] = classes.take(name.removesuffix("Context") + _camel(key, "Field"))
            yield from _typed_dicts(types[key], kind, classes)
        else:
            types[key] = "float" if kind == "number" else "JSONInput"
    if all(key.isidentifier() and not keyword.iskeyword(key) and not key.startswith("__") for key in types):
        lines = "".join(f"    {key}: {of}\n" for key, of in types.items())
        yield f"class {name}(TypedDict):\n{lines}"
    else:
        lines = "".join(f"        {_quoted(key)}: {of},\n" for key, of in types.items())
        yield f"{name} = TypedDict(\n    {_quoted(name)},\n    {{\n{lines}    }},\n)\n"


def _functions(variants: Sequence[_Variant], start: str, client: str, wait: str, how: str) -> Iterator[str]:
    """Yield a function with an overload for each way to call it; without overloads if there is only one way."""
    if len(variants) > 1:
        for variant in variants:
            yield f"@overload\n{_signature(variant, start, client)} ...\n"
        whole = _Variant("    event: EventKey,", "Mapping[str, object] | None = None")
    else:
        whole = variants[0]
    extra, facts = "None", "No formula reads its context."
    if whole.context is not None:
        extra = "extra"
        facts = "What the formulas read goes into ``context``; further facts go into ``extra``."
    yield (
        f"{_signature(whole, start, client)}\n{_DOC.format(how=how, facts=facts)}"
        f"    made = _event(user_id, event, context, {extra}, transaction_id, occurred_at)\n"
        f"    return {wait}client.emit_event(made)\n"
    )


def _signature(variant: _Variant, start: str, client: str) -> str:
    context = variant.context or "Context | None = None"
    extra = "" if variant.context is None else "    extra: Context | None = None,\n"
    return (
        f"{start}(\n    client: {client},\n    user_id: str,\n{variant.event}\n    context: {context},\n    *,\n{extra}"
        "    transaction_id: str | None = None,\n    occurred_at: datetime | str | None = None,\n"
        ") -> EventIngestResponse:"
    )


def _imports(code: str) -> str:
    """Return the import statements of the module, in the order of isort."""
    typing = ["Final", "Literal", "TypeAlias"]
    typing += ["TypedDict"] if re.search(r"(\(TypedDict\):|= TypedDict\()$", code, re.MULTILINE) else []
    typing += ["overload"] if re.search(r"^@overload$", code, re.MULTILINE) else []
    ours = ["AsyncPerkamoClient", "Context", "Event", "EventIngestResponse"]
    ours += ["JSONInput"] if re.search(r": JSONInput,?$", code, re.MULTILINE) else []
    return (
        "from collections.abc import Mapping\nfrom datetime import datetime\n"
        f"from typing import {', '.join(typing)}\n\n"
        f"from perkamo import (\n{''.join(f'    {name},{chr(10)}' for name in [*ours, 'PerkamoClient'])})\n"
    )


def _quoted(text: str) -> str:
    """Return a string literal in the quotes that ruff prefers."""
    signs = [
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text.replace("\\", "\\\\")
    ]
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(f"\\{sign}" if sign == quote else sign for sign in signs) + quote
