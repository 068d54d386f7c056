"""The abilities of the terminal: its width, and whether it shows colours."""

import os
import sys
from enum import Enum
from typing import Final, TextIO

NARROWEST: Final = 20
"""The least width of a terminal; a smaller one is taken as an error."""


class Style(Enum):
    """The style of a text. The values are the terminal's own codes."""

    HEAD = "1"
    NAME = "36"
    GOOD = "32"
    NOTABLE = "33"
    BAD = "31"


def width() -> int | None:
    """Return how many columns a line may have: the value of ``COLUMNS``, or the width of the terminal.

    None if standard output is not a terminal: a program reads whole lines.
    """
    try:
        found = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, OSError, ValueError):  # no stream, no terminal, or a stream without a number
        return None
    given = os.environ.get("COLUMNS", "")
    found = int(given) if given.isdecimal() else found
    return found if found >= NARROWEST else None


def painted(text: str, style: Style | None, stream: TextIO | None) -> str:
    """Return a text with the codes of a style, if a stream is a terminal that shows colours.

    ``NO_COLOR``, set to any value, turns colours off (no-color.org).

    Args:
        text: The text.
        style: Its style, or None.
        stream: The stream that it is written to; None if that is missing.
    """
    is_wanted = not os.environ.get("NO_COLOR") and (os.environ.get("TERM") or "dumb") != "dumb"
    if style is None or not is_wanted or stream is None or not stream.isatty():
        return text
    return f"\x1b[{style.value}m{text}\x1b[0m"
