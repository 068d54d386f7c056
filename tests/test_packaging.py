"""pyproject.toml: what is imported is declared, what is declared installs and works, and the licence comes with it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from attrs import frozen

from perkamo import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted((ROOT / "perkamo").rglob("*.py"))

ELSEWHERE = {
    "cli/relay_metrics.py": {"prometheus_client"},
    "integrations/celery": {"celery"},
    "integrations/django": {"django"},
    "integrations/fastapi": {"fastapi", "pydantic"},
    "integrations/flask": {"flask", "markupsafe"},
    "integrations/opentelemetry": {"opentelemetry"},
    "testing": {"pytest", "_pytest"},
}
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


PROGRAM = """
from perkamo import Event, PerkamoClient, SyncOutbox, __version__
from perkamo.sandbox import Sandbox

with Sandbox() as sandbox, PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as perkamo:
    perkamo.emit("customer_1", "purchase.completed", {"amount": 100}, transaction_id="order_1")
    perkamo.batch([{"user_id": "customer_1", "event": "review.created", "transaction_id": "review_1"}])
    with SyncOutbox("outbox") as outbox:
        outbox.put(Event("customer_1", "user.registered", "registration_1"))
        outbox.drain(perkamo)
    with perkamo.subscribe_customer(
        "customer_1", lambda: perkamo.create_stream_token(sandbox.browser_key, "customer_1")
    ) as updates:
        print(next(iter(updates)).customer.wallets["points"], __version__)
"""
"""A bit of all that needs a dependency: the wire, typed answers, threads, a stream, a file."""


@frozen
class Installation:
    """One way of installing: the Python, ``whl`` or ``tar.gz``, and the versions of what is needed."""

    python: str
    kind: str
    versions: str

    def __str__(self) -> str:
        """Its name in a test's id."""
        return f"{self.python} {self.kind} {self.versions}"


INTEGRATIONS = {path.parent.name for path in (ROOT / "perkamo/integrations").glob("*/__init__.py")}
INSTALLATIONS = (
    Installation("3.11", "whl", "newest"),
    Installation("3.11", "tar.gz", "lowest"),
    Installation("3.12", "whl", "lowest"),
    Installation("3.12", "tar.gz", "newest"),
    Installation("3.13", "whl", "newest"),
    Installation("3.13", "whl", "lowest"),
)


def find_python(minor: str) -> str:
    """Return an interpreter of this version. pyenv's shims stand on the PATH for versions that don't run."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    beside = [str(path) for path in sorted(versions.glob(f"{minor}.*/bin/python"))]
    for candidate in (shutil.which(f"python{minor}"), *beside):
        if candidate and run([candidate, "-c", "import venv"]).returncode == 0:
            return candidate
    pytest.skip(f"Python {minor} is not on this machine")


def run(words: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the sdist, in an environment of their own, which takes an index."""
    folder = tmp_path_factory.mktemp("dist")
    asked = run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder / "asked"), "hatchling"]
    )
    if asked.returncode:
        pytest.skip(f"no package index is reachable: {asked.stderr.splitlines()[-1]}")

    built = run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])

    assert built.returncode == 0, built.stdout[-2000:] + built.stderr
    return folder


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_the_distributions_render_and_hold_what_is_needed(distributions: Path) -> None:
    """What PyPI checks, and files that are no Python; catches a page left behind, and guides that are installed."""
    [wheel], [sdist] = distributions.glob("*.whl"), distributions.glob("*.tar.gz")

    checked = run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("perkamo/")}

    assert checked.returncode == 0, checked.stdout
    files = {f"perkamo/{path.relative_to(ROOT / 'perkamo')}" for path in (ROOT / "perkamo").rglob("*.*")}
    left_out = {name for name in files - inside if "__pycache__" not in name}
    assert {Path(name).name for name in left_out} == {"README.md", "codegen.py", "codegen_tables.py"}
    assert inside <= {*files, "perkamo/LICENSE"}


@pytest.mark.stress
@pytest.mark.timeout(300)
@pytest.mark.parametrize("installation", INSTALLATIONS, ids=str)
def test_what_is_installed_works(installation: Installation, distributions: Path, tmp_path: Path) -> None:
    """From an empty folder; catches a version that is declared and does not work, and a file that is not packed.

    Each of them with every extra where ``PERKAMO_TEST_INSTALLATIONS=all``, as in CI; else the first one that is for
    this Python, with the extra that needs nothing more.
    """
    everything = os.environ.get("PERKAMO_TEST_INSTALLATIONS") == "all"
    this_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not everything and installation != next((one for one in INSTALLATIONS if one.python == this_python), None):
        pytest.skip("the further installations run in CI: PERKAMO_TEST_INSTALLATIONS=all")
    python = find_python(installation.python)
    extras = set(PROJECT["optional-dependencies"]) - {"bench", "dev"} if everything else {"sandbox"}
    needed = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    lowest = [re.sub(r">=([\w.]+).*", r"==\1", line) for line in needed] if installation.versions == "lowest" else []
    [archive] = distributions.glob(f"*.{installation.kind}")
    inside = tmp_path / "venv" / "bin" / "python"
    empty = tmp_path / "empty"
    empty.mkdir()

    assert run([python, "-m", "venv", "--without-pip", str(tmp_path / "venv")]).returncode == 0
    pip = [sys.executable, "-m", "pip", "--python", str(inside), "install", "-q", "--no-compile"]
    installed = run([*pip, f"{archive}[{','.join(extras)}]", *lowest])
    assert installed.returncode == 0, installed.stderr
    done = run([str(inside), "-W", "error", "-c", PROGRAM], cwd=empty)
    command = run([str(inside.parent / "perkamo"), "--version"], cwd=empty)
    imports = "".join(f"import perkamo.integrations.{name}\n" for name in INTEGRATIONS & extras)
    imported = run([str(inside), "-c", imports], cwd=empty)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["71", __version__]
    assert command.stdout.split() == ["perkamo", __version__]
    assert imported.returncode == 0, imported.stderr
