"""Writes the hook that cattrs calls for a class, as source, from the class's attrs fields."""

import logging
from collections.abc import Mapping
from types import NoneType
from typing import Final, Protocol, cast, get_args, get_origin

import attrs
from attrs import define

from perkamo.contract import FACTS
from perkamo.decoding.kinds import Hook, MismatchError, is_plain, located, wrong
from perkamo.models import (
    Blueprint,
    BrowserToken,
    Customer,
    EventIngestResponse,
    Level,
    Part,
    Program,
    ProgramEvent,
    UnlockedPerk,
    WalletDelta,
)


class HookOf(Protocol):
    """Finds cattrs' hook of a kind."""

    def __call__(self, kind: object, *, patient: bool) -> Hook:
        """Return the strict one, or the one for what lies in an unpublished field."""
        ...


WIRE_NAMES: Final[Mapping[type, Mapping[str, str]]] = {
    Level: {"current_level_at": "currentLevelAt", "next_level_at": "nextLevelAt"},
    Blueprint: {"earning_rules": "earningRules"},
}
"""Names are alike here and on the wire, except for these."""

FACT_NAMES: Final[Mapping[type, str]] = {
    EventIngestResponse: "result",
    WalletDelta: "delta",
    Level: "level",
    UnlockedPerk: "unlocked",
    Customer: "customer",
    Program: "program",
    Blueprint: "blueprint",
    ProgramEvent: "rule",
    BrowserToken: "token",
}
"""What the fields of each class are called in the table of what is known, before the dot."""

_EXPECTED: Final = frozenset({"customer.user_id", "program.blueprint"})
"""Fields whose absence is reported, because an answer without them may be something else altogether."""

_logger: Final = logging.getLogger("perkamo")
_reported: Final[set[str]] = set()


def tell_unread(name: str, reason: str, effect: str = "What cannot be read is left out, and stays in .raw") -> None:
    """Say once in the log that something unpublished is not as we expect it."""
    if name not in _reported:
        _reported.add(name)
        known = FACTS[name].known
        place = "published for event results only" if known == "published" else known
        _logger.warning("%s (%s) %s. %s; this is logged once", *(name, place, reason, effect))


def class_hook(cls: type[Part], hook_of: HookOf, *, patient: bool) -> Hook:
    """Write the function that structures a class, and compile it.

    Args:
        cls: The class.
        hook_of: Finds the hooks of its fields.
        patient: It is in an unpublished field, so only what it can't be built without is required.
    """
    writer = _Writer(cls, hook_of, patient, {})
    lines = ["if type(raw) is not dict:", "    raise wrong(raw, 'an object')"]
    setters = ["set_raw(made, raw)"]
    for attribute in attrs.fields(cls):
        if attribute.name not in {"raw", "meta"}:
            lines += writer.field(attribute)
            # The slot's own descriptor, which asks no frozen class for leave: nobody has seen the instance yet.
            writer.namespace[f"set_{attribute.name}"] = getattr(cls, attribute.name).__set__
            setters.append(f"set_{attribute.name}(made, v_{attribute.name})")
    lines += ["made = new(cls)", *setters, "return made"]
    source = "\n".join(["def hook(raw, _):", *_indented(lines)])
    namespace = writer.namespace | {
        "cls": cls,
        "new": object.__new__,
        "set_raw": vars(Part)["raw"].__set__,
        "Mismatch": MismatchError,
        "wrong": wrong,
        "located": located,
        "tell": tell_unread,
        "items": _readable_items,
        "entries": _readable_entries,
    }
    exec(source, namespace)  # noqa: S102 - as attrs makes its own methods; all names are those of our classes
    return cast("Hook", namespace["hook"])


