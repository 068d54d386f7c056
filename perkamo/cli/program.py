"""``python -m perkamo program``: show the Space's active program; check a program file, or compare two."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from perkamo.cli.catalog import rules_table
from perkamo.cli.exit_codes import DONE, REFUSED, WRONG_USAGE
from perkamo.cli.output import outline, print_json, print_lines
from perkamo.cli.running import RefusedError, add_call_options, explained, print_error, run_call
from perkamo.cli.stdio import print_stderr
from perkamo.cli.text import count
from perkamo.client import AsyncPerkamoClient
from perkamo.models import Program

if TYPE_CHECKING:
    from perkamo.sandbox.program import Program as SandboxProgram

_EXAMPLE = """\
perkamo program
perkamo program --json > program.json && perkamo sandbox --program program.json
perkamo program check program.json
perkamo program diff program.json next.json events.jsonl
perkamo program schema > program.schema.json"""

_FILES: Final = {"show": 0, "check": 1, "diff": 3, "schema": 0}
"""How many files each action takes."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE)
    parser.add_argument(
        "action",
        nargs="?",
        choices=_FILES,
        default="show",
        help="show: the Space's active program; check FILE: list what is wrong in a program file; diff OLD NEW EVENTS:"
        " replay recorded events through two program files; schema: print the JSON Schema of a program file",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="program files as JSON, and events as import takes them, also - or .gz",
    )


def run(args: Namespace) -> int:
    """Carry out the action; return the exit code."""
    given: list[str] = args.files
    if len(given) != _FILES[args.action]:
        words = {"check": "FILE", "diff": "OLD NEW EVENTS"}.get(args.action, "without a file")
        return print_error(
            "program", f"{args.action} is written as: perkamo program {args.action} {words}", WRONG_USAGE
        )
    actions: dict[str, Callable[[Namespace], int]] = {"check": _check, "diff": _diff, "schema": _schema}
    if args.action in actions:
        return explained("program", lambda: actions[args.action](args))
    return run_call("program", args, _program)


async def _program(args: Namespace, client: AsyncPerkamoClient) -> None:
    program = await client.program()
    if args.json:
        print_json(program.raw)
    else:
        print_lines(*_lines(program))


def _lines(program: Program) -> Iterator[str]:
    """Yield the rules as a table and everything else, whose names are unpublished, as an outline."""
    yield from rules_table(program.blueprint.earning_rules)
    yield ""
    blueprint = program.raw.get("blueprint")
    if isinstance(blueprint, dict):
        yield from outline({name: value for name, value in blueprint.items() if name != "earningRules"})
    yield from outline({name: value for name, value in program.raw.items() if name != "blueprint"})


def _check(args: Namespace) -> int:
    from perkamo.sandbox.blueprint import ProgramError, read_program  # noqa: PLC0415 - imported only if it is used

    try:
        with open(args.files[0], "rb") as file:  # noqa: PTH123 - the name as it was typed
            program = read_program(file.read())
    except ProgramError as error:
        if args.json:
            print_json({"ok": False, "problems": list(error.problems)})
        else:
            print_lines(*error.problems)
        return REFUSED
    if args.json:
        print_json({"ok": True, "problems": []})
    else:
        print_lines(f"{program.name}: {len(program.rules)} earning rules, no problems found.")
    return DONE


def _diff(args: Namespace) -> int:
    from perkamo.cli.program_diff import compare  # noqa: PLC0415 - imported only if it is used
    from perkamo.cli.recorded_lines import UNREADABLE, RecordedLines  # noqa: PLC0415

    old, new, events = args.files
    before, after = _read(old), _read(new)
    try:
        with RecordedLines(events) as lines:
            found = compare(before, after, lines)
    except UNREADABLE as error:
        raise RefusedError(f"{events} can't be read: {error}") from None
    if args.json:
        print_json(found.json())
    else:
        print_lines(*found.lines())
    if not found.refused:
        return DONE
    print_stderr(f"perkamo program: {count(found.refused, 'lines')} can't be read: {'; '.join(found.reasons)}")
    return REFUSED


def _read(file: str) -> "SandboxProgram":
    from perkamo.sandbox.blueprint import ProgramError, read_program  # noqa: PLC0415 - imported only if it is used

    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - the name as it was typed
            return read_program(opened.read())
    except ProgramError as error:
        raise RefusedError(f"{file}: {error}") from None


def _schema(_: Namespace) -> int:
    print_json(json.loads(files("perkamo.sandbox").joinpath("program.schema.json").read_bytes()))
    return DONE
