"""``python -m perkamo demo``: events earn points, before your eyes, on this machine."""

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import anyio

from perkamo import AsyncPerkamoClient, Event, EventIngestResponse
from perkamo.commands.help import explain
from perkamo.sandbox import Sandbox

if TYPE_CHECKING:
    from perkamo.__main__ import SubParsers

CUSTOMER: Final = "customer_123"
BAR_WIDTH: Final = 20
_LABEL: Final = 10
_WHAT: Final = 38


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command; it has no options."""
    summary = "see events earn points, in three seconds, on this machine"
    parser = subparsers.add_parser("demo", help=summary)
    explain(parser, summary, example="perkamo demo", exit_codes="0  done\n2  wrong usage")


def run(_: Namespace) -> int:
    """Play the demonstration; returns the exit code."""
    anyio.run(_play)
    return 0


async def _play() -> None:
    async with Sandbox() as sandbox, AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as perkamo:
        print(f"A small Perkamo runs on {sandbox.base_url}. Nothing leaves this machine.\n")

        await perkamo.identify(CUSTOMER, {"name": "Ada", "plan": "premium"})
        _line("identify", f"{CUSTOMER}, name Ada, plan premium")

        print("\nEvents earn points:\n")
        _show("user.registered", await perkamo.emit(CUSTOMER, "user.registered", transaction_id="registration"))
        for order, amount in (("order_1", 4500), ("order_2", 12900)):
            bought = await perkamo.emit(
                CUSTOMER, "purchase.completed", {"order_id": order, "amount": amount}, transaction_id=order
            )
            _show(f"purchase.completed, amount {amount}", bought)
        again = await perkamo.emit(
            CUSTOMER, "purchase.completed", {"order_id": "order_2", "amount": 12900}, transaction_id="order_2"
        )
        _show("order_2 once more", again)

        print("\nMany events in one request, each with a result of its own:\n")
        events = [
            Event(CUSTOMER, "review.created", "review_1", {"stars": 5}),
            Event(CUSTOMER, "referral.completed", "referral_1"),
            Event(CUSTOMER, "page.viewed", "view_1", {"path": "/pricing"}),
        ]
        for event, result in zip(events, (await perkamo.batch(events)).results, strict=True):
            _show(event.event, result, label="batch")

        print("\nThe customer now:\n")
        customer = await perkamo.customer(CUSTOMER)
        _line("wallets", _amounts(customer.wallets))
        if customer.level is not None:
            _line("level", str(customer.level.level))
        _line("perks", ", ".join(perk.name or "?" for perk in customer.perks))

        print("\nWhat this program rewards (the event catalogue):\n")
        for rule in await perkamo.event_catalog():
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
