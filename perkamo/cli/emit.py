"""``python -m perkamo emit``: send one event and show what it did."""

from argparse import ArgumentParser, Namespace
from contextlib import suppress

from anyio import get_cancelled_exc_class

from perkamo.cli import given
from perkamo.cli.layout import Cell, Styled, facts
from perkamo.cli.output import gains, level_line, perk_line, print_json, print_lines
from perkamo.cli.running import RefusedError, add_call_options, reporting, run_call
from perkamo.cli.stdio import OutputError, print_stderr
from perkamo.cli.terminal import Style
from perkamo.cli.text import count
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import PerkamoError
from perkamo.models import EventIngestResponse

_EXAMPLE = """\
perkamo emit customer_123 purchase.completed amount=12900 currency=CZK --transaction-id order_1092
perkamo emit customer_123 purchase.completed --context '{"amount": 12900, "currency": "CZK"}'"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE)
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    parser.add_argument("event", metavar="EVENT", help="the event key, such as purchase.completed")
    given.add_facts(parser, "--context", "facts")
    parser.add_argument(
        "--transaction-id",
        metavar="ID",
        help="your own id, such as the order's: it counts once (default: a random one)",
    )
    parser.add_argument(
        "--occurred-at", metavar="TIME", help="ISO 8601 with a zone, such as 2026-06-01T10:00:00Z (default: now)"
    )


def run(args: Namespace) -> int:
    """Send the event; return the exit code."""
    return run_call("emit", args, _emit)


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
    except get_cancelled_exc_class():
        again = "is safe under the same transaction id" if chosen else f"is safe with --transaction-id {transaction_id}"
        print_stderr(f"perkamo emit: stopped. The event may have been applied; sending it again {again}.")
        raise
    if result.accepted:
        name = "its transaction id" if chosen else f"the transaction id {transaction_id}"
        with reporting(f"the event counts, under {name}."):
            _show(result, transaction_id, as_json=args.json)
        return
    with suppress(OutputError):  # the raised error is more important
        _show(result, transaction_id, as_json=args.json)
    raise RefusedError(f"the service did not apply the event{_request(result)}.")


def _show(result: EventIngestResponse, transaction_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"transaction_id": transaction_id, "accepted": result.accepted, "result": result.raw})
    else:
        print_lines(*facts(*_rows(result, transaction_id)))


def _rows(result: EventIngestResponse, transaction_id: str) -> list[tuple[str, Cell]]:
    applied: Cell = Styled("yes", Style.GOOD) if result.applied else Styled("no", Style.BAD)
    if result.duplicate:
        applied = Styled("before: this transaction id counts once, and earns nothing twice", Style.NOTABLE)
    wallets = ", ".join(count(balance, wallet) for wallet, balance in result.wallet_state.items())
    rows: list[tuple[str, Cell]] = [
        ("applied", applied),
        ("transaction id", transaction_id),
        ("earned", gains(result.delta)),
        ("wallets", wallets or "none"),
    ]
    if result.level is not None:
        rows.append(("level up" if result.leveled_up else "level", level_line(result.level)))
    return [*rows, *(("unlocked", Styled(perk_line(perk), Style.NOTABLE)) for perk in result.unlocked)]


def _request(result: EventIngestResponse) -> str:
    return "" if result.meta.request_id is None else f" (request id {result.meta.request_id})"
