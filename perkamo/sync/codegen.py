"""Writes the sync twins of the async classes: ``python -m perkamo.sync.codegen``, or ``--check`` to compare only.

Each twin is real source: the same signatures and docstrings, worded for synchronous code, over the same coroutines,
which run in the portal's event loop. The async source is the only place where anything is written by hand.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, cast

from attrs import frozen

import perkamo

PACKAGE: Final = Path(__file__).parent.parent
ROOT: Final = PACKAGE.parent
WIDTH: Final = 120

CLASSES: Final[Mapping[str, str]] = {
    "AsyncPerkamoClient": "PerkamoClient",
    "CustomerStream": "SyncCustomerStream",
    "Batcher": "SyncBatcher",
    "Outbox": "SyncOutbox",
}
"""Each async class and its twin."""

METHODS: Final[Mapping[str, str]] = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
}
"""Methods whose names differ; all others keep theirs."""

OMITTED: Final = frozenset({"__anext__"})
"""Methods without a twin: iterating is ``__iter__``'s alone, which closes what is broken off."""

COPIED: Final = frozenset({"run"})
"""Methods that call the caller's functions, so that their bodies run in the caller's thread."""

BODIES: Final[Mapping[str, str]] = {
    "__aenter__": "        return self",
    "__aexit__": "        self.close()",
    "__aiter__": """\
        try:
            while (one := self.receive()) is not None:
                yield one
        finally:
            self.close()""",
}
"""Methods whose twins have bodies of their own."""

HELD: Final[Mapping[str, str]] = {
    "__aenter__": "        self._held = Held(self._async)\n        return self",
    "__aexit__": "        self._held.leave(kind, error, traceback)",
}
"""The same for classes without ``aclose``: what they open in one task must be closed in that task."""

RELAYED: Final = """\
        try:
            yield held.value
        except BaseException as error:
            if not held.leave(type(error), error, error.__traceback__):
                raise
        else:
            held.leave(None, None, None)"""
"""The body of a context manager, once its twin is held."""

OWNER: Final = "        self._owner: object = None  # keeps what it came from, which closes when it is collected"

SECRETS: Final[Mapping[str, str]] = {"api_key": "Key", "stream_token": "TokenSource"}
"""Secrets among the arguments, which stand in no frame of a twin either, and the classes that hide them."""

WORDS: Final[Sequence[tuple[str, str]]] = (
    (r"await settle\((.*)\)", r"\1"),
    (r"Awaitable\[None\] \| None", "None"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"'await stream\.aclose\(\)'", "'stream.close()'"),
    (r"\basync for\b", "for"),
    (r"\b([Oo])ne task\b", r"\1ne thread"),
    (r"\banother task\b", "another thread"),
    (r"'async with'", "'with'"),
    (r"'await client\.aclose\(\)'", "'client.close()'"),
    (r"\basync with\b", "with"),
    (r"\bawait ", ""),
    (r"\baclose\b", "close"),
    (r"The async client", "The sync client"),
    (r", from asyncio or trio\.", ", from synchronous code."),
    (r"serves any number of tasks", "serves any number of threads"),
    (r", also before the event loop runs\.", ", also before a fork."),
)
"""How docstrings and messages are worded for synchronous code, besides the names of classes."""


@frozen
class Source:
    """An async module and the module of its twins, as paths in the package without suffix."""

    module: str
    twin: str


SOURCES: Final[Sequence[Source]] = (
    Source("client", "sync_client"),
    Source("stream/stream", "stream/sync_stream"),
    Source("batching/batcher", "batching/sync_batcher"),
    Source("outbox/outbox", "outbox/sync_outbox"),
)
"""Every module that has twins. To add one, add a line."""


def generate(text: str, source: Source) -> str:
    """Return the source of the twins of one module.

    Args:
        text: The async room's source.
        source: Its name and that of its twin.
    """
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in CLASSES]
    body = "\n\n\n".join(_Twin(text, node).write() for node in classes)
    doc = _reworded(ast.get_docstring(tree) or "")
    title = doc.splitlines()[0]
    header = (
        "# pyright: reportPrivateUsage=false\n# A twin and its async class are one thing.\n"
        f'"""{title}\n\n'
        f"GENERATED from {source.module}.py by ``python -m perkamo.sync.codegen``: change that file, never this one.\n"
        '"""\n\n'
    )
    return header + _imports(tree, body, source.module) + "\n\n" + body + "\n"


