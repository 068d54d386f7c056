"""codegen: the twins are what their sources make, and --check notices everything."""

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import perkamo
from perkamo.sync import codegen
from perkamo.sync.codegen_tables import CLASSES, METHODS, OMITTED, SOURCES

PACKAGE = Path(perkamo.__file__).parent
TWINS = [(getattr(perkamo, asynchronous), getattr(perkamo, twin)) for asynchronous, twin in CLASSES.items()]
"""Loaded when tests are collected: a module first loaded by a test that stops time has that tool's datetime."""


FORMATTED = cache(codegen._formatted)
"""ruff's work, done once for each text of all these tests."""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the modules that codegen works on."""
    monkeypatch.setattr(codegen, "_formatted", FORMATTED)
    for source in SOURCES:
        for module in filter(None, (source.module, source.twin, source.base)):
            (tmp_path / module).parent.mkdir(exist_ok=True)
            shutil.copy(PACKAGE / f"{module}.py", tmp_path / f"{module}.py")
    shutil.copy(PACKAGE / "__init__.pyi", tmp_path / "__init__.pyi")
    return tmp_path


def test_the_committed_twins_are_fresh() -> None:
    """``python -m perkamo.sync.codegen --check`` passes on this checkout; catches a source that was changed alone."""
    done = subprocess.run(
        [sys.executable, "-m", "perkamo.sync.codegen", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def _edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text("utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, "utf-8")


METHOD = '    async def added(self) -> None:\n        """Do something."""\n\n    async def program('
CHANGES: list[tuple[str, str, Callable[[str], str]]] = [
    (
        "a changed line of the twin",
        "sync_client",
        lambda text: text.replace("run(self._async.emit,", "run(self._async.nope,"),
    ),
    (
        "a changed docstring of the twin",
        "sync_client",
        lambda text: text.replace("Send one activity", "Send an activity"),
    ),
    (
        "a deleted method of the twin",
        "sync_client",
        lambda text: re.sub(r"    def customer\(.*?(?=    def program)", "", text, flags=re.DOTALL),
    ),
    ("a blank at the end of the twin", "sync_client", lambda text: text + "\n"),
    ("a method added in the source", "client", lambda text: text.replace("    async def program(", METHOD)),
    (
        "a method deleted in the source",
        "client",
        lambda text: re.sub(r"    async def customer\(.*?(?=    async def program)", "", text, flags=re.DOTALL),
    ),
    ("a default changed in the source", "client", lambda text: text.replace("= 30.0", "= 31.0")),
    ("a docstring changed in the source", "client", lambda text: text.replace("Send one activity", "Send an activity")),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(("name", "module", "change"), CHANGES, ids=[row[0] for row in CHANGES])
def test_check_notices(name: str, module: str, change: Callable[[str], str], copy: Path) -> None:
    """Each kind of difference fails the check, and generating again mends it; catches a check that can't fail."""
    _edit(copy / f"{module}.py", change)

    assert codegen.main(["--check"], copy) == 1

    assert codegen.main([], copy) == 0
    assert codegen.main(["--check"], copy) == 0


def test_check_notices_a_missing_twin(copy: Path) -> None:
    """A twin that is not there fails the check; catches a check over existing files only."""
    (copy / "sync_client.py").unlink()

    assert codegen.main(["--check"], copy) == 1


WORDS_OF_SIGNATURES = (
    ("collections.abc.Awaitable[None] | None", "None"),
    ("AsyncIterator", "Iterator"),
    ("AsyncGenerator", "Generator"),
)


def _surface(cls: type) -> dict[str, str]:
    """Every public member with its signature, in the words of the sync side."""
    found: dict[str, str] = {}
    special = {"__init__", *METHODS, *METHODS.values()}
    for name, member in inspect.getmembers(cls):
        if callable(member) and (not name.startswith("_") or name in special):
            signature = str(inspect.signature(member))
            for asynchronous, twin in CLASSES.items():
                signature = re.sub(rf"\b{asynchronous}\b", twin, signature)
            for asynchronous, twin in WORDS_OF_SIGNATURES:
                signature = signature.replace(asynchronous, twin)
            found[METHODS.get(name, name)] = re.sub(r"perkamo\.(\w+\.)*", "", signature)
    return found


@pytest.mark.parametrize(("asynchronous", "twin"), TWINS)
def test_both_classes_have_the_same_surface(asynchronous: type, twin: type) -> None:
    """Names, parameters, annotations and returns agree, but for what is omitted; catches a one-sided method."""
    surface = {name: signature for name, signature in _surface(asynchronous).items() if name not in OMITTED}

    assert len(surface) >= 5
    assert _surface(twin) == surface


@pytest.mark.parametrize("twin", CLASSES.values())
def test_a_twin_speaks_of_synchronous_code_only(twin: str) -> None:
    """No docstring of a twin says await or async with; catches wording that was not adapted."""
    cls = getattr(perkamo, twin)
    texts = [cls.__doc__ or "", *(inspect.getdoc(member) or "" for _, member in inspect.getmembers(cls, callable))]

    assert not [text for text in texts if re.search(r"\bawait\b|async with|aclose", text)]
    assert "never this one" in (sys.modules[cls.__module__].__doc__ or "")
