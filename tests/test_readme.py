"""README and the guides: every snippet runs, and every link leads somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from perkamo.sandbox import Sandbox
from tests.guides import BLOCKS, GUIDES, README, ROOT, Block

REPOSITORY: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
FILES_ON_THE_WEB: Final = re.compile(rf"^{REPOSITORY}/(?:blob|raw)/main/")
TEXTS: Final = GUIDES | {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").glob("*.md")))
}

SHOWN: Final = {"sh", "text", "yaml", "ini", "toml", "sql", "html", "json"}
"""Languages of blocks that no test runs: other systems run them, or they don't end. JSON is parsed all the same."""
SCRIPTS: Final = [block for block in BLOCKS if block.words == ("python",)]
TESTS: Final = [block for block in BLOCKS if block.words == ("python", "test")]
COMMANDS: Final = [block for block in BLOCKS if block.words == ("console",)]
FILES: Final = [block for block in BLOCKS if block.file]


def run(*words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory of its own, with an environment of its own."""
    return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def environment(sandbox: Sandbox) -> dict[str, str]:
    """Return the variables that the guides name, and no other."""
    return {
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PATH": "",
    }


def write_files(guide: str, folder: Path) -> None:
    """Write the blocks that the guide gives a name."""
    for block in FILES:
        if block.guide == guide and block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, "utf-8")


def test_the_readme_is_a_page_and_begins_with_what_for_whom_and_how() -> None:
    """At most 250 lines, and the first screen starts a reader; catches a reference that grows back."""
    first_screen = README.splitlines()[:20]

    assert len(README.splitlines()) <= 250
    assert "Python client" in first_screen[2]
    assert "backend" in first_screen[2]
    assert sum("python3 -m venv" in line for line in first_screen) == 2


def test_every_block_is_of_a_kind_that_is_run_or_only_shown() -> None:
    """Catches Python that no test runs, such as a block that calls itself ``py``; and a pattern that finds none."""
    runs = {("python",), ("python", "test"), ("console",)}
    strange = [
        str(block) for block in BLOCKS if block.words not in runs and not block.file and block.words[0] not in SHOWN
    ]

    assert strange == []
    assert len(SCRIPTS) >= 15
    assert len(TESTS) >= 4
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_snippet_runs_as_pasted(block: Block, sandbox: Sandbox, tmp_path: Path) -> None:
    """In a fresh process, with nothing set but the variables that it names; catches a snippet that was never run."""
    write_files(block.guide, tmp_path)
    env = environment(sandbox)
    if "my_events" in block.text:  # which the command above it has written
        module = run(sys.executable, "-m", "perkamo", "catalog", "--python", env=env, cwd=tmp_path).stdout
        (tmp_path / "my_events.py").write_text(module, "utf-8")

    done = run(sys.executable, "-X", "dev", "-W", "error", "-c", block.text, env=env, cwd=tmp_path)

    slow = [line for line in done.stderr.splitlines() if re.fullmatch(r"Executing <.*> took [\d.]+ seconds", line)]
    assert (done.returncode, done.stderr.splitlines()) == (0, slow)  # which asyncio says on a busy machine
    assert done.stdout


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_a_test_of_a_guide_passes(block: Block, tmp_path: Path) -> None:
    """Run by pytest with nothing but the installed plugin; catches a fixture or an assertion that no longer exists."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\n", "utf-8"
    )  # pytest would take one of a folder above, with its options
    write_files(block.guide, tmp_path)
    (tmp_path / "test_snippet.py").write_text(block.text, "utf-8")
    options = ["-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider"]

    done = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *options,
        str(tmp_path / "test_snippet.py"),
        env={"PATH": ""},
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_the_commands_of_a_guide_work(block: Block, sandbox: Sandbox, tmp_path: Path) -> None:
    """Each ends with 0, in the order in which they stand; catches an option that is no more."""
    write_files(block.guide, tmp_path)
    shim = tmp_path / "bin" / "perkamo"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m perkamo "$@"\n', "utf-8")
    shim.chmod(0o755)

    env = environment(sandbox) | {"PATH": f"{shim.parent}:{os.defpath}"}
    done = run("bash", "-e", "-c", block.text, env=env, cwd=tmp_path)

    assert done.returncode == 0, done.stderr + done.stdout


def test_every_named_block_is_used_by_another() -> None:
    """Catches a file that a guide shows and none of its blocks reads."""
    unused = [
        str(block)
        for block in FILES
        if block.file
        and not any(
            Path(block.file).stem in other.text for other in BLOCKS if other.guide == block.guide and other is not block
        )
    ]

    assert unused == []


def test_json_is_json_and_a_program_is_taken() -> None:
    """Each line of a ``.jsonl`` by itself, and a program by the sandbox; catches an example with a missing comma."""
    blocks = [block for block in BLOCKS if block.words[0] == "json"]
    for block in blocks:
        for text in block.text.splitlines() if (block.file or "").endswith(".jsonl") else [block.text]:
            value = json.loads(text)
            if block.file == "program.json":
                assert Sandbox(program=value)

    assert len(blocks) >= 2


def anchors(text: str) -> set[str]:
    """The names by which links reach the titles of a text, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text: str) -> set[str]:
    """The targets of all links and pictures, code left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = set(re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", prose, flags=re.MULTILINE))
    labels = set(re.findall(r"\]\[([\w-]+)\]", prose))
    defined = set(re.findall(r"^\[([^\]]+)\]: ", prose, flags=re.MULTILINE))
    assert labels == defined, labels ^ defined
    return {inline or reference for inline, reference in targets}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    """To a file of this repository, and a title in it; catches a guide that was moved. Other hosts are not asked."""
    broken = []
    for link in links(TEXTS[name]):
        target, _, anchor = link.partition("#")
        inside = FILES_ON_THE_WEB.sub("", target)
        if inside.startswith("https://"):
            continue
        path = ROOT / inside if inside != target else (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            broken.append(link)

    assert broken == []


def test_the_readmes_links_are_absolute() -> None:
    """PyPI shows it, too, and has no files beside it; catches a link that works in the repository alone."""
    assert [link for link in links(README) if not link.startswith("https://")] == []


def test_every_guide_is_reached_from_the_readme() -> None:
    """Directly or through another guide; catches one that nobody finds."""
    reached: set[Path] = set()
    ahead = {ROOT / "README.md"}
    while ahead:
        path = ahead.pop()
        reached.add(path)
        for link in links(path.read_text("utf-8")):
            target = link.partition("#")[0]
            inside = FILES_ON_THE_WEB.sub("", target)
            found = (ROOT / inside if inside != target else path.parent / target).resolve()
            if found.name == "README.md" and found not in reached:
                ahead.add(found)

    assert {str(path.relative_to(ROOT)) for path in reached} == GUIDES.keys()
