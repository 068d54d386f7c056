"""``python -m perkamo demo``: show how events earn points, on this machine."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from attrs import frozen

from perkamo import AsyncPerkamoClient, Customer, Event, EventIngestResponse, ProgramEvent
from perkamo.cli.exit_codes import DONE
from perkamo.cli.help import explain
from perkamo.cli.layout import Cell, Styled, fit, grid
from perkamo.cli.output import gains, level_line, print_json, print_lines
from perkamo.cli.running import explained, run_async
from perkamo.cli.terminal import Style, painted
from perkamo.cli.text import count
from perkamo.sandbox import Sandbox

CUSTOMER: Final = "customer_123"


@frozen
class _Played:
    """What was sent, and its results."""

    base_url: str
    emitted: Sequence[tuple[str, EventIngestResponse]]
    batch: Sequence[tuple[str, EventIngestResponse]]
    customer: Customer
    catalog: Sequence[ProgramEvent]


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(parser, example="perkamo demo", exit_codes="0    done\n2    wrong usage\n130  Ctrl-C\n143  SIGTERM")
    parser.add_argument("--json", action="store_true", help="print the service's answers as one JSON document")


def run(args: Namespace) -> int:
    """Run the demonstration; return the exit code."""
    return explained("demo", partial(_run, args))


def _run(args: Namespace) -> int:
    played = run_async(_play)
    if args.json:
        print_json(
            {
                "emitted": [result.raw for _, result in played.emitted],
                "batch": [result.raw for _, result in played.batch],
                "customer": played.customer.raw,
                "catalog": [rule.raw for rule in played.catalog],
            }
        )
    else:
        _show_all(played)
    return DONE


async def _play() -> _Played:
    async with Sandbox() as sandbox, AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as perkamo:
        await perkamo.identify(CUSTOMER, {"name": "Ada", "plan": "premium"})
        emitted = [("user.registered", await perkamo.emit(CUSTOMER, "user.registered", transaction_id="registration"))]
        for order, amount in (("order_1", 4500), ("order_2", 12900)):
            bought = await perkamo.emit(
                CUSTOMER, "purchase.completed", {"order_id": order, "amount": amount}, transaction_id=order
            )
            emitted.append((f"purchase.completed, amount {amount}", bought))
        again = await perkamo.emit(
            CUSTOMER, "purchase.completed", {"order_id": "order_2", "amount": 12900}, transaction_id="order_2"
        )
        emitted.append(("order_2 once more", again))
        events = [
            Event(CUSTOMER, "review.created", "review_1", {"stars": 5}),
            Event(CUSTOMER, "referral.completed", "referral_1"),
            Event(CUSTOMER, "page.viewed", "view_1", {"path": "/pricing"}),
        ]
        results = (await perkamo.batch(events)).raise_for_failures()
        return _Played(
            sandbox.base_url,
            emitted,
            [(event.event, result) for event, result in zip(events, results, strict=True)],
            await perkamo.customer(CUSTOMER),
            await perkamo.event_catalog(),
        )


def _show_all(played: _Played) -> None:
    print_lines(*fit(f"A small Perkamo ran on {played.base_url}. Nothing left this machine."), "")
    print_lines(*_rows(_row("identify", f"{CUSTOMER}, name Ada, plan premium")))
    _print_head("Events earn points:")
    print_lines(*_rows(*(row for what, result in played.emitted for row in _event_rows("emit", what, result))))
    _print_head("Many events in one request, each with a result of its own:")
    print_lines(*_rows(*(row for what, result in played.batch for row in _event_rows("batch", what, result))))
    _print_head("The customer now:")
    customer = played.customer
    print_lines(
        *_rows(
            _row("wallets", ", ".join(count(balance, wallet) for wallet, balance in customer.wallets.items())),
            _row("level", "none" if customer.level is None else str(customer.level.level)),
            _row("perks", ", ".join(perk.name or "?" for perk in customer.perks)),
        )
    )
    _print_head("What this program rewards (the event catalogue):")
    print_lines(*grid([(f"{rule.event:<25}", rule.label or "") for rule in played.catalog], " " * 12))
    print_lines("", *fit("Your turn: python -m perkamo sandbox"))


def _print_head(text: str) -> None:
    print_lines("", *(painted(line, Style.HEAD, sys.stdout) for line in fit(text)), "")


def _event_rows(label: str, what: str, result: EventIngestResponse) -> Iterator[Sequence[Cell]]:
    """Yield the effect of one event."""
    if result.duplicate:
        yield _row(label, what, "duplicate: the transaction id counts once, nothing was earned twice")
        return
    yield _row(label, what, gains(result.delta) if result.delta else "no rule, nothing earned")
    if result.level is not None:
        yield _row("", "", f"level {level_line(result.level)}")
    for item in result.unlocked:
        yield _row("", "", Styled(f"* unlocked: {item.name or item.key} ({item.type})", Style.NOTABLE))
    if result.leveled_up and result.level is not None:
        yield _row("", "", Styled(f"* LEVEL UP: level {result.level.level}", Style.NOTABLE))


def _row(label: str, what: str, outcome: Cell = "") -> Sequence[Cell]:
    return Styled(f"{label:<8}", Style.NAME), what, outcome


def _rows(*rows: Sequence[Cell]) -> Iterator[str]:
    return grid(rows, "  ")
