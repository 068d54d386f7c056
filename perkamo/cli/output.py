"""The output of the commands: lines for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from perkamo.cli import stdio
from perkamo.cli.layout import Cell, Styled, fit
from perkamo.cli.terminal import Style
from perkamo.cli.text import count, number, printable
from perkamo.encoding.encode import JSONValue
from perkamo.models import Level, UnlockedPerk, WalletDelta

BAR_WIDTH: Final = 20


def print_lines(*lines: str) -> None:
    """Print lines; characters that the terminal's encoding lacks are escaped."""
    for line in lines:
        stdio.write(f"{line.rstrip()}\n")


def print_json(value: object) -> None:
    """Print one JSON document, indented; in ASCII if the output's encoding is not UTF-8."""
    stdio.write(f"{json.dumps(value, ensure_ascii=not _is_utf8(), indent=2)}\n")


def print_json_lines(*values: object) -> None:
    """Print one JSON document on a line, at once; in ASCII if the output's encoding is not UTF-8."""
    for value in values:
        stdio.write(f"{json.dumps(value, ensure_ascii=not _is_utf8())}\n")
    stdio.flush()


def outline(value: JSONValue, indent: str = "") -> Iterator[str]:
    """Yield the lines of an object whose shape is unpublished: names and values, with inner values indented.

    Args:
        value: Parsed JSON.
        indent: The beginning of each line.
    """
    for name, inner in _members(value):
        mark = "-" if name is None else printable(name)
        if isinstance(inner, dict | list) and inner and not _is_short(inner):
            yield from fit(f"{indent}{mark}")
            yield from outline(inner, indent + "  ")
        else:
            yield from fit(f"{indent}{mark} {_short(inner)}")


def gains(deltas: Sequence[WalletDelta]) -> Cell:
    """Return the changes of balances, each with its sign."""
    if not deltas:
        return "nothing"
    text = ", ".join(f"{'+' if delta.amount > 0 else ''}{count(delta.amount, delta.wallet)}" for delta in deltas)
    return Styled(text, Style.GOOD if any(delta.amount > 0 for delta in deltas) else Style.BAD)


def level_line(level: Level) -> str:
    """Return a level with how far it is to the next."""
    filled = int(max(0.0, min(level.progress, 1.0)) * BAR_WIDTH)
    goal = "the top" if level.next_level_at is None else number(level.next_level_at)
    bar = "#" * filled + "." * (BAR_WIDTH - filled)
    return f"{level.level} [{bar}] {number(level.current)} of {goal} {level.wallet}"


def perk_line(perk: UnlockedPerk) -> str:
    """Return a perk by name, kind and key, as far as they are known."""
    named = perk.name or perk.key or "without a name"
    details = ", ".join(text for text in (perk.type, perk.key if perk.name else None) if text)
    return f"{named} ({details})" if details else named


def _is_utf8() -> bool:
    encoding: str | None = getattr(sys.stdout, "encoding", None)
    return (encoding or "").lower().replace("-", "") == "utf8"


def _members(value: JSONValue) -> Iterator[tuple[str | None, JSONValue]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((None, inner) for inner in value)


def _is_short(value: JSONValue) -> bool:
    """Return whether a value fits one line: few members, and hardly anything inside them."""
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
