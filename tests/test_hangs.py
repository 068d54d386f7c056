"""A test that hangs is ended, and shows where it hung."""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.guides import ROOT

HANGING = """
import threading

def wait_for_nothing():
    threading.Event().wait()

def test_hangs():
    other = threading.Thread(target=wait_for_nothing, daemon=True)
    other.start()
    other.join()
"""


def test_a_hang_ends_with_the_stacks_of_all_threads(tmp_path: Path) -> None:
    """Also in a worker of pytest-xdist, by the project's own settings; catches a red run that says nothing of where."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert 0 < settings["faulthandler_timeout"] < settings["timeout"] <= 60
    (tmp_path / "test_hanging.py").write_text(HANGING, "utf-8")
    sooner = [f"timeout={settings['timeout'] / 20}", f"faulthandler_timeout={settings['faulthandler_timeout'] / 100}"]

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"),
            *(word for setting in sooner for word in ("-o", setting)),
            *("--rootdir", tmp_path, tmp_path),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=50,
    )

    assert done.returncode == 1
    assert "in test_hangs" in done.stdout
    assert "in wait_for_nothing" in done.stdout
