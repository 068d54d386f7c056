"""Runs pytest in a process of its own over files that a test writes, with the plugin found by its entry point."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Final

from attrs import frozen

from perkamo.sandbox.trials.strike import DISTURBANCES

# Plugins that take most of a second to load, or change the order of what is written here, have no part in this.
INI: Final = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers --strict-config -p no:cacheprovider -p no:hypothesispytest -p no:respx -p no:pytest_httpx
  -p no:randomly
"""
PER_REQUEST: Final = len(DISTURBANCES)
"""How many runs the mark makes for each request."""
_COUNTS: Final = re.compile(r"([0-9]+) (passed|failed|xfailed|error|skipped)")


@frozen
class Run:
    """What came of a run.

    Attributes:
        code: The exit code.
        text: What was printed.
        counts: How many tests passed, failed and so on, as the last line says.
    """

    code: int
    text: str
    counts: Mapping[str, int]

    @property
    def summary(self) -> list[str]:
        """The lines of the short summary."""
        return [line for line in self.text.splitlines() if line.startswith(("FAILED ", "ERROR "))]


def run_pytest(directory: Path, files: Mapping[str, str], *options: str, ini: str = "", columns: int = 200) -> Run:
    """Write the files and run pytest over them.

    Args:
        directory: An empty directory.
        files: Source by file name.
        options: For pytest's command line.
        ini: Further lines of its configuration.
        columns: The width of the terminal.
    """
    (directory / "pytest.ini").write_text(INI + dedent(ini))
    for name, source in files.items():
        (directory / name).write_text(dedent(source), "utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PERKAMO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=directory,
        env={**inherited, "COLUMNS": str(columns), "CI": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    counts = {name: int(count) for count, name in _COUNTS.findall(last)}
    return Run(done.returncode, done.stdout + done.stderr, counts)
