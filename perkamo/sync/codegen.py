"""Writes the sync twins of the async classes: ``python -m perkamo.sync.codegen``, or ``--check`` to compare only.

Each twin is real source: the same signatures and docstrings, worded for synchronous code, over the same coroutines,
which run in the portal's event loop. The async source is the only place where anything is written by hand. What is
written here is plain; ruff breaks the lines, sorts the imports and drops those that nothing needs.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from textwrap import dedent, indent
from typing import Final, TypeAlias, cast

import perkamo
from perkamo.sync.codegen_tables import (
    BODIES,
    CLASSES,
    CONSTRUCTED,
    COPIED,
    ENTERED,
    FINALIZED,
    FINALIZER,
    MADE_BY_OTHERS,
    METHODS,
    OMITTED,
    OVER,
    SECRETS,
    SOURCES,
    WORDS,
    Source,
)

PACKAGE: Final = Path(__file__).parent.parent
ROOT: Final = PACKAGE.parent
COMMAND: Final = "``python -m perkamo.sync.codegen``"

Method: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

NO_COMMA: Final = "lint.isort.split-on-trailing-comma=false"
"""Names of an import that was long once stand on one line where the dropped ones made it short."""


def generate(text: str, source: Source, base_text: str = "") -> str:
    """Return the source of the twins of one module, not yet formatted.

    Args:
        text: The async module's source.
        source: Its name and that of its twin.
        base_text: The source of the module of the base class, if there is one.
    """
    tree, base_tree = ast.parse(text), ast.parse(base_text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in CLASSES]
    bases = {node.name: node for node in base_tree.body if isinstance(node, ast.ClassDef)}
    title = _reworded(ast.get_docstring(tree) or "").splitlines()[0]
    return "\n".join(
        [
            "# pyright: reportPrivateUsage=false",
            "# A twin and its async class are one thing.",
            f'"""{title}\n',
            f"GENERATED from {source.module}.py by {COMMAND}: change that file, never this one.",
            '"""\n',
            *_imports(tree, source.module),
            *(_imports(base_tree, source.base) if source.base else ()),
            *(_Twin(text, node, _inherited(node, bases)).write() for node in classes),
        ]
    )


def _inherited(node: ast.ClassDef, bases: Mapping[str, ast.ClassDef]) -> Iterator[Method]:
    """Yield the methods that a class has from its base and does not replace."""
    own = {one.name for one in _methods(node)}
    for base in node.bases:
        if ast.unparse(base) in bases:
            yield from (one for one in _methods(bases[ast.unparse(base)]) if one.name not in own)


