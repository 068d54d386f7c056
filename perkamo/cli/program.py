"""``python -m perkamo program``: show the Space's active program."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from perkamo.cli.catalog import rules_table
from perkamo.cli.output import outline, print_json, print_lines
from perkamo.cli.running import add_call_options, run_call
from perkamo.client import AsyncPerkamoClient
from perkamo.models import Program

_EXAMPLE = """\
perkamo program
perkamo program --json > program.json && perkamo sandbox --program program.json"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options; it has none of its own."""
    add_call_options(parser, example=_EXAMPLE)


def run(args: Namespace) -> int:
    """Read the program; returns the exit code."""
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
