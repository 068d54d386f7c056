"""Lengths of time as people write them: ``90``, ``90s``, ``10m``, ``2h``, ``1d``."""

import re
from argparse import ArgumentTypeError
from typing import Final

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_WRITTEN: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|d|)", re.ASCII)


def duration(text: str) -> float:
    """Return the seconds that an option stands for.

    Raises:
        ArgumentTypeError: It is not a length of time.
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a length of time; write 90, 90s, 10m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def readable(seconds: float) -> str:
    """Return a length of time in the largest unit of which it has at least one, such as ``12.5 min``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
