"""Reads ``@pytest.mark.perkamo(program=…, now=…)``."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, cast

import pytest

from perkamo.sandbox import ProgramError, Sandbox

_USAGE: Final = "@pytest.mark.perkamo(program=…, now=…)"


def renew(sandbox: Sandbox, node: pytest.Item) -> None:
    """Reset the sandbox, with the program and the time that the closest marks name.

    Raises:
        pytest.UsageError: A mark is wrong.
    """
    __tracebackhide__ = True
    given: dict[str, object] = {}
    for mark in node.iter_markers("perkamo"):  # the closest first
        if mark.args:
            raise pytest.UsageError(f"{_USAGE} takes keyword arguments only")
        for name, value in mark.kwargs.items():
            given.setdefault(name, value)
    unknown = sorted(given.keys() - {"program", "now"})
    if unknown:
        raise pytest.UsageError(f"{_USAGE} takes no argument {', '.join(unknown)}")
    program, now = given.get("program"), given.get("now")
    if not isinstance(program, Mapping | str | bytes | None):
        raise pytest.UsageError(f"program in {_USAGE} must be a mapping or JSON, not {type(program).__name__}")
    if not isinstance(now, datetime | None):
        raise pytest.UsageError(f"now in {_USAGE} must be a datetime with a zone, not {type(now).__name__}")
    try:
        sandbox.renew(cast("Mapping[str, object] | str | bytes | None", program), now=now)
    except ProgramError as error:
        problem = f"program in {_USAGE} is wrong: {error}"
    except ValueError as error:
        problem = f"now in {_USAGE}: {error}"
    else:
        return
    raise pytest.UsageError(problem)
