"""The benchmarks run, all of them; what they find is for people to judge."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_ROWS = {str(number) for number in range(1, 35)}
_NEED_PEERS = {"8", "12", "15", "17", "19"}


@pytest.mark.release
def test_a_quick_run_of_the_benchmarks_prints_every_row(tmp_path: Path) -> None:
    """One command measures every row; one that breaks or is forgotten fails here, one that is slow does not."""
    saved = tmp_path / "found.json"

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--save", saved],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    lines = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    printed = {cells[1].strip() for cells in lines}
    skipped = {cells[1].strip() for cells in lines if "skipped" in cells[3]}
    assert printed >= _ROWS
    assert skipped <= _NEED_PEERS
    told = (_ROOT / "benchmarks/README.md").read_text("utf-8")
    claims = [[cell.strip() for cell in line.split("|")] for line in told.splitlines() if line.startswith("| ")]
    claimed = {cells[2] for cells in claims if cells[1].isdigit() and cells[1] not in skipped}
    assert len(claimed) > 15
    assert claimed <= {cells[2].strip() for cells in lines}  # the guide has no figure that nothing measures
    assert {row["number"] for row in json.loads(saved.read_text())["rows"]} >= _ROWS
