"""``python -m perkamo catalog``: show which events earn, or write them as typed Python."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from perkamo.cli import stdio
from perkamo.cli.fields import context_paths
from perkamo.cli.layout import table
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import RefusedError, add_call_options, run_call
from perkamo.cli.text import count, printable
from perkamo.cli.typed_events import write_module
from perkamo.client import AsyncPerkamoClient
from perkamo.models import ProgramEvent

_EXAMPLE = """\
perkamo catalog
perkamo catalog --python > my_events.py"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE)
    parser.add_argument(
        "--python",
        action="store_true",
        help="write a module of typed emit functions, so that a wrong event is an error",
    )


def run(args: Namespace) -> int:
    """Read the catalogue; returns the exit code."""
    return run_call("catalog", args, _catalog)


async def _catalog(args: Namespace, client: AsyncPerkamoClient) -> None:
    rules = await client.event_catalog()
    if args.python:
        if not rules:
            raise RefusedError("the program has no earning rules, so there is nothing to write.")
        module = write_module(rules)
        stdio.write_bytes(module.encode())  # Python source is UTF-8, whatever the terminal's encoding
    elif args.json:
        print_json([rule.raw for rule in rules])
    else:
        print_lines(*rules_table(rules))


def rules_table(rules: Sequence[ProgramEvent]) -> Iterator[str]:
    """Yield the lines of a table of earning rules, or a sentence if there are none."""
    if not rules:
        yield "The program has no earning rules."
        return
    rows = [(rule.event, _earns(rule), ", ".join(context_paths(rule)), rule.label or "") for rule in rules]
    yield from table(("EVENT", "EARNS", "FROM CONTEXT", "LABEL"), rows)


def _earns(rule: ProgramEvent) -> str:
    """Return what a rule earns: its amount or formula, and its wallet. The names of these fields are assumed."""
    reward = rule.raw.get("reward")
    if not isinstance(reward, dict):
        return "" if reward is None else printable(reward)
    amount = reward.get("formula", reward.get("amount", ""))
    wallet = printable(reward.get("wallet", ""))
    text = count(amount, wallet) if isinstance(amount, int | float) else f"{printable(amount)} {wallet}"
    return text.strip()
