"""What a benchmark found: rows of the one table."""

import statistics
from collections.abc import Sequence
from typing import Final

from attrs import field, frozen

from benchmarks.rounds import Series


@frozen
class Row:
    """One line of the table.

    Attributes:
        number: The number of the target in ``performance.md``, or a dash.
        what: What is compared with what.
        value: The figure; None where it was not measured.
        unit: What stands after the figure.
        target: What it has to reach, or None where it is only shown.
        stretch: What would be better still.
        at_least: Whether more is better; else less is.
        absolute: What the figure was made of, or why there is none.
        samples: The figure of each round.
        idle: The least median share of the time in which the server did nothing; None without a server.
    """

    number: str
    what: str
    value: float | None = None
    unit: str = "x"
    target: float | None = None
    stretch: float | None = None
    at_least: bool = False
    absolute: str = ""
    samples: Sequence[float] = field(default=(), converter=tuple[float, ...])
    idle: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target or a figure."""
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def ratio_row(
    number: str,
    what: str,
    series: Series,
    way: str,
    base: str,
    *,
    target: float | None = None,
    stretch: float | None = None,
) -> Row:
    """Compare two ways of one series: the median of the ratios within the rounds."""
    samples = series.ratios(way, base)
    return Row(
        number,
        what,
        statistics.median(samples),
        target=target,
        stretch=stretch,
        absolute=f"{_micros(series, way)} / {_micros(series, base)} µs",
        samples=samples,
        idle=min(series.idle[way], series.idle[base]) if series.idle else None,
    )


def _micros(series: Series, way: str) -> str:
    micros = statistics.median(series.seconds[way]) * 1e6
    return f"{micros:.1f}" if micros < 20 else f"{micros:,.0f}"


_HEAD: Final = "| # | row | measured | target | stretch | reached | made of | server idle |\n" + "|---" * 8 + "|"


def table(rows: Sequence[Row]) -> str:
    """Write the rows as one Markdown table."""
    return "\n".join([_HEAD, *map(_line, rows)])


def _line(row: Row) -> str:
    sign = ">=" if row.at_least else "<="
    limits = ["-" if limit is None else f"{sign} {_figure(limit, row.unit)}" for limit in (row.target, row.stretch)]
    value = "skipped" if row.value is None else f"**{_figure(row.value, row.unit)}**"
    reached = {None: "-", True: "yes", False: "**no**"}[row.reached]
    idle = "-" if row.idle is None else f"{row.idle:.0%}"
    return f"| {' | '.join([row.number, row.what, value, *limits, reached, row.absolute or '-', idle])} |"


def _figure(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{digits}{unit}"
