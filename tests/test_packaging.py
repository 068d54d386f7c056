"""pyproject.toml: what is imported is declared, and the licence travels with the package."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted((ROOT / "perkamo").rglob("*.py"))

ELSEWHERE = {"integrations/fastapi": {"fastapi", "pydantic"}, "testing": {"pytest", "_pytest"}}
"""What a folder may import besides: an extra brings it, or the tool that loads the folder is it."""


def imported(path: Path) -> set[str]:
    """Return the packages that a module needs to be imported at all, ours and Python's own left out."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"perkamo"}


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    """Catches one that another dependency happens to bring, as httpx brings h11."""
    declared = {re.split(r"[<>=!~; ]", line)[0] for line in PROJECT["dependencies"]}
    undeclared = {
        f"{path.relative_to(ROOT / 'perkamo')}: {name}"
        for path in SOURCES
        for name in imported(path) - declared
        if not any(
            str(path.relative_to(ROOT / "perkamo")).startswith(folder) and name in names
            for folder, names in ELSEWHERE.items()
        )
    }

    assert undeclared == set()


def test_the_licence_is_inside_the_package() -> None:
    """A wheel has it as a file and by name; catches a licence that is only promised."""
    [file] = PROJECT["license-files"]

    assert (ROOT / file).read_text("utf-8").startswith("MIT License\n")
    assert (file, PROJECT["license"]) == ("perkamo/LICENSE", "MIT")