@define
class _Writer:
    """Writes the statements of one hook, and collects what they name."""

    cls: type[Part]
    hook_of: HookOf
    patient: bool
    namespace: dict[str, object]

    def field(self, attribute: "attrs.Attribute[object]") -> list[str]:
        """Write the statements that leave a field's value in a variable."""
        wire = WIRE_NAMES.get(self.cls, {}).get(attribute.name, attribute.name)
        fact = FACTS.get(f"{FACT_NAMES.get(self.cls)}.{wire}")
        is_unpublished = self.patient or (fact is not None and fact.known != "published")
        name = f"v_{attribute.name}"
        reading = [f"{name} = raw[{wire!r}]"]
        failing = ["except (KeyError, Mismatch) as error:", f"    raise located(error, '.{wire}') from None"]
        if attribute.default is attrs.NOTHING:
            reading += self._check(attribute.type, name, patient=is_unpublished)
            return ["try:", *_indented(reading), *failing]
        otherwise = f"{name} = {self._default(attribute)}"
        if not is_unpublished or fact is None:
            reading += self._check(attribute.type, name, patient=is_unpublished)
            present = ["try:", *_indented(reading), *failing]
            return [f"if {wire!r} in raw:", *_indented(present), "else:", f"    {otherwise}"]
        reading += self._check(attribute.type, name, patient=True, fact=fact.name)
        missing = [f"    tell({fact.name!r}, 'is missing')"] if fact.name in _EXPECTED else []
        unread = ["except Mismatch as error:", f"    {otherwise}", f"    tell({fact.name!r}, str(error))"]
        return ["try:", *_indented(reading), "except KeyError:", f"    {otherwise}", *missing, *unread]

    def _default(self, attribute: "attrs.Attribute[object]") -> str:
        """Return the expression for the value of a field that is not there."""
        name = f"default_{attribute.name}"
        factory: object = getattr(attribute.default, "factory", None)
        self.namespace[name] = attribute.default if factory is None else factory
        return name if factory is None else f"{name}()"

    def _check(self, kind: object, name: str, *, patient: bool, fact: str | None = None) -> list[str]:
        """Write the statements that check a variable, and turn it into what the class holds.

        The usual case is checked in line; cattrs' hook of the kind reads the rest, or says what is wrong with it.
        """
        origin, inner = get_origin(kind), get_args(kind)
        if is_plain(kind):
            return []
        if NoneType in inner:
            [other] = [one for one in inner if one is not NoneType]
            lines = self._check(other, name, patient=patient, fact=fact)
            return [f"if {name} is not None:", *_indented(lines)]
        if fact is not None and origin in _PATIENT_READERS:
            self.namespace[f"hook_{name}"] = self.hook_of(inner[-1 if origin is Mapping else 0], patient=True)
            return [f"{name} = {_PATIENT_READERS[origin]}({name}, hook_{name}, {fact!r})"]
        self.namespace[f"hook_{name}"] = self.hook_of(kind, patient=patient)
        read = f"{name} = hook_{name}({name}, None)"
        if kind in _UNUSUAL:
            return [f"if {_UNUSUAL[kind].format(name)}:", f"    {read}"]
        return self._check_collection(origin, inner, name, read, patient=patient) or [read]

    def _check_collection(
        self, origin: object, inner: tuple[object, ...], name: str, read: str, *, patient: bool
    ) -> list[str]:
        """Write the check of a list, most of which are empty or have one item, or of a map of numbers."""
        if origin is tuple:
            self.namespace[f"item_{name}"] = self.hook_of(inner[0], patient=patient)
            short = f"{name} = (item_{name}({name}[0], None),) if {name} else ()"
            made = ["try:", f"    {short}", "except Mismatch:", f"    {read}"]
            return [f"if type({name}) is list and len({name}) < 2:", *_indented(made), "else:", f"    {read}"]
        if origin is Mapping and inner[1] is float:
            each = [f"if {_UNUSUAL[float].format('one')}:", f"    {read}"]
            return [f"if type({name}) is not dict:", f"    {read}", f"for one in {name}.values():", *_indented(each)]
        return []


_UNUSUAL: Final[Mapping[object, str]] = {
    str: "type({0}) is not str",
    bool: "type({0}) is not bool",
    int: "type({0}) is not int",
    float: "type({0}) is not int and type({0}) is not float",
}
"""When a value is left to the hook of its kind."""

_PATIENT_READERS: Final[Mapping[object, str]] = {tuple: "items", Mapping: "entries"}
"""What reads a collection in an unpublished field: one item that can't be read does not hide the others."""


def _readable_items(value: object, hook: Hook, name: str) -> tuple[object, ...]:
    if type(value) is not list:
        raise wrong(value, "a list")
    made: list[object] = []
    for place, item in enumerate(cast("list[object]", value)):
        try:
            made.append(hook(item, None))
        except MismatchError as mismatch:
            tell_unread(name, str(located(mismatch, f"[{place}]")))
    return tuple(made)


def _readable_entries(value: object, hook: Hook, name: str) -> dict[str, object]:
    if type(value) is not dict:
        raise wrong(value, "an object")
    made: dict[str, object] = {}
    for key, item in cast("dict[str, object]", value).items():
        try:
            made[key] = hook(item, None)
        except MismatchError as mismatch:
            tell_unread(name, f"{mismatch} in one of its entries")
    return made


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
