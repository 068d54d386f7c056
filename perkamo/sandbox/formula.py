"""Earning formulas such as ``{{product_price}} * 10``: a small parser and calculator.

Formulas have numbers, ``+ - * /``, parentheses and ``{{dotted.paths}}`` into the event's context. Every size is
limited, so that a stranger's program can neither run code nor use up memory.
"""

import math
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import field, frozen

from perkamo.sandbox.messages import Json

MAX_FORMULA_LENGTH: Final = 500
MAX_FORMULA_DEPTH: Final = 32
MAX_PATH_KEYS: Final = 16

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,15}(?:\.[0-9]{1,15})?)(?![0-9.A-Za-z_])"
    r"|\{\{\s*(?P<path>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*\}\}"
    r"|(?P<sign>[-+*/()]))",
    re.ASCII,
)
_LOOSEST_FIRST: Final = ("+-", "*/")

_Path: TypeAlias = tuple[str, ...]
_Step: TypeAlias = float | str | _Path


class FormulaError(ValueError):
    """The text is not a valid formula. The message says where and why."""


class FormulaValueError(ValueError):
    """The formula has no result for this context."""


@frozen
class Formula:
    """A formula, checked and ready to be evaluated.

    Attributes:
        text: The formula as written.
        paths: The context paths it reads, dotted, each once, in order.
    """

    text: str
    paths: tuple[str, ...]
    _steps: tuple[_Step, ...] = field(repr=False)

    def evaluate(self, context: Mapping[str, Json]) -> float:
        """Calculate with the numbers of an event's context.

        Args:
            context: The event's context.

        Returns:
            A finite number, calculated in double precision as JavaScript does.

        Raises:
            FormulaValueError: A path is missing or not a number, a divisor is zero, or the result is not finite.
        """
        stack: list[float] = []
        for step in self._steps:
            if isinstance(step, tuple):
                stack.append(_look_up(context, step))
            elif not isinstance(step, str):
                stack.append(step)
            elif step == "negate":
                stack.append(-stack.pop())
            else:
                right = stack.pop()
                stack.append(_calculate(step, stack.pop(), right))
        result = stack.pop()
        if not math.isfinite(result):
            raise FormulaValueError("the result is not a finite number")
        return result


def parse_formula(text: str) -> Formula:
    """Read a formula.

    Args:
        text: At most 500 characters, parentheses and signs nested at most 32 deep.

    Returns:
        The formula.

    Raises:
        FormulaError: It is not a valid formula.
    """
    if len(text) > MAX_FORMULA_LENGTH:
        raise FormulaError(f"is longer than {MAX_FORMULA_LENGTH} characters")
    parser = _Parser(_tokens(text))
    parser.read_sum()
    parser.expect_end()
    paths = dict.fromkeys(".".join(step) for step in parser.steps if isinstance(step, tuple))
    return Formula(text, tuple(paths), tuple(parser.steps))


def _tokens(text: str) -> list[tuple[_Step, int]]:
    tokens: list[tuple[_Step, int]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise FormulaError(
                f"cannot be read from character {position + 1} on;"
                " it takes numbers, + - * / ( ) and {{placeholders}}"
            )
        number, path, sign = match.group("number", "path", "sign")
        if number is not None:
            tokens.append((float(number), position))
        elif path is not None:
            keys = tuple(path.split("."))
            if len(keys) > MAX_PATH_KEYS:
                raise FormulaError(f"has a placeholder of more than {MAX_PATH_KEYS} keys")
            tokens.append((keys, position))
        else:
            tokens.append((sign, position))
        position = match.end()
    if not tokens:
        raise FormulaError("is empty")
    return tokens


class _Parser:
    """Precedence climbing; writes the steps in postfix order, so that evaluating needs no recursion."""

    def __init__(self, tokens: list[tuple[_Step, int]]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self.steps: list[_Step] = []

    def read_sum(self, looseness: int = 0) -> None:
        if looseness == len(_LOOSEST_FIRST):
            self._read_operand()
            return
        self.read_sum(looseness + 1)
        while (sign := self._take_any(_LOOSEST_FIRST[looseness])) is not None:
            self.read_sum(looseness + 1)
            self.steps.append(sign)

    def expect_end(self) -> None:
        if self._next < len(self._tokens):
            raise FormulaError(f"continues unexpectedly at character {self._tokens[self._next][1] + 1}")

    def _read_operand(self) -> None:
        if self._next == len(self._tokens):
            raise FormulaError("ends where a number, a placeholder or ( is expected")
        operand, position = self._tokens[self._next]
        self._next += 1
        if not isinstance(operand, str):
            self.steps.append(operand)
            return
        self._depth += 1
        if self._depth > MAX_FORMULA_DEPTH:
            raise FormulaError(f"is nested deeper than {MAX_FORMULA_DEPTH}")
        if operand == "(":
            self.read_sum()
            if self._take_any(")") is None:
                raise FormulaError(f"never closes the ( at character {position + 1}")
        elif operand in "+-":
            self._read_operand()
            if operand == "-":
                self.steps.append("negate")
        else:
            raise FormulaError(
                f"has {operand} at character {position + 1} where a number, a placeholder or ( is expected"
            )
        self._depth -= 1

    def _take_any(self, signs: str) -> str | None:
        if self._next == len(self._tokens):
            return None
        token = self._tokens[self._next][0]
        if not isinstance(token, str) or token not in signs:
            return None
        self._next += 1
        return token


def _look_up(context: Mapping[str, Json], path: _Path) -> float:
    value: Json | Mapping[str, Json] = context
    for key in path:
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise FormulaValueError(f"context.{'.'.join(path)} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormulaValueError(f"context.{'.'.join(path)} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise FormulaValueError(f"context.{'.'.join(path)} is not a finite number") from None


def _calculate(sign: str, left: float, right: float) -> float:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if right == 0:
        raise FormulaValueError("it divides by zero")
    return left / right
