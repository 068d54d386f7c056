"""testing: what the plugin costs those who do not use it."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tests.testing.runs import run_pytest

HEAVY = (
    "httpx",
    "h11",
    "cattrs",
    "perkamo.sandbox",
    "perkamo.client",
    "perkamo.sync.portal",
    "perkamo.testing.clients",
)
"""What only a test that asks for a fixture has to load."""


def test_the_plugin_is_found_by_its_entry_point() -> None:
    """As pytest looks for plugins; catches one that must be named by hand."""
    found = {point.name: point.value for point in entry_points(group="pytest11")}

    assert found["perkamo"] == "perkamo.testing"


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    """Beside pytest itself: two modules of ours; catches an import at the top of the module."""
    script = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import perkamo.testing; print(sorted(set(sys.modules) - before))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "['perkamo', 'perkamo.testing']"


def test_a_test_without_our_fixtures_sees_nothing_of_the_plugin(tmp_path: Path) -> None:
    """No fixture runs, nothing is loaded, no thread starts; catches an autouse fixture."""
    run = run_pytest(
        tmp_path,
        {
            "test_plain.py": f"""
                import sys, threading

                def test_plain():
                    pass

                def test_modules():
                    assert not set(sys.modules) & set({HEAVY!r})
                    assert "perkamo.testing" in sys.modules
                    assert threading.active_count() == 1
            """
        },
        "--setup-show",
    )

    assert (run.code, run.counts) == (0, {"passed": 2}), run.text
    assert "perkamo_" not in run.text


def test_only_what_a_test_asks_for_is_set_up(tmp_path: Path) -> None:
    """The sandbox once in the process, a client for each test, and no client for one that asks for none."""
    run = run_pytest(
        tmp_path,
        {
            "test_three.py": """
                def test_a(perkamo_sandbox): pass
                def test_b(perkamo_client): pass
                def test_c(async_perkamo_client): pass
            """
        },
        "--setup-plan",
    )

    plan = [line.split() for line in run.text.splitlines() if line.strip().startswith("SETUP")]
    assert [(scope, name) for _, scope, name, *_ in plan if "perkamo" in name] == [
        ("S", "_perkamo_sandbox"),
        ("F", "perkamo_sandbox"),
        ("F", "perkamo_sandbox"),
        ("F", "perkamo_client"),
        ("F", "perkamo_sandbox"),
        ("F", "async_perkamo_client"),
    ]


def test_the_fixtures_are_described(tmp_path: Path) -> None:
    """Where a user looks for them; the inner one stays out of sight."""
    run = run_pytest(tmp_path, {"test_none.py": "def test_none(): pass"}, "--fixtures")

    for name in ("perkamo_sandbox", "perkamo_client", "async_perkamo_client"):
        line = next(line for line in run.text.splitlines() if line.startswith(f"{name} -- "))
        assert line.endswith(tuple("0123456789"))
    assert "_perkamo_sandbox --" not in run.text
