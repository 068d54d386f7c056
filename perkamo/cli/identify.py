"""``python -m perkamo identify``: create or update a customer's trusted traits."""

from argparse import ArgumentParser, Namespace

from perkamo.cli import given
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import add_call_options, reporting, run_call
from perkamo.cli.text import count
from perkamo.client import AsyncPerkamoClient

_EXAMPLE = """\
perkamo identify customer_123 plan=premium newsletter=true
perkamo identify customer_123 --traits '{"plan": "premium"}'"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    given.add_facts(parser, "--traits", "traits")


def run(args: Namespace) -> int:
    """Send the traits; return the exit code."""
    return run_call("identify", args, _identify)


async def _identify(args: Namespace, client: AsyncPerkamoClient) -> None:
    traits = given.merge(args.facts, args.traits)
    answer = await client.identify(args.user_id, traits)
    with reporting("the customer was identified."):
        if args.json:
            print_json(answer.raw)
        else:
            print_lines(f"Identified, with {count(len(traits), 'traits')}.")
