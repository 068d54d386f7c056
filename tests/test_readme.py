"""README: every Python snippet runs as it stands, and its commands are those that CI runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perkamo import AsyncPerkamoClient
from perkamo.sandbox import Sandbox

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
TESTS = re.findall(r"^```python test\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def python(*words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory of its own, with an environment of its own."""
    return subprocess.run(
        [sys.executable, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_readme_has_snippets() -> None:
    """There are at least as many snippets as sections that promise one; catches a pattern that finds none."""
    assert len(SNIPPETS) >= 12
    assert len(TESTS) >= 2


def section(title: str) -> str:
    """The text below a title, up to the next one of its kind."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_tables_have_every_method_and_option() -> None:
    """With all parameters; catches what was added to the client and never told."""
    signatures = {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(AsyncPerkamoClient, inspect.isfunction)
        if not name.startswith("_")
    }
    rows = dict(re.findall(r"^\| `(?:await )?(\w+)\((.*?)\)`", section("What there is"), flags=re.MULTILINE))
    options = re.findall(r"^\| `(\w+)` \|", section("Options"), flags=re.MULTILINE)

    assert rows.keys() == signatures.keys() - {"aclose"}  # which shares the row of ``async with``
    for name, row in rows.items():
        told = re.findall(r"(\w+)(?:=[^,]+)?(?:, |$)", row)
        assert told == [parameter for parameter in signatures[name].parameters if parameter != "self"]
    assert options == [*inspect.signature(AsyncPerkamoClient).parameters]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {n}" for n in range(1, len(SNIPPETS) + 1)])
def test_a_snippet_runs_as_pasted(snippet: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """In a fresh process, with nothing set but the variables that it names; catches a snippet that was never run."""
    environment = {
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PATH": "",
    }
    if "my_events" in snippet:  # which the command above it has written
        module = python("-m", "perkamo", "catalog", "--python", env=environment, cwd=tmp_path).stdout
        (tmp_path / "my_events.py").write_text(module, "utf-8")

    done = python("-X", "dev", "-W", "error", "-c", snippet, env=environment, cwd=tmp_path)

    slow = [line for line in done.stderr.splitlines() if re.fullmatch(r"Executing <.*> took [\d.]+ seconds", line)]
    assert (done.returncode, done.stderr.splitlines()) == (0, slow)  # which asyncio says on a busy machine
    assert done.stdout


@pytest.mark.parametrize("snippet", TESTS, ids=[f"test {n}" for n in range(1, len(TESTS) + 1)])
def test_a_test_of_the_readme_passes(snippet: str, tmp_path: Path) -> None:
    """Run by pytest with nothing but the installed plugin; catches a fixture or an assertion that is no more."""
    (tmp_path / "test_snippet.py").write_text(snippet, "utf-8")
    options = ["-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider"]

    done = python("-m", "pytest", "-q", *options, str(tmp_path), env={"PATH": ""}, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_symptoms_are_quoted_from_the_code() -> None:
    """What a reader searches for is what the library says; catches a message that was changed under the guide."""
    section = README.partition("## When something is wrong\n")[2].partition("\n## ")[0]
    symptoms = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    quoted = [words for symptom in symptoms for words in symptom.split("`")[1::2] if " " in words]
    code = "\n".join(path.read_text("utf-8") for path in (Path(__file__).parent.parent / "perkamo").rglob("*.py"))

    assert len(quoted) >= 8
    assert not [words for words in quoted if words not in code and "==" not in words]