def _methods(node: ast.ClassDef) -> list[Method]:
    return [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def _imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Write every import that a twin may need: those of the async module, its own names, and the portal."""
    twins = {_dotted(source.module): _dotted(source.twin) for source in SOURCES}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield _reworded(ast.unparse(node)) if _module(node) not in twins else ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and _module(node) in twins:
            yield from (
                f"from {twins[_module(node)]} import {CLASSES[one.name]}" for one in node.names if one.name in CLASSES
            )
    yield f"from {_dotted(module)} import {', '.join(_defined(tree))}"
    yield "from perkamo.batching.sync_sending import sending"
    yield "from perkamo.sync.portal import finalize_soon, iterate, run, wrap_async_context_manager"


def _module(node: ast.Import | ast.ImportFrom) -> str:
    return (node.module or "") if isinstance(node, ast.ImportFrom) else ""


def _dotted(path: str) -> str:
    return f"perkamo.{path.replace('/', '.')}"


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines itself."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def stub(public_names: Mapping[str, Sequence[str]]) -> str:
    """Return what type checkers read in place of the lazy ``perkamo/__init__.py``, not yet formatted.

    Args:
        public_names: Each module, without the package, and the names that it gives to users.
    """
    names = sorted((*chain(*public_names.values()), "__version__"))
    return "\n".join(
        [
            f"# GENERATED from __init__.py by {COMMAND}: change that file, never this one.",
            "from typing import Final",
            *(f"from perkamo.{module} import {', '.join(names)}" for module, names in public_names.items()),
            "__version__: Final[str]",
            f"__all__ = {names}",
        ]
    )


class _Twin:
    """Writes the twin of one class."""

    def __init__(self, text: str, node: ast.ClassDef, inherited: Iterable[Method]) -> None:
        self._lines = text.splitlines()
        self._node = node
        methods = [*_methods(node), *inherited]
        self._names = {one.name for one in methods}
        self._methods = [one for one in methods if one.name not in OMITTED and not _is_private(one.name)]

    def write(self) -> str:
        """Return the class."""
        parts = [self._docstring(self._node)]
        if "__del__" in self._names:
            parts.append(FINALIZER)
        parts += [self._method(one) for one in self._methods]
        if self._node.name in MADE_BY_OTHERS:
            parts.append(OVER.format(name=self._node.name))
        return f"class {CLASSES[self._node.name]}:\n{_indented(*parts)}"

    def _docstring(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        text = ast.get_docstring(node)
        return "" if text is None else f'"""{_reworded(text)}' + ('\n"""' if "\n" in text else '"""')

    def _method(self, node: Method) -> str:
        decorators = [f"@{_reworded(ast.unparse(one))}" for one in node.decorator_list]
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        head = _reworded(f"def {METHODS.get(node.name, node.name)}({ast.unparse(node.args)}){returns}:")
        return "\n".join([*decorators, head, _indented(self._docstring(node), self._body(node))])

    def _body(self, node: Method) -> str:
        bodies = BODIES if "aclose" in self._names else {**BODIES, **ENTERED}
        if node.name in bodies:
            return bodies[node.name]
        if node.name in COPIED:
            return self._rest_of_body(node)
        call = f"self._async.{node.name}({', '.join(_arguments(node))})"
        match node.name:
            case "__init__":
                call = f"{self._node.name}({', '.join(_arguments(node))})"
                return _wrapped_secrets(node) + CONSTRUCTED.format(call=call)
            case "__del__":
                complain = self._rest_of_body(node).replace("self._complain(", "self._async._complain(")
                return FINALIZED.format(complain=complain)
            case _:
                return _wrapped_secrets(node) + _delegation(node, call)

    def _rest_of_body(self, node: Method) -> str:
        """Return what follows a method's docstring."""
        return _reworded(dedent("\n".join(self._lines[node.body[1].lineno - 1 : node.end_lineno])))


def _delegation(node: Method, call: str) -> str:
    """Write the body of a method that has nothing else to do than to call the async one."""
    decorators = {ast.unparse(one) for one in node.decorator_list}
    returned = _returned(node)
    if "property" in decorators:
        return f"return self._async.{node.name}"
    if "asynccontextmanager" in decorators:
        return f"with wrap_async_context_manager({call}) as value:\n    yield value"
    if returned.startswith("AsyncIterator"):
        return f"return iterate({call})"
    if isinstance(node, ast.AsyncFunctionDef):
        run = f"run({', '.join([f'self._async.{node.name}', *_arguments(node)])})"
        return run if returned == "None" else f"return {run}"
    if returned == "Self":
        return f"return copied(self, _async={call}, _owner=self)"
    return f"return {CLASSES[returned]}._over({call}, self)" if returned in CLASSES else f"return {call}"


def _returned(node: Method) -> str:
    return "None" if node.returns is None else ast.unparse(node.returns).strip("'")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _indented(*parts: str) -> str:
    return "\n".join(indent(part, "    ") for part in parts if part)


def _wrapped_secrets(node: Method) -> str:
    """Write what puts a method's secrets away before anything else."""
    names = [one.partition("=")[0] for one in _arguments(node)]
    return "".join(f"{name} = {SECRETS[name]}\n" for name in names if name in SECRETS)


def _arguments(node: Method) -> list[str]:
    """Write what a method was given as it is passed on."""
    positional = [_passed(one) for one in (*node.args.posonlyargs, *node.args.args)][1:]
    return positional + [f"{one.arg}={_passed(one)}" for one in node.args.kwonlyargs]


def _passed(one: ast.arg) -> str:
    """Write an argument as the async class takes it: for a sync client, what coroutines send with."""
    is_twin = one.annotation is not None and ast.unparse(one.annotation) in CLASSES
    return f"sending({one.arg})" if is_twin else one.arg


def _reworded(text: str) -> str:
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text)
    for name, twin in CLASSES.items():
        text = re.sub(rf"\b{name}\b", twin, text)
    return text


def main(arguments: Sequence[str], package: Path = PACKAGE) -> int:
    """Write the twins, or compare them with ``--check``.

    Args:
        arguments: Those of the command line.
        package: Where the sources and the twins are.

    Returns:
        0, or 1 when ``--check`` finds a twin that differs from what its source makes.
    """
    check = "--check" in arguments
    stale = 0
    for path, origin, text in _files(package):
        if check and (not path.exists() or path.read_text("utf-8") != text):
            stale += 1
            print(f"{path.name} is not what {origin} makes: run python -m perkamo.sync.codegen", file=sys.stderr)
        elif not check:
            path.write_text(text, "utf-8")
    return 1 if stale else 0


def _files(package: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each generated file, what it is made from, and its text."""
    for source in SOURCES:
        origin = f"{source.module}.py"
        base_text = (package / f"{source.base}.py").read_text("utf-8") if source.base else ""
        text = generate((package / origin).read_text("utf-8"), source, base_text)
        yield package / f"{source.twin}.py", origin, _formatted(text, f"{source.twin}.py", "I,F401")
    names = cast("Mapping[str, Sequence[str]]", vars(perkamo)["_PUBLIC_NAMES"])
    yield package / "__init__.pyi", "__init__.py", _formatted(stub(names), "__init__.pyi", "I,RUF022")


def _formatted(text: str, path: str, rules: str) -> str:
    """Return the source of a module as ruff fixes and formats it, by the settings of this repository."""
    for command in (["check", "--select", rules, "--config", NO_COMMA, "--fix-only", "--quiet"], ["format"]):
        done = subprocess.run(  # noqa: S603 - words of our own
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(PACKAGE / path), "-"],
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
