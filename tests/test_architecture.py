"""Who may import whom: a module knows those below it, and none above."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import perkamo
from tests.test_reference import public_modules, public_names

PACKAGE = Path(perkamo.__file__).parent

GROUND = {
    *("errors", "contract", "redaction", "signing", "runtime", "hooks"),
    *("encoding", "transport"),
}
CORE = GROUND | {"events", "models", "decoding", "request", "stream", "client"}
TWINS = {"sync", "sync_client"}
DELIVERY = {"batching", "outbox"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "redaction": set(),
    "contract": set(),
    "signing": set(),
    "runtime": set(),
    "hooks": set(),
    "encoding": {"errors", "redaction"},
    "transport": {"runtime"},
    "events": {"encoding", "errors"},
    "models": {"encoding", "errors", "redaction"},
    "decoding": {"contract", "encoding", "errors", "models", "redaction"},
    "request": GROUND | {"events", "models", "decoding"},
    "stream": GROUND | {"events", "models", "decoding", "request"},
    "postgres": {"errors", "redaction", "runtime"},
    "client": CORE - {"client"},
    "sync": {"errors", "runtime"},
    "sync_client": CORE | {"sync"},
    "batching": CORE | TWINS,
    "outbox": CORE | TWINS | {"batching", "postgres"},
    "webhooks": {"runtime", "postgres", "encoding", "errors", "models", "decoding", "client"},
    "integrations": CORE | TWINS | DELIVERY | {"webhooks", "sandbox"},
    "sandbox": {"contract", "encoding", "events", "runtime", "signing"},
    "testing": CORE | TWINS | DELIVERY | {"sandbox"},
    "cli": CORE | TWINS | DELIVERY | {"webhooks", "sandbox"},
    "__main__": {"cli"},
}
"""Each module or package at the root, and which others it may import; itself always."""

ROOT_NAMES = {"__version__"}
"""What anybody may take from the package itself."""

ON_TOP = {"testing", "integrations", "cli"}
"""What uses the package as a user does, by its public names."""


def imports(path: Path) -> list[tuple[str, str]]:
    """Return module and name of everything that a file imports, also within functions."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.extend((f"{node.module}", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            found.extend((alias.name, "") for alias in node.names)
    return found


def owner(path: Path) -> str:
    """Return the module or package at the root that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py", PACKAGE / "sync" / "codegen.py"})
"""All but the table of public names and the generator that reads it, which is left out of the wheel."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_knows_only_what_stands_below_it(path: Path) -> None:
    """Each import is one that the table allows; catches a cycle before it exists."""
    mine, is_twin = owner(path), path.name.startswith("sync_")
    wrong = []
    for module, name in imports(path):
        parts = module.split(".")
        if parts[0] != "perkamo":
            continue
        target = parts[1] if len(parts) > 1 else name
        if target in perkamo.__all__ and mine in ON_TOP:
            continue
        if target not in {mine, *MAY_IMPORT[mine], *ROOT_NAMES, *(TWINS if is_twin else ())}:
            wrong.append(f"{module} {name}".strip())

    assert not wrong, f"{path.relative_to(PACKAGE)} must not import {wrong}"


def test_every_module_at_the_root_has_a_line_in_the_table() -> None:
    """Catches a new module that nobody placed, and a line of one that is gone."""
    assert {owner(path) for path in SOURCES} == set(MAY_IMPORT)


def test_the_table_itself_has_no_cycle() -> None:
    """Going down from any module never leads back to it; catches a table that allows everything."""
    for start, direct in MAY_IMPORT.items():
        below: set[str] = set()
        ahead = set(direct)
        while ahead:
            one = ahead.pop()
            below.add(one)
            ahead |= MAY_IMPORT[one] - below
        assert start not in below, start


HTTP = (
    *("httpx", "perkamo.client", "perkamo.sync_client", "perkamo.request", "perkamo.transport", "perkamo.stream"),
    *("perkamo.batching", "perkamo.outbox.relay"),
)
SQL = ("sqlite3", "psycopg", "perkamo.postgres", "perkamo.outbox.sqlite", "perkamo.outbox.postgres")

