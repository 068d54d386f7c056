"""``python -m perkamo outbox``: look at an outbox, deliver what is in it, and see to its dead letters."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from attrs import asdict

from perkamo.client import AsyncPerkamoClient
from perkamo.commands.help import BASE_URL, KEY, explain
from perkamo.delivery.outbox import Outbox, OutboxStats
from perkamo.errors import PerkamoError

if TYPE_CHECKING:
    from perkamo.__main__ import SubParsers


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("outbox", help="look at an outbox, deliver it, see to its dead letters")
    explain(
        parser,
        "look at an outbox, deliver it, see to its dead letters",
        example="perkamo outbox stats /var/lib/shop/outbox --json\n"
        "perkamo outbox relay /var/lib/shop/outbox --until-empty\n"
        "perkamo outbox dead /var/lib/shop/outbox\n"
        "perkamo outbox requeue /var/lib/shop/outbox --transaction-id order_1092",
        exit_codes="0  done; also Ctrl-C, after which all that waits is kept\n"
        "1  failed: no outbox, no key, no permission\n"
        "2  wrong usage",
        environment=(f"{KEY} (relay)", BASE_URL),
    )
    parser.add_argument("action", choices=["stats", "relay", "dead", "requeue"], help="what to do")
    parser.add_argument("directory", type=Path, metavar="DIR", help="the outbox's directory")
    parser.add_argument("--json", action="store_true", help="stats: print JSON")
    parser.add_argument("--until-empty", action="store_true", help="relay: end when nothing waits, not at Ctrl-C")
    parser.add_argument(
        "--rebind", action="store_true", help="relay: send also what was kept under another key of the same Space"
    )
    parser.add_argument("--events", action="store_true", help="dead: print the events too, which are personal data")
    parser.add_argument("--transaction-id", metavar="ID", help="requeue: this dead letter only")


def run(args: Namespace) -> int:
    """Do what was asked; returns the exit code."""
    directory: Path = args.directory
    if not directory.is_dir():
        print(f"{directory} is no directory.", file=sys.stderr)
        return 1
    try:
        return anyio.run(_run, args, directory)
    except KeyboardInterrupt:
        print("Stopped. What waits is kept.")
        return 0
    except PerkamoError as error:
        print(error, file=sys.stderr)
        return 1


async def _run(args: Namespace, directory: Path) -> int:
    async with Outbox(directory) as outbox:
        match args.action:
            case "stats":
                _show(await outbox.stats(), as_json=args.json)
            case "relay":
                await _relay(outbox, until_empty=args.until_empty, rebind=args.rebind)
            case "dead":
                await _dead(outbox, with_events=args.events)
            case _:
                print(f"{await outbox.requeue(args.transaction_id)} dead letters wait for delivery again.")
    return 0


def _show(stats: OutboxStats, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(stats)))
        return
    for name, number in asdict(stats).items():
        print(f"{name:<10} {number:>14,}")
    if stats.set_aside:
        print("Damaged or foreign files were set aside: look at *.corrupt-* in the directory.")


async def _relay(outbox: Outbox, *, until_empty: bool, rebind: bool) -> None:
    async with AsyncPerkamoClient() as client:
        if rebind:
            print(f"{await outbox.rebind(client)} events belong to this key now.")
        if until_empty:
            _show(await outbox.drain(client), as_json=False)
            return
        print("Delivering until Ctrl-C.", flush=True)
        async with outbox.relay(client):
            await anyio.sleep_forever()


async def _dead(outbox: Outbox, *, with_events: bool) -> None:
    async for letter in outbox.dead():
        line: dict[str, object] = {"transaction_id": letter.transaction_id, "reason": letter.reason}
        if with_events:
            line["event"] = json.loads(letter.body)
        print(json.dumps(line, ensure_ascii=False))