def _imports(tree: ast.Module, body: str, module: str) -> str:
    """Return the import statements of the async module, reduced to the names that the twins use."""
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    twins = {_dotted(source.module): _dotted(source.twin) for source in SOURCES}
    standard: list[str] = []
    foreign: list[str] = []
    from_portal = sorted({"Held", "iterate", "later", "run"} & used, key=_isort_key)
    ours = [
        _import_line(_dotted(module), sorted(_defined(tree) & used, key=_isort_key)),
        _import_line("perkamo.sync.portal", from_portal),
    ]
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        kept = sorted((name for one in node.names if (name := _reworded(one.name)) in used), key=_isort_key)
        if isinstance(node, ast.ImportFrom) and node.module in twins:
            there = [name for name in kept if name in CLASSES.values()]
            kept = [name for name in kept if name not in there]
            ours.extend(_import_line(twins[node.module], [name]) for name in there)
        if isinstance(node, ast.Import):
            target = foreign if "httpx" in kept else standard
            target.extend(f"import {name}" for name in kept)
        elif kept:
            target = ours if (node.module or "").startswith("perkamo") else standard
            target.append(_import_line(node.module or "", kept))
    standard.sort(key=lambda line: (line.startswith("from"), line))
    ours.sort(key=lambda line: line.split()[1])
    return "\n\n".join("\n".join(group) for group in (standard, foreign, ours) if group) + "\n"


def _dotted(path: str) -> str:
    return f"perkamo.{path.replace('/', '.')}"


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module defines itself."""
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    targets = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def _isort_key(name: str) -> tuple[bool, bool, str]:
    return (not name.isupper(), not name[0].isupper(), name)  # constants, classes, functions


def _import_line(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def stub(public_names: Mapping[str, Sequence[str]]) -> str:
    """Return what type checkers read in place of the lazy ``perkamo/__init__.py``.

    Args:
        public_names: Each module, without the package, and the names that it gives to users.
    """
    lines = [
        "# GENERATED from __init__.py by ``python -m perkamo.sync.codegen``: change that file, never this one.",
        "from typing import Final",
        "",
    ]
    for module, names in sorted(public_names.items()):
        lines.append(_import_line(f"perkamo.{module}", sorted(names, key=_isort_key)))
    listed = [f'    "{name}",' for name in sorted((*chain(*public_names.values()), "__version__"), key=_isort_key)]
    return "\n".join([*lines, "", "__version__: Final[str]", "__all__ = [", *listed, "]", ""])


class _Twin:
    """Writes the twin of one class."""

    def __init__(self, text: str, node: ast.ClassDef) -> None:
        self._lines = text.splitlines()
        self._node = node
        self._name = CLASSES[node.name]

    def write(self) -> str:
        parts = [f"class {self._name}:", self._docstring(self._node, "    "), ""]
        for method in self._public_methods():
            parts.extend([self._method(method), ""])
        parts.append(self._wrapper())
        return "\n".join(parts)

    def _public_methods(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in self._node.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name in OMITTED or (node.name.startswith("_") and not node.name.startswith("__")):
                continue
            yield node

    def _wrapper(self) -> str:
        return (
            "    @classmethod\n"
            f'    def _over(cls, twin: {self._node.name}, owner: object) -> "{self._name}":\n'
            "        made = object.__new__(cls)\n"
            "        made._async = twin\n"
            "        made._owner = owner\n"
            "        return made"
        )

    def _docstring(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: str) -> str:
        expression = node.body[0]
        if not isinstance(expression, ast.Expr) or ast.get_docstring(node) is None:
            return ""
        text = "\n".join(self._lines[expression.lineno - 1 : expression.end_lineno])
        return _reworded(indent + text.lstrip())

    def _method(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        decorators = [one.id for one in node.decorator_list if isinstance(one, ast.Name)]
        decorator = _reworded("\n".join(f"    @{name}" for name in decorators))
        parts = (decorator, _reworded(_head(node)), self._docstring(node, "        "), self._body(node))
        return "\n".join(part for part in parts if part)

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        special = self._special_body(node)
        if special is not None:
            return special
        if _is_decorated(node, "property"):
            return f"        return self._async.{node.name}"
        if node.name in COPIED:
            return _reworded("\n".join(self._lines[node.body[1].lineno - 1 : node.end_lineno]))
        return _wrapped_secrets(node) + self._delegation(node)

    def _delegation(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        if _is_decorated(node, "asynccontextmanager"):
            return _call("held = Held", [_inline(f"self._async.{node.name}", _arguments(node))]) + f"\n{RELAYED}"
        if isinstance(node, ast.AsyncFunctionDef) and ast.unparse(node.returns or node).startswith("AsyncIterator"):
            return _call("return iterate", [_inline(f"self._async.{node.name}", _arguments(node))])
        if isinstance(node, ast.AsyncFunctionDef):
            returns = "" if node.returns is None or ast.unparse(node.returns) == "None" else "return "
            return _call(f"{returns}run", [f"self._async.{node.name}", *_arguments(node)])
        returned = ast.unparse(node.returns).strip("'\"") if node.returns is not None else ""
        if returned in CLASSES:
            made = _inline(f"self._async.{node.name}", _arguments(node))
            line = f"        return {CLASSES[returned]}._over({made}, self)"
            if len(line) <= WIDTH:
                return line
            made = _call(f"twin = self._async.{node.name}", _arguments(node))
            return f"{made}\n        return {CLASSES[returned]}._over(twin, self)"
        return _call(f"return self._async.{node.name}", _arguments(node))

    def _special_body(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
        match node.name:
            case "__init__":
                return (
                    _wrapped_secrets(node) + _call(f"self._async = {self._node.name}", _arguments(node)) + f"\n{OWNER}"
                )
            case "__del__":
                lines = self._lines[node.body[1].lineno - 1 : node.end_lineno]
                text = "\n".join(f"        {line}" for line in lines).replace(
                    "self._complain(", "self._async._complain("
                )
                return (
                    '        if hasattr(self, "_async"):  # not when construction failed\n'
                    f"            try:\n{_reworded(text)}\n"
                    "            finally:\n                later(self._async.aclose)"
                )
            case "__repr__":
                return (
                    '        if not hasattr(self, "_async"):\n'
                    f'            return "<{self._name} not built>"\n'
                    f'        return repr(self._async).replace("{self._node.name}", "{self._name}")'
                )
            case _:
                closes = any(isinstance(one, ast.AsyncFunctionDef) and one.name == "aclose" for one in self._node.body)
                return (BODIES if closes else HELD).get(node.name)


def _head(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Write a signature as ruff formats it."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    parts = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True)]
    if arguments.kwonlyargs:
        parts.append("*")
    parts += [_parameter(*one) for one in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return _call(f"def {METHODS.get(node.name, node.name)}", parts, f"{returns}:", " " * 4).replace("'", '"')


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    text = one.arg if one.annotation is None else f"{one.arg}: {ast.unparse(one.annotation)}"
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _is_decorated(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in node.decorator_list)


def _wrapped_secrets(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Write what puts a method's secrets away before anything else."""
    names = [one.partition("=")[0] for one in _arguments(node)]
    return "".join(f"        {name} = wrap_secret({name}, {SECRETS[name]})\n" for name in names if name in SECRETS)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    positional = [_passed(one) for one in (*node.args.posonlyargs, *node.args.args)][1:]
    return positional + [f"{one.arg}={_passed(one)}" for one in node.args.kwonlyargs]


