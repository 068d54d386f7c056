"""``python -m perkamo demo``: events earn points, before your eyes, on this machine."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from attrs import frozen

from perkamo import AsyncPerkamoClient, Customer, Event, EventIngestResponse, ProgramEvent
from perkamo.cli.exit_codes import DONE
from perkamo.cli.help import explain
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import explained, run_async
from perkamo.sandbox import Sandbox

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


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(parser, example="perkamo demo", exit_codes="0    done\n2    wrong usage\n130  Ctrl-C\n143  SIGTERM")
    parser.add_argument("--json", action="store_true", help="print the service's answers as one JSON document")


def run(args: Namespace) -> int:
    """Play the demonstration; returns the exit code."""
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
    print_lines(f"A small Perkamo ran on {played.base_url}. Nothing left this machine.", "")
    _line("identify", f"{CUSTOMER}, name Ada, plan premium")

    print_lines("", "Events earn points:", "")
    for what, result in played.emitted:
        _show(what, result)

    print_lines("", "Many events in one request, each with a result of its own:", "")
    for what, result in played.batch:
        _show(what, result, label="batch")

    print_lines("", "The customer now:", "")
    _line("wallets", _amounts(played.customer.wallets))
    if played.customer.level is not None:
        _line("level", str(played.customer.level.level))
    _line("perks", ", ".join(perk.name or "?" for perk in played.customer.perks))

    print_lines("", "What this program rewards (the event catalogue):", "")
    for rule in played.catalog:
        _line("", f"{rule.event:<26} {rule.label}")

    print_lines("", "Your turn: python -m perkamo sandbox")


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
    print_lines(f"  {label:<{_LABEL}}{what:<{_WHAT}}{outcome}")
