"""``python -m perkamo watch USER_ID``: a customer's updates as they happen, one line each, until Ctrl-C."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias

from perkamo.cli import stdio
from perkamo.cli.exit_codes import DONE, FAILED
from perkamo.cli.help import BASE_URL, BROWSER_KEY, BROWSER_KEY_VARIABLE, KEY, add_client_options, explain
from perkamo.cli.output import print_json_lines, print_lines
from perkamo.cli.running import client_of_environment, explained, print_error, run_async
from perkamo.cli.stdio import print_stderr
from perkamo.cli.terminal import Style, painted
from perkamo.cli.text import printable
from perkamo.models import Customer, Level, UnlockedPerk
from perkamo.stream.stream import CustomerUpdate, StreamState

_SPACE: Final = "   "
_Change: TypeAlias = tuple[str, Style | None]
_STATES: Final = {"open": "connected", "waiting": "connection lost, trying again"}


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example="perkamo watch customer_123\nperkamo watch customer_123 --json | jq .customer.wallets",
        exit_codes="0  Ctrl-C or SIGTERM, or the service ended the stream\n"
        "1  failed: no key, no connection, no permission, no such stream\n"
        "2  wrong usage\n"
        "3  refused: the service gives no token for this customer; trying again does not help",
        environment=(KEY, BROWSER_KEY, BASE_URL),
    )
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    parser.add_argument(
        "--browser-key",
        default=os.environ.get(BROWSER_KEY_VARIABLE, ""),
        help=f"the public browser key, pk_… (default: {BROWSER_KEY_VARIABLE})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line: event, id and customer")
    add_client_options(parser)


def run(args: Namespace) -> int:
    """Watch until Ctrl-C or SIGTERM; return the exit code."""
    return explained("watch", partial(_run, args), runs_until_stopped=True)


def _run(args: Namespace) -> int:
    if not args.browser_key:
        return print_error("watch", f"set {BROWSER_KEY_VARIABLE}, or pass --browser-key", FAILED)
    run_async(partial(_watch, args))
    print_stderr("The service ended the stream.")
    return DONE


async def _watch(args: Namespace) -> None:
    user_id: str = args.user_id
    async with client_of_environment(args) as client:
        stream = client.subscribe_customer(
            user_id, lambda: client.create_stream_token(args.browser_key, user_id), on_state=_print_state
        )
        before: Customer | None = None
        async with stream:
            async for update in stream:
                _print_update(before, update, as_json=args.json)
                before = update.customer


def _print_state(state: StreamState) -> None:
    if state in _STATES:
        print_stderr(f"perkamo watch: {_STATES[state]}")


def _print_update(before: Customer | None, update: CustomerUpdate, *, as_json: bool) -> None:
    if as_json:
        print_json_lines({"event": update.event, "id": update.id, "customer": update.customer.raw})
        return
    parts = [painted(printable(text), style, sys.stdout) for text, style in _changes(before, update.customer)]
    print_lines(f"{datetime.now().astimezone():%H:%M:%S}  {_SPACE.join(parts)}")
    stdio.flush()


def describe(before: Customer | None, now: Customer) -> str:
    """Return what an update changed; for the first update, the current state.

    Args:
        before: The customer as last seen, or None.
        now: The customer after the update.
    """
    return _SPACE.join(printable(text) for text, _ in _changes(before, now))


def _changes(before: Customer | None, now: Customer) -> list[_Change]:
    level = None if before is None else before.level
    changes = [*_wallets(before, now), *_level(level, now.level), *_perks(before, now)]
    quiet = "nothing yet" if before is None else "no change of wallets, level or perks"
    return changes or [(quiet, None)]


def _wallets(before: Customer | None, now: Customer) -> Iterator[_Change]:
    for wallet, balance in now.wallets.items():
        change = balance - (0 if before is None else before.wallets.get(wallet, 0))
        if before is None:
            yield f"{wallet} {balance:,}", None
        elif change:
            yield f"{wallet} {balance:,} ({change:+,})", Style.GOOD if change > 0 else Style.BAD
    if before is not None:
        yield from ((f"{wallet} gone", Style.BAD) for wallet in before.wallets if wallet not in now.wallets)


def _level(before: Level | None, now: Level | None) -> Iterator[_Change]:
    if now is None or (before is not None and before.level == now.level):
        return
    if before is None:
        yield f"level {now.level}", None
    else:
        yield f"level {'up' if now.level > before.level else 'down'}: {before.level} -> {now.level}", Style.NOTABLE


def _perks(before: Customer | None, now: Customer) -> Iterator[_Change]:
    known = [] if before is None else [_key(perk) for perk in before.perks]
    for perk in now.perks:
        if _key(perk) not in known:
            what = f"{perk.type or 'perk'} {perk.name or perk.key or ''}".rstrip()
            yield (what, None) if before is None else (f"new {what}", Style.NOTABLE)


def _key(perk: UnlockedPerk) -> tuple[str | None, str | None]:
    return perk.type, perk.key
