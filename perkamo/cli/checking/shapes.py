"""The shapes of the parts of an answer, in the words of the table. Each function takes the object that has the part.

It returns ``CONFIRMED``, the name of an alternative, another difference in words, or None if that is unknown.
"""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Final, TypeAlias

from perkamo.cli.checking.findings import CONFIRMED
from perkamo.decoding.kinds import (
    Hook,
    MismatchError,
    name_of,
    read_bool,
    read_integer,
    read_moment,
    read_number,
    read_text,
)
from perkamo.encoding.encode import JSONValue

JsonObject: TypeAlias = dict[str, JSONValue]
Check: TypeAlias = Callable[[JsonObject], str | None]


def _otherwise(value: JSONValue) -> str:
    return f"has {name_of(value)}"


def _typed(name: str, read: Hook, *, optional: bool = False) -> Check:
    """Return whether the client can read a field."""

    def check(value: JsonObject) -> str | None:
        if name not in value:
            return CONFIRMED if optional else "is missing"
        inner = value[name]
        if optional and inner is None:
            return CONFIRMED
        try:
            read(inner, None)
        except MismatchError as mismatch:
            return mismatch.reason.partition(" instead")[0]
        return CONFIRMED

    return check


def _collection(name: str, kind: type, *kinds: type) -> Check:
    """Return whether a field is a list or an object, and all values in it have one of some types."""

    def check(value: JsonObject) -> str | None:
        if name not in value:
            return "is missing"
        inner = value[name]
        if type(inner) is not kind:
            return _otherwise(inner)
        items = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
        other = next((one for one in items if type(one) not in kinds), ...)
        return CONFIRMED if isinstance(other, EllipsisType) else f"{_otherwise(inner)} with {name_of(other)}"

    return check


def _progress(level: JsonObject) -> str | None:
    match level.get("progress"):
        case int() | float() as progress if not isinstance(progress, bool) and not 0 <= progress <= 1:
            return "is not from 0 to 1"
        case _:
            return _typed("progress", read_number)(level)


def _token_type(token: JsonObject) -> str | None:
    match token.get("token_type"):
        case str() as text:
            return CONFIRMED if text == "Bearer" else "is another one"
        case _:
            return _typed("token_type", read_text)(token)


def _user_id(customer: JsonObject) -> str | None:
    match customer:
        case {"user_id": str()}:
            return CONFIRMED
        case {"user_id": int() | float() as value}:
            return "number" if not isinstance(value, bool) else _otherwise(value)
        case {"user_id": value}:
            return _otherwise(value)
        case {"id": _}:
            return "id"
        case _:
            return "absent"


def _traits(customer: JsonObject) -> str | None:
    match customer:
        case {"traits": dict()}:
            return CONFIRMED
        case {"traits": list()}:
            return "list"
        case {"traits": None}:
            return "null"
        case {"traits": value}:
            return _otherwise(value)
        case _:
            return "absent"


def _wallets(customer: JsonObject) -> str | None:  # noqa: PLR0911 - one flat dispatch
    match customer:
        case {"wallets": dict() as wallets}:
            kinds = {name_of(value) for value in wallets.values()}
            if not kinds:
                return None
            if kinds <= {"an integer", "a number"}:
                return CONFIRMED
            return {"an object": "objects", "a text": "texts"}.get(" ".join(kinds), "has other balances")
        case {"wallets": list()}:
            return "list"
        case {"wallets": None}:
            return "null"
        case {"wallets": value}:
            return _otherwise(value)
        case _:
            return "is missing"


LEVEL_FIELDS: Final = ("wallet", "level", "current", "currentLevelAt", "progress")


def _level(customer: JsonObject) -> str | None:  # noqa: PLR0911 - one flat dispatch
    match customer:
        case {"level": None}:
            return None
        case {"level": dict() as level}:
            missing = [name for name in LEVEL_FIELDS if name not in level]
            if missing:
                return f"object without {' and '.join(missing)}"
            return "fractions" if type(level["level"]) is float else CONFIRMED
        case {"level": str()}:
            return "text"
        case {"level": int() | float()}:
            return "number"
        case {"level": value}:
            return _otherwise(value)
        case _:
            return "absent"


def _perks(customer: JsonObject) -> str | None:  # noqa: PLR0911 - one flat dispatch
    match customer:
        case {"perks": []}:
            return None
        case {"perks": [dict() as perk, *_]}:
            return "objects with translated names" if isinstance(perk.get("name"), dict) else CONFIRMED
        case {"perks": [str(), *_]}:
            return "texts"
        case {"perks": dict()}:
            return "map"
        case {"perks": None}:
            return "null"
        case {"perks": value}:
            return _otherwise(value)
        case _:
            return "is missing"


def _flags(customer: JsonObject) -> str | None:
    match customer:
        case {"flags": list()}:
            return "list"
        case {"flags": dict()}:
            return "object"
        case {"flags": value}:
            return _otherwise(value)
        case _:
            return CONFIRMED


def _achievements(customer: JsonObject) -> str | None:
    match customer:
        case {"achievements": list()}:
            return CONFIRMED
        case {"achievements": value}:
            return _otherwise(value)
        case _:
            return "absent"


CUSTOMER: Final[Mapping[str, Check]] = {
    "customer.user_id": _user_id,
    "customer.traits": _traits,
    "customer.wallets": _wallets,
    "customer.level": _level,
    "customer.perks": _perks,
    "customer.flags": _flags,
    "customer.achievements": _achievements,
}


def _result_level(result: JsonObject) -> str | None:
    match result.get("level"):
        case None | dict():
            return CONFIRMED
        case level:
            return _otherwise(level)


