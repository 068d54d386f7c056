"""``python -m perkamo demo``: events earn points, before your eyes, on this machine."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from attrs import frozen

from perkamo import AsyncPerkamoClient, Customer, Event, EventIngestResponse, ProgramEvent
from perkamo.cli.help import explain
from perkamo.cli.output import print_json
from perkamo.cli.running import DONE, explained
from perkamo.sandbox import Sandbox

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

CUSTOMER: Final = "customer_123"
BAR_WIDTH: Final = 20
_LABEL: Final = 10
_WHAT: Final = 38


@frozen
class _Played:
    """What was sent, and what came of it."""

    base_url: str
    emitted: Sequence[tuple[str, EventIngestResponse]]
    batch: Sequence[tuple[str, EventIngestResponse]]
    customer: Customer
    catalog: Sequence[ProgramEvent]


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    summary = "see events earn points, in three seconds, on this machine"
    parser = subparsers.add_parser("demo", help=summary)
    explain(parser, summary, example="perkamo demo", exit_codes="0    done\n2    wrong usage\n130  Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the service's answers as one JSON document")


def run(args: Namespace) -> int:
    """Play the demonstration; returns the exit code."""
    return explained("demo", partial(_run, args))


def _run(args: Namespace) -> int:
    played = anyio.run(_play)
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
    print(f"A small Perkamo ran on {played.base_url}. Nothing left this machine.\n")
    _line("identify", f"{CUSTOMER}, name Ada, plan premium")

    print("\nEvents earn points:\n")
    for what, result in played.emitted:
        _show(what, result)

    print("\nMany events in one request, each with a result of its own:\n")
    for what, result in played.batch:
        _show(what, result, label="batch")

    print("\nThe customer now:\n")
    _line("wallets", _amounts(played.customer.wallets))
    if played.customer.level is not None:
        _line("level", str(played.customer.level.level))
    _line("perks", ", ".join(perk.name or "?" for perk in played.customer.perks))

    print("\nWhat this program rewards (the event catalogue):\n")
    for rule in played.catalog:
        _line("", f"{rule.event:<26} {rule.label}")

    print("\nYour turn: python -m perkamo sandbox")


def _show(what: str, result: EventIngestResponse, *, label: str = "emit") -> None:
    """Print what one event did."""
    if result.duplicate:
        _line(label, what, "duplicate: the transaction id counts once, nothing was earned twice")
        return
    earned = ", ".join(f"{delta.amount:+g} {delta.wallet}" for delta in result.delta)
    _line(label, what, f"{earned or 'no rule, nothing earned':<24}{_progress(result)}")
    for item in result.unlocked:
        _line("", "", f"* unlocked: {item.name} ({item.type})")
    if result.leveled_up and result.level is not None:
        _line("", "", f"* LEVEL UP: level {result.level.level}")


def _progress(result: EventIngestResponse) -> str:
    level = result.level
    if level is None:
        return ""
    filled = int(level.progress * BAR_WIDTH)
    goal = "top" if level.next_level_at is None else f"{level.next_level_at:g}"
    return f"level {level.level} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {level.current:g} of {goal}"


def _amounts(wallets: Mapping[str, float]) -> str:
    return ", ".join(f"{balance:g} {wallet}" for wallet, balance in wallets.items())


def _line(label: str, what: str, outcome: str = "") -> None:
    print(f"  {label:<{_LABEL}}{what:<{_WHAT}}{outcome}".rstrip())
