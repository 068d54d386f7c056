"""``python -m perkamo identify``: create or update a customer's trusted traits."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from perkamo.cli import given
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import add_command, run_call
from perkamo.client import AsyncPerkamoClient

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

_EXAMPLE = """\
perkamo identify customer_123 plan=premium newsletter=true
perkamo identify customer_123 --traits '{"plan": "premium"}'"""


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = add_command(subparsers, "identify", "create or update a customer's trusted traits", example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    parser.add_argument("facts", metavar="KEY=VALUE", nargs="*", type=given.pair, help=given.HELP)
    parser.add_argument("--traits", metavar="JSON", type=given.json_object, help="traits as one JSON object")


def run(args: Namespace) -> int:
    """Send the traits; returns the exit code."""
    return run_call("identify", partial(_identify, args))


async def _identify(args: Namespace, client: AsyncPerkamoClient) -> None:
    traits = given.merge(args.facts, args.traits)
    answer = await client.identify(args.user_id, traits)
    if args.json:
        print_json(answer.raw)
    else:
        print_lines(f"Identified, with {len(traits)} {'trait' if len(traits) == 1 else 'traits'}.")
