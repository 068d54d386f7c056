"""README: every Python snippet runs as it stands, and its commands are those that CI runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_has_snippets() -> None:
    """There are at least as many snippets as sections that promise one; catches a pattern that finds none."""
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {n}" for n in range(1, len(SNIPPETS) + 1)])
def test_a_snippet_runs_as_pasted(snippet: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """In a fresh process, with nothing set but the variables that it names; catches a snippet that was never run."""
    environment = {
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PATH": "",
    }

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", snippet],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
