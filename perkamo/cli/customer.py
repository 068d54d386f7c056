"""``python -m perkamo customer``: show a customer as the service sees it now."""

from argparse import ArgumentParser, Namespace

from perkamo.cli.layout import facts
from perkamo.cli.output import level_line, perk_line, print_json, print_lines
from perkamo.cli.running import add_call_options, run_call
from perkamo.cli.text import count, printable
from perkamo.client import AsyncPerkamoClient
from perkamo.models import Customer

_EXAMPLE = """\
perkamo customer customer_123
perkamo customer customer_123 --json | jq .wallets.points"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")


def run(args: Namespace) -> int:
    """Read the customer; return the exit code."""
    return run_call("customer", args, _customer)


async def _customer(args: Namespace, client: AsyncPerkamoClient) -> None:
    customer = await client.customer(args.user_id)
    if args.json:
        print_json(customer.raw)
    else:
        print_lines(*facts(*_rows(customer)))


def _rows(customer: Customer) -> list[tuple[str, str]]:
    wallets = [("wallet", count(balance, wallet)) for wallet, balance in customer.wallets.items()]
    perks = [("perk", perk_line(perk)) for perk in customer.perks]
    return [
        ("customer", customer.user_id or "not stated"),
        ("level", "none" if customer.level is None else level_line(customer.level)),
        *(wallets or [("wallet", "none")]),
        *(perks or [("perk", "none")]),
        *(("trait", f"{name} = {printable(value)}") for name, value in customer.traits.items()),
    ]
