"""The warning about an object that was dropped while its connections were open."""

import sys
import warnings
from collections.abc import Callable


def warn_unclosed(
    owner: object,
    remedy: str,
    is_open: Callable[[], bool],
    warn: Callable[..., None] = warnings.warn,  # both taken now: at the interpreter's end, modules lose their names
    is_late: Callable[[], bool] = sys.is_finalizing,
) -> None:
    """Warn of an object that was never closed, from what its ``__del__`` calls; say nothing at the interpreter's end.

    Args:
        owner: The object that the user has made.
        remedy: How to close it.
        is_open: Returns whether anything of it is open.
        warn: As ``warnings.warn``.
        is_late: Returns whether the interpreter ends.
    """
    if not is_late() and is_open():
        warn(f"{owner!r} was never closed; {remedy}", ResourceWarning, stacklevel=4, source=owner)
