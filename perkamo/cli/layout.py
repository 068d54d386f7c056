"""Tables and lists that fit the terminal's width."""

import sys
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from attrs import frozen

from perkamo.cli.terminal import Style, painted, width
from perkamo.cli.text import columns, printable, wrap


@frozen
class Styled:
    """A text with a style, for terminals with colours.

    Attributes:
        text: The text alone.
        style: The style.
    """

    text: str
    style: Style


Cell: TypeAlias = str | Styled
"""The content of a table's cell. It is made printable when it is shown."""

_GAP: Final = "  "
_NARROWEST_VALUE: Final = 12


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal's width.

    Columns are as wide as their longest cell, or their cells are wrapped. If even the longest words do not fit beside
    each other, each row becomes a list of its values.

    Args:
        head: The columns' names.
        rows: Rows with as many cells as there are columns.
    """
    heading = [Styled(name, Style.HEAD) for name in head]
    lines: list[Sequence[Cell]] = [heading, *rows]
    widths = _widths(lines)
    if widths is not None:
        for line in lines:
            yield from _row(line, widths)
        return
    for place, row in enumerate(rows):
        if place:
            yield ""
        yield from facts(*zip([name.lower() for name in head], row, strict=True))


def grid(rows: Sequence[Sequence[Cell]], indent: str = "") -> Iterator[str]:
    """Yield the lines of a table without a head; if it can't be made narrow enough, one cell follows the other.

    Args:
        rows: Rows with the same number of cells.
        indent: The beginning of each line.
    """
    widths = _widths(rows, len(indent))
    for row in rows:
        if widths is None:
            yield from fit(indent + _GAP.join(_text(cell) for cell in row if _text(cell)))
        else:
            yield from (indent + line for line in _row(row, widths))


def facts(*rows: tuple[str, Cell]) -> Iterator[str]:
    """Yield lines of a name and a value each; a value that is too wide continues below itself."""
    names = max(columns(name) for name, _ in rows)
    limit = width()
    room = None if limit is None else max(limit - names - len(_GAP), _NARROWEST_VALUE)
    for name, value in rows:
        yield from _row((Styled(name, Style.NAME), value), (names, room or columns(_text(value))))


def fit(line: str) -> Iterator[str]:
    """Yield a line, wrapped to the terminal's width; further lines are indented more."""
    limit = width()
    if limit is None or columns(line) <= limit:
        yield line
        return
    indent = " " * min(len(line) - len(line.lstrip()) + len(_GAP), limit // 2)
    first, *_ = wrap(line, limit)
    yield first
    if rest := line[len(first) :].strip():
        yield from (indent + piece for piece in wrap(rest, limit - len(indent)))


def _text(cell: Cell) -> str:
    return printable(cell.text if isinstance(cell, Styled) else cell)


def _widths(lines: Sequence[Sequence[Cell]], indent: int = 0) -> Sequence[int] | None:
    """Return each column's width; None if the table can't be made as narrow as the terminal."""
    texts = [[_text(cell) for cell in column] for column in zip(*lines, strict=True)]
    widths = [max(map(columns, column)) for column in texts]
    limit = width()
    if limit is None:
        return widths
    words = [max(columns(word) for text in column for word in text.split(" ")) for column in texts]
    while indent + sum(widths) + len(_GAP) * (len(widths) - 1) > limit:
        spare, place = max((widths[place] - words[place], place) for place in range(len(widths)))
        if spare <= 0:
            return None
        widths[place] -= 1
    return widths


def _row(cells: Sequence[Cell], widths: Sequence[int]) -> Iterator[str]:
    """Yield the lines of one row, whose cells may need several."""
    pieces = [wrap(_text(cell), room) for cell, room in zip(cells, widths, strict=True)]
    styles = [cell.style if isinstance(cell, Styled) else None for cell in cells]
    for place in range(max(map(len, pieces))):
        line = ""
        for texts, style, room in zip(pieces, styles, widths, strict=True):
            text = texts[place] if place < len(texts) else ""
            line += painted(text, style, sys.stdout) + " " * (room - columns(text)) + _GAP
        yield line.rstrip()
