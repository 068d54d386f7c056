"""``python -m perkamo customer``: show a customer as the service sees it now."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from perkamo.cli.output import facts, level_line, number, perk_line, print_json, print_lines, printable
from perkamo.cli.running import add_command, run_call
from perkamo.client import AsyncPerkamoClient
from perkamo.models import Customer

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

_EXAMPLE = """\
perkamo customer customer_123
perkamo customer customer_123 --json | jq .wallets.points"""


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = add_command(subparsers, "customer", "show a customer's wallets, level, perks and traits", example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")


def run(args: Namespace) -> int:
    """Read the customer; returns the exit code."""
    return run_call("customer", partial(_customer, args))


async def _customer(args: Namespace, client: AsyncPerkamoClient) -> None:
    customer = await client.customer(args.user_id)
    if args.json:
        print_json(customer.raw)
    else:
        print_lines(*facts(*_rows(customer)))


def _rows(customer: Customer) -> list[tuple[str, str]]:
    wallets = [("wallet", f"{number(balance)} {wallet}") for wallet, balance in customer.wallets.items()]
    perks = [("perk", perk_line(perk)) for perk in customer.perks]
    return [
        ("customer", customer.user_id),
        ("level", "none" if customer.level is None else level_line(customer.level)),
        *(wallets or [("wallet", "none")]),
        *(perks or [("perk", "none")]),
        *(("trait", f"{name} = {printable(value)}") for name, value in customer.traits.items()),
    ]
