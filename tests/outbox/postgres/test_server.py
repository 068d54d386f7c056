"""The tests' own server: it leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.outbox.postgres.server import Server


@pytest.mark.stress
def test_what_a_killed_test_run_left_goes_at_the_next_start() -> None:
    """And what others use stays; catches a disk that fills with servers of killed runs."""
    script = (
        "import os, signal; from tests.outbox.postgres.server import Server\n"
        "one = Server(18); one.start(); print(one.directory, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    used = Server(18)
    killed = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    left = Path(killed.stdout.strip())
    Server(18).remove()
    there = left.exists(), used.directory.exists()
    used.remove()

    assert (killed.returncode, left.name[:11]) == (-9, "perkamo-pg-"), killed.stderr
    assert there == (False, True)
