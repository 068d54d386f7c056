"""The alternative shapes of the unpublished parts of an answer: one function for each alternative.

Each takes the object that has the part as parsed JSON, changes it, and returns it.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from perkamo.sandbox.messages import Json, JsonObject

Shape: TypeAlias = Callable[[JsonObject], JsonObject]


def without(name: str) -> Shape:
    """Return the shape without a field."""
    return lambda value: {key: inner for key, inner in value.items() if key != name}


def with_value(name: str, new: Json) -> Shape:
    """Return the shape with a fixed value in a field."""
    return lambda value: {**value, name: new}


def of_value(name: str, change: Callable[[Json], Json]) -> Shape:
    """Return the shape that changes the value of a field, if the field exists."""
    return lambda value: {key: change(inner) if key == name else inner for key, inner in value.items()}


def of_each(name: str, change: Callable[[JsonObject], Json]) -> Shape:
    """Return the shape that changes each object in a list."""
    return of_value(
        name,
        lambda items: [change(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else items,
    )


def by_key(key: str) -> Callable[[Json], Json]:
    """Return the change of a list into a map, by a field of its objects."""

    def change(items: Json) -> Json:
        objects = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        return {str(item[key]): without(key)(item) for item in objects}

    return change


def _entries(change: Callable[[Json], Json]) -> Callable[[Json], Json]:
    return lambda value: {key: change(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _wallet_list(value: Json) -> Json:
    members = value.items() if isinstance(value, dict) else ()
    return [{"wallet": key, "balance": balance} for key, balance in members]


def _level(change: Callable[[JsonObject], Json]) -> Shape:
    return of_value("level", lambda level: change(level) if isinstance(level, dict) else level)


def _fractions(level: JsonObject) -> JsonObject:
    return {key: float(inner) if type(inner) is int else inner for key, inner in level.items()}


CUSTOMER: Final[Mapping[str, Mapping[str, Shape]]] = {
    "customer.user_id": {
        "absent": without("user_id"),
        "id": lambda customer: {"id": customer.get("user_id"), **without("user_id")(customer)},
        "number": with_value("user_id", 77),
    },
    "customer.traits": {
        "absent": without("traits"),
        "list": of_value("traits", lambda traits: [*traits] if isinstance(traits, dict) else traits),
        "null": with_value("traits", None),
    },
    "customer.wallets": {
        "list": of_value("wallets", _wallet_list),
        "null": with_value("wallets", None),
        "objects": of_value("wallets", _entries(lambda balance: {"balance": balance})),
        "texts": of_value("wallets", _entries(str)),
    },
    "customer.level": {
        "absent": without("level"),
        "fractions": _level(_fractions),
        "number": _level(lambda level: level["level"]),
        "object without progress": _level(without("progress")),
        "text": _level(lambda level: f"Level {level['level']}"),
    },
    "customer.perks": {
        "map": of_value("perks", by_key("key")),
        "null": with_value("perks", None),
        "objects with translated names": of_each("perks", of_value("name", lambda name: {"en": name})),
        "texts": of_each("perks", lambda perk: perk["key"]),
    },
    "customer.flags": {"list": with_value("flags", ["vip"]), "object": with_value("flags", {"vip": True})},
    "customer.achievements": {"absent": without("achievements")},
}
"""Shapes of a customer, in answers and in streams."""

CUSTOMER_ANSWER: Final[Mapping[str, Mapping[str, Shape]]] = {
    "customer.object": {"in customer": lambda value: {"customer": value}, "in data": lambda value: {"data": value}},
}
"""Shapes of the object around a customer."""


def _rules(change: Callable[[Json], Json]) -> Shape:
    return of_value("blueprint", lambda blueprint: _inside(blueprint, of_value("earningRules", change)))


def _each_rule(change: Shape) -> Shape:
    return of_value("blueprint", lambda blueprint: _inside(blueprint, of_each("earningRules", change)))


def _inside(value: Json, change: Shape) -> Json:
    return change(value) if isinstance(value, dict) else value


def _amount(reward: Json) -> Json:
    return reward.get("amount", 1) if isinstance(reward, dict) else reward


def _formula(reward: Json) -> Json:
    return str(reward.get("formula", reward.get("amount"))) if isinstance(reward, dict) else reward


def _flat(program: JsonObject) -> JsonObject:
    blueprint = program.get("blueprint")
    return {**(blueprint if isinstance(blueprint, dict) else {}), **without("blueprint")(program)}


PROGRAM: Final[Mapping[str, Mapping[str, Shape]]] = {
    "rule.label": {
        "absent": _each_rule(without("label")),
        "object": _each_rule(of_value("label", lambda label: {"en": label})),
    },
    "rule.reward": {
        "number": _each_rule(of_value("reward", _amount)),
        "text": _each_rule(of_value("reward", _formula)),
    },
    "blueprint.earningRules": {
        "map": _rules(by_key("event")),
        "null": _rules(lambda _: None),
        "one without event": _rules(lambda rules: [{"label": "A rule"}, *rules] if isinstance(rules, list) else rules),
    },
    "blueprint.rest": {
        "absent": of_value(
            "blueprint", lambda value: _inside(value, lambda inner: {"earningRules": inner.get("earningRules")})
        )
    },
    "program.blueprint": {
        "flat": _flat,
        "null": with_value("blueprint", None),
        "text": with_value("blueprint", "shop"),
    },
    "program.metrics": {"absent": without("metrics"), "list": of_value("metrics", lambda value: [value])},
    "program.usage": {"absent": without("usage"), "number": with_value("usage", 7)},
    "program.object": {"in data": lambda value: {"data": value}},
}
"""Shapes of the program, the innermost first."""

FAILED_ITEM: Final[Mapping[str, Callable[[int, str], Json]]] = {
    "code and message": lambda _, text: {"code": "invalid_event", "message": text},
    "empty": lambda _, __: {},
    "error object": lambda _, text: {"error": {"code": "invalid_event", "message": text}},
    "error text": lambda _, text: {"error": text},
    "null": lambda _, __: None,
    "problem": lambda status, text: {"type": "about:blank", "title": "Bad event", "status": status, "detail": text},
    "status": lambda status, _: {"status": status},
    "text": lambda _, text: text,
}
"""Shapes of a failed item of a batch, from the status and the message that it would have alone."""

ERROR: Final[Mapping[str, Callable[[int, str], Json]]] = {
    "nested": lambda status, text: {"error": {"code": status, "message": text}},
    "problem": lambda status, text: {"type": "about:blank", "title": "Error", "status": status, "detail": text},
}
"""Shapes of the body of an error; ``empty`` and ``text`` are not JSON."""