RESULT: Final[Mapping[str, Check]] = {
    "result.applied": _typed("applied", read_bool),
    "result.duplicate": _typed("duplicate", read_bool),
    "result.delta": _collection("delta", list, dict),
    "result.leveled_up": _typed("leveled_up", read_bool),
    "result.unlocked": _collection("unlocked", list, dict),
    "result.wallet_state": _collection("wallet_state", dict, int, float),
    "result.level": _result_level,
}
DELTA: Final[Mapping[str, Check]] = {
    "delta.wallet": _typed("wallet", read_text),
    "delta.amount": _typed("amount", read_number),
}
LEVEL: Final[Mapping[str, Check]] = {
    "level.wallet": _typed("wallet", read_text),
    "level.level": _typed("level", read_integer),
    "level.current": _typed("current", read_number),
    "level.currentLevelAt": _typed("currentLevelAt", read_number),
    "level.progress": _progress,
    "level.nextLevelAt": _typed("nextLevelAt", read_number, optional=True),
}
UNLOCKED: Final[Mapping[str, Check]] = {
    "unlocked.type": _typed("type", read_text, optional=True),
    "unlocked.key": _typed("key", read_text, optional=True),
    "unlocked.name": _typed("name", read_text, optional=True),
}
TOKEN: Final[Mapping[str, Check]] = {
    "token.token": _typed("token", read_text),
    "token.token_type": _token_type,
    "token.expires_at": _typed("expires_at", read_moment),
    "token.expires_in": _typed("expires_in", read_integer),
}


def whole_customer(value: JSONValue) -> tuple[str, JsonObject | None]:
    """Return whether a customer is the whole answer, and return it."""
    match value:
        case {"customer": dict() as inner}:
            return "in customer", inner
        case {"data": dict() as inner}:
            return "in data", inner
        case dict():
            return CONFIRMED, value
        case _:
            return _otherwise(value), None


def whole_program(value: JSONValue) -> tuple[str, JsonObject | None]:
    """Return whether the program is the whole answer, and return it."""
    match value:
        case {"data": dict() as inner}:
            return "in data", inner
        case dict():
            return CONFIRMED, value
        case None:
            return "null", None
        case _:
            return _otherwise(value), None


def blueprint(program: JsonObject) -> tuple[str, JsonObject | None]:
    """Record the shape of the blueprint, and return it."""
    match program:
        case {"blueprint": dict() as inner}:
            return CONFIRMED, inner
        case {"earningRules": _}:
            return "flat", program
        case {"blueprint": None}:
            return "null", None
        case {"blueprint": str()}:
            return "text", None
        case {"blueprint": value}:
            return _otherwise(value), None
        case _:
            return "is missing", None


def rules(plan: JsonObject) -> tuple[str | None, list[JsonObject]]:
    """Record the shape of the earning rules, and return those that name an event."""
    match plan:
        case {"earningRules": list() as items}:
            return _rule_list(items)
        case {"earningRules": dict() as items}:
            return "map", [{"event": key, **item} for key, item in items.items() if isinstance(item, dict)]
        case {"earningRules": None}:
            return "null", []
        case {"earningRules": value}:
            return _otherwise(value), []
        case _:
            return "is missing", []


def _rule_list(items: list[JSONValue]) -> tuple[str | None, list[JsonObject]]:
    objects = [item for item in items if isinstance(item, dict)]
    named = [item for item in objects if isinstance(item.get("event"), str)]
    if not items:
        return None, []
    if not objects:
        return f"has a list with {name_of(items[0])}", []
    return ("one without event" if named and len(named) < len(items) else CONFIRMED), named


def label(rule: JsonObject) -> str:
    """Return the shape of a rule's label."""
    match rule:
        case {"label": str()}:
            return CONFIRMED
        case {"label": dict()}:
            return "object"
        case {"label": value}:
            return _otherwise(value)
        case _:
            return "absent"


def reward(rule: JsonObject) -> str:
    """Return the shape of a rule's reward."""
    match rule:
        case {"reward": {"amount": int() | float()} | {"formula": str()}}:
            return CONFIRMED
        case {"reward": int() | float()}:
            return "number"
        case {"reward": str()}:
            return "text"
        case {"reward": value}:
            return _otherwise(value)
        case _:
            return "is missing"


_REASONS: Final = frozenset({"error", "errors", "message", "code", "status", "reason", "detail"})


def failed_item(item: JSONValue) -> str:  # noqa: C901, PLR0911 - one flat dispatch
    """Return the shape of a failed item of a batch."""
    match item:
        case {"applied": False, "error": dict()}:
            return CONFIRMED
        case {"applied": False, **rest}:
            return "has another shape" if _REASONS & rest.keys() else "unexplained"
        case {"detail": str()}:
            return "problem"
        case {"code": str(), "message": str()}:
            return "code and message"
        case {"error": dict()}:
            return "error object"
        case {"error": str()}:
            return "error text"
        case {"status": int()}:
            return "status"
        case None:
            return "null"
        case str():
            return "text"
        case {}:
            return "empty" if not item else "has another shape"
        case _:
            return _otherwise(item)


def error(body: bytes, value: JSONValue) -> str:
    """Return the shape of an error's body."""
    match value:
        case {"message": str()}:
            return CONFIRMED
        case {"error": dict()}:
            return "nested"
        case {"detail": str()} | {"title": str()}:
            return "problem"
        case None:
            return "text" if body.strip() else "empty"
        case _:
            return "has no message"


def identified(body: bytes, value: JSONValue) -> str:
    """Return the shape of the answer to identify."""
    match value:
        case {"wallets": _} | {"perks": _}:
            return "customer"
        case {"user_id": str(), "traits": dict()}:
            return CONFIRMED
        case list():
            return "list"
        case None:
            return "null" if body.strip() else "empty"
        case _:
            return "has another shape"
