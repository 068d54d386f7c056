"""``python -m perkamo watch USER_ID``: a customer's updates as they come, one line each, until Ctrl-C."""

import json
import os
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from perkamo.cli.help import BASE_URL, BROWSER_KEY, KEY, explain
from perkamo.cli.output import print_stderr, printable
from perkamo.cli.running import DONE, FAILED, client_of_environment, explained, print_error
from perkamo.models import Customer, Level, UnlockedPerk
from perkamo.stream.stream import CustomerUpdate, StreamState

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

BROWSER_KEY_VARIABLE: Final = "PERKAMO_BROWSER_KEY"

_STATES: Final = {"open": "connected", "waiting": "connection lost, trying again"}


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    summary = "show a customer's updates as they come, until Ctrl-C (preview)"
    parser = subparsers.add_parser("watch", help=summary)
    explain(
        parser,
        summary,
        example="perkamo watch customer_123\nperkamo watch customer_123 --json | jq .customer.wallets",
        exit_codes="0  Ctrl-C, or the service ended the stream\n"
        "1  failed: no key, no connection, no permission, no such stream\n"
        "2  wrong usage\n"
        "3  refused: the service gives no token for this customer; trying again does not help",
        environment=(KEY, BROWSER_KEY, BASE_URL),
    )
    parser.add_argument("user_id", metavar="USER_ID", help="the application's own id of the customer")
    parser.add_argument(
        "--browser-key",
        default=os.environ.get(BROWSER_KEY_VARIABLE, ""),
        help=f"the public browser key, pk_… (default: {BROWSER_KEY_VARIABLE})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line: event, id and customer")


def run(args: Namespace) -> int:
    """Watch until Ctrl-C; returns the exit code."""
    return explained("watch", partial(_run, args), interrupted=DONE)


def _run(args: Namespace) -> int:
    if not args.browser_key:
        return print_error("watch", f"set {BROWSER_KEY_VARIABLE}, or pass --browser-key", FAILED)
    anyio.run(_watch, args.user_id, args.browser_key, args.json)
    print_stderr("The service ended the stream.")
    return DONE


async def _watch(user_id: str, browser_key: str, as_json: bool) -> None:  # noqa: FBT001 - anyio.run passes by position
    async with client_of_environment() as client:
        stream = client.subscribe_customer(
            user_id, lambda: client.create_stream_token(browser_key, user_id), on_state=_tell
        )
        before: Customer | None = None
        async with stream:
            async for update in stream:
                print(_object(update) if as_json else _line(before, update), flush=True)
                before = update.customer


def _tell(state: StreamState) -> None:
    if state in _STATES:
        print_stderr(f"perkamo watch: {_STATES[state]}")


def _object(update: CustomerUpdate) -> str:
    return json.dumps({"event": update.event, "id": update.id, "customer": update.customer.raw}, ensure_ascii=False)


def _line(before: Customer | None, update: CustomerUpdate) -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}  {describe(before, update.customer)}"


def describe(before: Customer | None, now: Customer) -> str:
    """Say what an update changed; of the first one, what there is.

    Args:
        before: The customer as last seen, or None.
        now: The customer as the update has it.
    """
    parts = [*_wallets(before, now), *_level(None if before is None else before.level, now.level), *_perks(before, now)]
    quiet = "nothing yet" if before is None else "no change of wallets, level or perks"
    return "   ".join(printable(part) for part in parts) or quiet


def _wallets(before: Customer | None, now: Customer) -> Iterator[str]:
    for wallet, balance in now.wallets.items():
        change = balance - (0 if before is None else before.wallets.get(wallet, 0))
        if before is None:
            yield f"{wallet} {balance:,}"
        elif change:
            yield f"{wallet} {balance:,} ({change:+,})"
    if before is not None:
        yield from (f"{wallet} gone" for wallet in before.wallets if wallet not in now.wallets)


def _level(before: Level | None, now: Level | None) -> Iterator[str]:
    if now is None or (before is not None and before.level == now.level):
        return
    if before is None:
        yield f"level {now.level}"
    else:
        yield f"level {'up' if now.level > before.level else 'down'}: {before.level} -> {now.level}"


def _perks(before: Customer | None, now: Customer) -> Iterator[str]:
    known = [] if before is None else [_key(perk) for perk in before.perks]
    for perk in now.perks:
        if _key(perk) not in known:
            what = f"{perk.type or 'perk'} {perk.name or perk.key or ''}".rstrip()
            yield what if before is None else f"new {what}"


def _key(perk: UnlockedPerk) -> tuple[str | None, str | None]:
    return perk.type, perk.key
