"""Reads a program from a dict or from JSON, and reports errors with their place."""

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final, TypeVar, cast

from perkamo.encoding.ids import MAX_EVENT_LENGTH
from perkamo.sandbox.formula import Formula, FormulaError, parse_formula
from perkamo.sandbox.program import Achievement, EarningRule, Levels, LevelStep, Named, Perk, Program, Reward

MAX_ITEMS: Final = 1000
MAX_TEXT_LENGTH: Final = 256
MAX_PROGRAM_BYTES: Final = 1_000_000

_Item = TypeVar("_Item")


class ProgramError(ValueError):
    """The program is invalid.

    Attributes:
        path: The place, such as ``program.earningRules[2].reward.formula``.
        problems: All problems, each with its place; the first one is this error's text.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.problems: tuple[str, ...] = (f"{path} {reason}",)


def read_program(source: Mapping[str, object] | str | bytes) -> Program:
    """Read a program.

    Args:
        source: The blueprint as a mapping or as JSON, at most 1 MB; or an answer of ``GET /v1/program``, which contains
            one.

    Returns:
        The program, with every cross reference checked.

    Raises:
        ProgramError: The program is invalid; ``.path`` is the place.
    """
    fields = _parse(source)
    inner = fields.get("blueprint")
    if isinstance(inner, Mapping):
        fields = cast("Mapping[str, object]", inner)
    problems: list[ProgramError] = []
    program = _program(_Reader(fields, "program", problems))
    if problems:
        raise _all(problems)
    return program


def _parse(source: Mapping[str, object] | str | bytes) -> Mapping[str, object]:
    if isinstance(source, Mapping):
        return source
    if len(source) > MAX_PROGRAM_BYTES:
        raise ProgramError("program", f"is larger than {MAX_PROGRAM_BYTES} bytes")
    try:
        value = cast("object", json.loads(source))
    except (ValueError, RecursionError) as error:
        raise ProgramError("program", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProgramError("program", "must be an object")
    return cast("Mapping[str, object]", value)


class _Reader:
    """One object of the program: returns checked fields by name, and collects problems in lists."""

    def __init__(self, value: object, path: str, problems: list[ProgramError]) -> None:
        if not isinstance(value, Mapping):
            raise ProgramError(path, "must be an object")
        self.fields = cast("Mapping[str, object]", value)
        self.path = path
        self.problems = problems

    def only(self, *names: str) -> None:
        for key in self.fields:
            if key not in names:
                close = get_close_matches(str(key).replace("_", "").lower(), [name.lower() for name in names], n=1)
                meant = next(
                    (f"; did you mean {name}?" for name in names if [name.lower()] == close),
                    f"; it takes {', '.join(names)}",
                )
                self.problems.append(ProgramError(f"{self.path}.{key}", f"is unknown{meant}"))

    def text(self, name: str, default: str | None = None, limit: int = MAX_TEXT_LENGTH) -> str:
        value = self.fields.get(name, default)
        if not isinstance(value, str) or not value.strip() or len(value) > limit:
            raise ProgramError(f"{self.path}.{name}", f"must be text of 1 to {limit} characters")
        return value

    def number(self, name: str) -> float:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ProgramError(f"{self.path}.{name}", "must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ProgramError(f"{self.path}.{name}", "must be a finite number")
        return number

    def whole(self, name: str) -> int:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ProgramError(f"{self.path}.{name}", "must be a whole number of 1 or more")
        return value

    def one_of(self, name: str, known: Mapping[str, object] | None, default: str | None = None) -> str:
        value = self.text(name, default)
        if known is not None and value not in known:
            raise ProgramError(
                f"{self.path}.{name}", f"names {value!r}, which is not one of: {', '.join(known) or 'nothing'}"
            )
        return value

    def child(self, name: str) -> "_Reader":
        return _Reader(self.fields.get(name), f"{self.path}.{name}", self.problems)

    def each(self, name: str, make: Callable[["_Reader"], _Item]) -> tuple[_Item, ...]:
        value = self.fields.get(name, [])
        path = f"{self.path}.{name}"
        if not isinstance(value, list | tuple):
            raise ProgramError(path, "must be a list")
        items = cast("list[object] | tuple[object, ...]", value)
        if len(items) > MAX_ITEMS:
            raise ProgramError(path, f"has more than {MAX_ITEMS} items")
        made: list[_Item] = []
        for index, item in enumerate(items):
            with self.collecting():
                made.append(make(_Reader(item, f"{path}[{index}]", self.problems)))
        return tuple(made)

    @contextmanager
    def collecting(self) -> Generator[None]:
        """Record a problem of the block, and continue after it."""
        try:
            yield
        except ProgramError as error:
            self.problems.append(error)


def _program(reader: _Reader) -> Program:
    wallets = _list(reader, "wallets", _named, _wallets)
    known = (
        None if reader.problems else {wallet.key: wallet for wallet in wallets}
    )  # None: the existing keys are not known
    first = wallets[0].key if wallets else "points"
    levels, name = None, "Program"
    numbers: tuple[int, ...] | None = ()
    with reader.collecting():
        reader.only("$schema", "name", "wallets", "earningRules", "levels", "perks", "achievements", "rewards")
    with reader.collecting():
        name = reader.text("name", name)
    if reader.fields.get("levels") is not None:
        numbers = None  # levels that can't be read are not known
        with reader.collecting():
            levels = _levels(reader.child("levels"), known, first)
            numbers = tuple(step.level for step in levels.steps)
    return Program(
        name=name,
        wallets=wallets,
        rules=_list(reader, "earningRules", lambda item: _rule(item, known, first)),
        levels=levels,
        perks=_list(reader, "perks", lambda item: _perk(item, known, numbers, first), _by_key),
        achievements=_list(reader, "achievements", _achievement, _by_key),
        rewards=_list(reader, "rewards", lambda item: _reward(item, known, first), _by_key),
    )


def _all(problems: list[ProgramError]) -> ProgramError:
    problems[0].problems = tuple(str(problem) for problem in problems)
    return problems[0]


def _list(
    reader: _Reader,
    name: str,
    make: Callable[[_Reader], _Item],
    check: Callable[[_Reader, str, tuple[_Item, ...]], object] | None = None,
) -> tuple[_Item, ...]:
    items: tuple[_Item, ...] = ()
    with reader.collecting():
        items = reader.each(name, make)
        if check is not None:
            check(reader, name, items)
    return items


def _by_key(reader: _Reader, name: str, items: Sequence[Named]) -> dict[str, Named]:
    known: dict[str, Named] = {}
    for index, item in enumerate(items):
        if item.key in known:
            raise ProgramError(f"{reader.path}.{name}[{index}].key", f"occurs twice: {item.key!r}")
        known[item.key] = item
    return known


def _wallets(reader: _Reader, name: str, items: Sequence[Named]) -> None:
    if not items and not reader.problems:
        raise ProgramError(f"{reader.path}.{name}", "must name at least one wallet")
    _by_key(reader, name, items)


def _named(reader: _Reader) -> Named:
    reader.only("key", "name")
    key = reader.text("key")
    return Named(key, reader.text("name", key))


def _rule(reader: _Reader, wallets: Mapping[str, Named] | None, first: str) -> EarningRule:
    reader.only("event", "label", "reward")
    event = reader.text("event", limit=MAX_EVENT_LENGTH)
    reward = reader.child("reward")
    reward.only("wallet", "amount", "formula")
    if ("amount" in reward.fields) == ("formula" in reward.fields):
        raise ProgramError(reward.path, "must have either an amount or a formula")
    earns = _formula(reward) if "formula" in reward.fields else reward.number("amount")
    return EarningRule(event, reader.text("label", event), reward.one_of("wallet", wallets, first), earns)


def _formula(reader: _Reader) -> Formula:
    text = reader.fields["formula"]
    if not isinstance(text, str):
        raise ProgramError(f"{reader.path}.formula", "must be text")
    try:
        return parse_formula(text)
    except FormulaError as error:
        raise ProgramError(f"{reader.path}.formula", str(error)) from None


def _levels(reader: _Reader, wallets: Mapping[str, Named] | None, first: str) -> Levels:
    reader.only("wallet", "steps")
    steps = reader.each("steps", _step)
    if not steps:
        raise ProgramError(f"{reader.path}.steps", "must hold at least one level")
    for index in range(1, len(steps)):
        if steps[index].at <= steps[index - 1].at or steps[index].level <= steps[index - 1].level:
            raise ProgramError(f"{reader.path}.steps[{index}]", "must be above the level before it")
    return Levels(reader.one_of("wallet", wallets, first), steps)


def _step(reader: _Reader) -> LevelStep:
    reader.only("level", "name", "at")
    number = reader.whole("level")
    return LevelStep(number, reader.text("name", f"Level {number}"), reader.number("at"))


def _perk(reader: _Reader, wallets: Mapping[str, Named] | None, levels: tuple[int, ...] | None, first: str) -> Perk:
    reader.only("key", "name", "unlockAt")
    key = reader.text("key")
    name = reader.text("name", key)
    unlock = reader.child("unlockAt")
    unlock.only("level", "wallet", "balance")
    if "level" not in unlock.fields:
        return Perk(key, name, None, unlock.one_of("wallet", wallets, first), unlock.number("balance"))
    if len(unlock.fields) > 1:
        raise ProgramError(unlock.path, "must have either a level or a balance")
    level = unlock.whole("level")
    if levels is not None and level not in levels:
        raise ProgramError(f"{unlock.path}.level", "names a level that the program does not have")
    return Perk(key, name, level, first, 0.0)


def _achievement(reader: _Reader) -> Achievement:
    reader.only("key", "name", "event", "count")
    key = reader.text("key")
    return Achievement(
        key, reader.text("name", key), reader.text("event", limit=MAX_EVENT_LENGTH), reader.whole("count")
    )


def _reward(reader: _Reader, wallets: Mapping[str, Named] | None, first: str) -> Reward:
    reader.only("key", "name", "wallet", "cost")
    key = reader.text("key")
    cost = reader.number("cost")
    if cost <= 0:
        raise ProgramError(f"{reader.path}.cost", "must be above 0")
    return Reward(key, reader.text("name", key), reader.one_of("wallet", wallets, first), cost)
