"""``python -m perkamo emit``: send one event and show what it did."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from perkamo.cli import given
from perkamo.cli.output import facts, level_line, number, perk_line, print_json, print_lines
from perkamo.cli.running import RefusedError, add_command, run_call
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoError
from perkamo.events import create_transaction_id
from perkamo.models import EventIngestResponse

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

_EXAMPLE = """\
perkamo emit customer_123 purchase.completed amount=12900 currency=CZK --transaction-id order_1092
perkamo emit customer_123 purchase.completed --context '{"amount": 12900, "currency": "CZK"}'"""


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = add_command(subparsers, "emit", "send one event and show what it did", example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    parser.add_argument("event", metavar="EVENT", help="the event key, such as purchase.completed")
    parser.add_argument("facts", metavar="KEY=VALUE", nargs="*", type=given.pair, help=given.HELP)
    parser.add_argument("--context", metavar="JSON", type=given.json_object, help="facts as one JSON object")
    parser.add_argument(
        "--transaction-id",
        metavar="ID",
        help="the business's own id, such as the order's: it counts once (default: a random one)",
    )
    parser.add_argument(
        "--occurred-at", metavar="TIME", help="ISO 8601 with a zone, such as 2026-06-01T10:00:00Z (default: now)"
    )


def run(args: Namespace) -> int:
    """Send the event; returns the exit code."""
    return run_call("emit", partial(_emit, args))


async def _emit(args: Namespace, client: AsyncPerkamoClient) -> None:
    chosen: str | None = args.transaction_id
    transaction_id = create_transaction_id() if chosen is None else chosen
    context = given.merge(args.facts, args.context)
    try:
        result = await client.emit(
            args.user_id, args.event, context, transaction_id=transaction_id, occurred_at=args.occurred_at
        )
    except PerkamoError as error:
        if chosen is None and error.outcome == "unknown":
            error.add_note(f"To send it again, add --transaction-id {transaction_id}")
        raise
    if args.json:
        print_json({"transaction_id": transaction_id, "accepted": result.accepted, "result": result.raw})
    else:
        print_lines(*facts(*_rows(result, transaction_id)))
    if not result.accepted:
        raise RefusedError(f"the service did not apply the event{_request(result)}.")


def _rows(result: EventIngestResponse, transaction_id: str) -> list[tuple[str, str]]:
    applied = "yes" if result.applied else "no"
    if result.duplicate:
        applied = "before: this transaction id has counted, and earns nothing twice"
    earned = ", ".join(
        f"{'+' if delta.amount > 0 else ''}{number(delta.amount)} {delta.wallet}" for delta in result.delta
    )
    wallets = ", ".join(f"{number(balance)} {wallet}" for wallet, balance in result.wallet_state.items())
    rows = [
        ("applied", applied),
        ("transaction id", transaction_id),
        ("earned", earned or "nothing"),
        ("wallets", wallets or "none"),
    ]
    if result.level is not None:
        rows.append(("level up" if result.leveled_up else "level", level_line(result.level)))
    return rows + [("unlocked", perk_line(perk)) for perk in result.unlocked]


def _request(result: EventIngestResponse) -> str:
    return "" if result.meta.request_id is None else f" (request id {result.meta.request_id})"