NEVER = {
    "outbox/sqlite/*.py": HTTP,
    "outbox/postgres/store.py": HTTP,
    "outbox/postgres/put.py": HTTP,
    "outbox/store.py": (*HTTP, *SQL),
    "outbox/relay.py": SQL,
    "outbox/settling.py": SQL,
    "outbox/errors.py": (*HTTP, *SQL, "perkamo.outbox"),
}
"""Within the outbox: a store knows no client and no HTTP, the relay knows no SQL, the errors stand below both."""


@pytest.mark.parametrize("pattern", NEVER)
def test_a_store_knows_no_client_and_the_relay_no_sql(pattern: str) -> None:
    """Each can be read, and replaced, without the other; catches a short way from one to the other."""
    paths = list(PACKAGE.glob(pattern))
    wrong = [
        (path.name, module)
        for path in paths
        for module, _ in imports(path)
        if any(f"{module}.".startswith(f"{never}.") for never in NEVER[pattern])
    ]

    assert paths != []
    assert wrong == []


ONLY_HERE = {
    "httpcore": {"transport/replaced.py"},
    "psycopg": {"postgres.py", "outbox/postgres/connections.py", "integrations/django/process.py"},
    "sqlite3": {"cli/program_diff.py", "outbox/sqlite", "webhooks"},
    "trio": {"runtime/event_loop.py", "sandbox/stream.py"},
}
"""Modules of others that the core must not load, and where they may be."""


@pytest.mark.parametrize("foreign", ONLY_HERE)
def test_what_is_costly_or_particular_stays_in_its_place(foreign: str) -> None:
    """Neither httpcore nor a database is loaded for every user; catches an import that spreads."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if re.search(rf"^\s*(import|from) {foreign}\b", path.read_text("utf-8"), re.MULTILINE)
    }

    assert [user for user in users if not user.startswith(tuple(ONLY_HERE[foreign]))] == []


DEEP = re.compile(r"\b(?:from|import) perkamo\.(\w+(?:\.\w+)*)")


def test_readme_and_docstrings_import_public_names_only() -> None:
    """What a user copies needs no deep import; catches a guide that leads into the inside."""
    public = {name.rpartition(".")[0] for name in public_names()}
    texts = {"README.md": (PACKAGE.parent / "README.md").read_text("utf-8")}
    for path in PACKAGE.rglob("README.md"):
        texts[str(path.relative_to(PACKAGE))] = path.read_text("utf-8")
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        nodes = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        docs = [ast.get_docstring(node) or "" for node in nodes]
        texts[str(path.relative_to(PACKAGE))] = "\n".join(docs)
    deep = {
        name: [found for found in DEEP.findall(text) if f"perkamo.{found}" not in public]
        for name, text in texts.items()
    }

    assert {name: found for name, found in deep.items() if found} == {}


def annotations(where: str, value: object) -> Iterator[tuple[str, str, str]]:
    """Return each annotation of a function, or of a class and what is public in it: where, of what, and its text."""
    members = vars(value).items() if inspect.isclass(value) else ()
    for name, member in members:
        if name == "__init__" or not name.startswith("_"):
            inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(inner):
                yield from annotations(f"{where}.{name}", inner)
    for name, annotation in getattr(value, "__annotations__", {}).items():
        yield where, name, annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


SEAM = {"perkamo.AsyncPerkamoClient.__init__ http_client", "perkamo.PerkamoClient.__init__ http_client"}
TRANSPORTS = ("perkamo.Transport.", "perkamo.sandbox.Sandbox.transport ")


def test_no_type_of_httpx_is_in_a_public_signature() -> None:
    """But where a client or a transport of httpx is given; catches an API that changes with somebody else's."""
    found = {
        f"{where} {name}"
        for module in public_modules()
        for public in importlib.import_module(module).__all__
        for where, name, text in annotations(f"{module}.{public}", getattr(importlib.import_module(module), public))
        if re.search(r"\b(httpx|h11|httpcore)\b", text)
    }

    assert {one for one in found if not one.startswith(TRANSPORTS)} == SEAM
