"""Pieces of text: text without control characters, numbers, and the one rule for plurals."""

import json
import re
from typing import Final
from unicodedata import combining, east_asian_width

_SAME_IN_SINGULAR: Final = ("ss", "us", "is", "ies")
"""Ends of words whose last letter is not a plural's, or is not all of it."""


def printable(value: object) -> str:
    """Return a value as text that is safe for a terminal: on one line, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def number(value: float) -> str:
    """Return an amount with thousands separators; a fraction only if there is one, without a rounding error."""
    return f"{int(value):,}" if value == int(value) else f"{value:,.15g}"


def count(value: float, plural: str) -> str:
    """Return an amount with its word, in the singular for one: ``1 star``, ``2 stars``.

    Args:
        value: The amount; for -1 the word is singular, too.
        plural: An English plural, such as ``lines``, or a wallet's key, which may be any word.
    """
    return f"{number(value)} {agree(value, _singular(plural), plural)}"


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines at its spaces, and within a word only if the word is too long.

    Args:
        text: The text; its beginning is kept, spaces included.
        width: The most columns of a line, at least 2.
    """
    lines: list[str] = []
    line = ""
    for word in re.findall(r" *[^ ]+", text):
        if columns(line + word) <= width:
            line += word
            continue
        if line:
            lines.append(line)
        line = word.lstrip() if lines else word
        while columns(line) > width:
            end = next(end for end in range(len(line), 0, -1) if columns(line[:end]) <= width)
            lines.append(line[:end])
            line = line[end:]
    return [*lines, line]


def agree(value: float, singular: str, plural: str) -> str:
    """Return the word that goes with an amount, such as ``has`` or ``have``."""
    return singular if abs(value) == 1 else plural


def columns(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def _singular(plural: str) -> str:
    return plural if plural.endswith(_SAME_IN_SINGULAR) else plural.removesuffix("s")