def _passed(one: ast.arg) -> str:
    """Write an argument as the async class takes it: a twin passes the async object that it stands for."""
    is_twin = one.annotation is not None and ast.unparse(one.annotation) in CLASSES
    return f"{one.arg}._async" if is_twin else one.arg


def _inline(function: str, arguments: Sequence[str]) -> str:
    return f"{function}({', '.join(arguments)})"


def _call(function: str, arguments: Sequence[str], end: str = "", indent: str = " " * 8) -> str:
    """Write a call as ruff formats it: on one line, on one line of its own, or one argument a line."""
    line = f"{indent}{_inline(function, arguments)}{end}"
    if len(line) <= WIDTH:
        return line
    middle = f"{indent}    {', '.join(arguments)}"
    if len(middle) <= WIDTH:
        return f"{indent}{function}(\n{middle}\n{indent}){end}"
    inner = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}{function}(\n{inner}{indent}){end}"


def _reworded(text: str) -> str:
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text)
    for name, twin in CLASSES.items():
        text = re.sub(rf"\b{name}\b", twin, text)
    return text


def main(arguments: Sequence[str]) -> int:
    """Write the twins, or compare them with ``--check``.

    Returns:
        0, or 1 when ``--check`` finds a twin that differs from what its source makes.
    """
    check = "--check" in arguments
    stale = 0
    for path, origin, text in _files():
        if check and (not path.exists() or path.read_text("utf-8") != text):
            stale += 1
            print(f"{path.name} is not what {origin} makes: run python -m perkamo.sync.codegen", file=sys.stderr)
        elif not check:
            path.write_text(text, "utf-8")
    return 1 if stale else 0


def _files() -> Iterator[tuple[Path, str, str]]:
    """Yield each generated file, what it is made from, and its text."""
    for source in SOURCES:
        origin = f"{source.module}.py"
        yield (
            PACKAGE / f"{source.twin}.py",
            origin,
            _formatted(generate((PACKAGE / origin).read_text("utf-8"), source), source.twin),
        )
    names = cast("Mapping[str, Sequence[str]]", vars(perkamo)["_PUBLIC_NAMES"])
    yield PACKAGE / "__init__.pyi", "__init__.py", _formatted(stub(names), "__init__")


def _formatted(text: str, path: str) -> str:
    """Return the source of a module as ruff formats it, by the rules of this repository."""
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format"]):
        done = subprocess.run(  # noqa: S603 - words of our own
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / "perkamo" / f"{path}.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        text = done.stdout
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
