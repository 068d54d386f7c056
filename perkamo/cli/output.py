"""What the commands print: tables and outlines for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Final
from unicodedata import combining, east_asian_width

from perkamo.encoding.encode import JSONValue
from perkamo.models import Level, UnlockedPerk

BAR_WIDTH: Final = 20


def print_lines(*lines: str) -> None:
    """Print lines; what the terminal's encoding lacks is shown as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.rstrip().encode(encoding, "backslashreplace").decode(encoding))


def print_stderr(line: str) -> None:
    """Print a line to standard error, where it is in no program's way."""
    print(printable(line), file=sys.stderr)


def print_json(value: object) -> None:
    """Print one JSON document, indented; in ASCII where the output's encoding is not UTF-8."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not is_utf8, indent=2))


def printable(value: object) -> str:
    """Return a value as text that cannot steer the terminal: in one line, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def number(value: float) -> str:
    """Return an amount with separators of thousands, and a fraction only where there is one."""
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def columns(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as their longest cell.

    Args:
        head: The columns' names.
        rows: As many cells each; they are made printable here.
    """
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(columns(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(line, widths, strict=True))


def facts(*rows: tuple[str, str]) -> Iterator[str]:
    """Yield lines of a name and a value each."""
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {printable(value)}" for name, value in rows)


def outline(value: JSONValue, indent: str = "") -> Iterator[str]:
    """Yield the lines of an object whose shape is unpublished: names and values, what is inside indented.

    Args:
        value: Parsed JSON.
        indent: What each line begins with.
    """
    for name, inner in _members(value):
        mark = "-" if name is None else printable(name)
        if isinstance(inner, dict | list) and inner and not _is_short(inner):
            yield f"{indent}{mark}"
            yield from outline(inner, indent + "  ")
        else:
            yield f"{indent}{mark} {_short(inner)}"


def level_line(level: Level) -> str:
    """Return a level with how far it is to the next."""
    filled = int(max(0.0, min(level.progress, 1.0)) * BAR_WIDTH)
    goal = "the top" if level.next_level_at is None else number(level.next_level_at)
    bar = "#" * filled + "." * (BAR_WIDTH - filled)
    return f"{level.level} [{bar}] {number(level.current)} of {goal} {level.wallet}"


def perk_line(perk: UnlockedPerk) -> str:
    """Return a perk by name, kind and key, as far as these are stated."""
    named = perk.name or perk.key or "without a name"
    details = ", ".join(text for text in (perk.type, perk.key if perk.name else None) if text)
    return f"{named} ({details})" if details else named


def _members(value: JSONValue) -> Iterator[tuple[str | None, JSONValue]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((None, inner) for inner in value)


def _is_short(value: JSONValue) -> bool:
    """Tell whether a value fits one line: few members, and hardly anything inside them."""
    inside = [inner for _, inner in _members(value)]
    room = 2 if isinstance(value, dict) else 0
    return len(inside) <= 4 and all(len([*_members(inner)]) <= room and not _has_depth(inner) for inner in inside)


def _has_depth(value: JSONValue) -> bool:
    return any(isinstance(inner, dict | list) and inner for _, inner in _members(value))


def _short(value: JSONValue) -> str:
    parts: list[str] = []
    for name, inner in _members(value):
        text = f"({_short(inner)})" if isinstance(inner, dict) and inner else printable(inner)
        parts.append(text if name is None else f"{printable(name)} {text}")
    return "  ".join(parts) if parts else printable(value)
