"""``python -m perkamo outbox``: inspect an outbox, deliver its events, and handle its dead letters."""

import stat
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from perkamo.cli.duration import duration
from perkamo.cli.exit_codes import DONE, FAILED, WRONG_USAGE
from perkamo.cli.help import BASE_URL, KEY, add_client_options, explain
from perkamo.cli.listening import address
from perkamo.cli.outbox_output import show_dead, show_missing, show_moved, show_requeued, show_stats
from perkamo.cli.outbox_relay import relay_until_stopped
from perkamo.cli.output import print_lines
from perkamo.cli.running import explained, print_error, run_async
from perkamo.outbox.directory import Directory, holds_outbox
from perkamo.outbox.outbox import DEFAULT_MAX_BYTES, Outbox
from perkamo.outbox.postgres.moving import Moved, move
from perkamo.outbox.postgres.outbox import PostgresOutbox
from perkamo.outbox.postgres.schema import outbox_schema
from perkamo.outbox.relay import FINISH_SECONDS
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import DeadLetter, OutboxStats

_OF_A_DSN: Final = (":/", "=")
"""Part of a DSN in another form than ours; ``Path`` turns two slashes into one."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example="perkamo outbox stats /var/lib/shop/outbox --json\n"
        "perkamo outbox stats /var/lib/shop/outbox --fail-if-older 10m\n"
        "perkamo outbox relay /var/lib/shop/outbox --until-empty\n"
        "perkamo outbox relay /var/lib/shop/outbox --listen 127.0.0.1:9464 --fail-if-older 10m\n"
        "perkamo outbox dead /var/lib/shop/outbox\n"
        "perkamo outbox requeue /var/lib/shop/outbox --transaction-id order_1092\n"
        "perkamo outbox relay postgresql://shop@db/shop --space commerce-live\n"
        "perkamo outbox move /var/lib/shop/outbox postgresql://shop@db/shop\n"
        "perkamo outbox sql | psql postgresql://admin@db/shop",
        exit_codes="0  done; also Ctrl-C and SIGTERM: events that wait are kept\n"
        "1  failed: no outbox, no key, no permission; events still wait (--until-empty), wait too long\n"
        "   (--fail-if-older), or are missing\n"
        "2  wrong usage\n"
        "3  refused: the service does not take the events; trying again does not help",
        environment=(f"{KEY} (relay)", BASE_URL),
    )
    parser.add_argument(
        "action",
        choices=["stats", "relay", "dead", "requeue", "move", "check", "sql"],
        help="stats: print the counts; relay: deliver the events until Ctrl-C; dead: list the dead letters; requeue:"
        " queue them for delivery again; move: move waiting events from a directory to a database; check: list what"
        " the database lacks; sql: print the SQL that creates its tables",
    )
    parser.add_argument(
        "place",
        nargs="?",
        metavar="DIR|DSN",
        help="the outbox's directory, or postgresql://user@host/database; passwords: PGPASSWORD or ~/.pgpass",
    )
    parser.add_argument("target", nargs="?", metavar="DSN", help="move: the database, as postgresql://…")
    parser.add_argument("--schema", metavar="NAME", default="perkamo", help="the schema of the tables (PostgreSQL)")
    parser.add_argument(
        "--after", metavar="N", type=int, default=0, help="sql: the version of the tables that exist already"
    )
    parser.add_argument(
        "--order-by",
        choices=["customer"],
        help="relay, check, sql: deliver each customer's events in their order (PostgreSQL)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs; dead: one object per line")
    parser.add_argument(
        "--fail-if-older",
        type=duration,
        metavar="AGE",
        help="stats: exit with 1 where an event has waited longer, such as 90s, 10m or 2h; relay: /healthz is 503 then",
    )
    parser.add_argument(
        "--listen",
        type=address,
        metavar="HOST:PORT",
        help="relay: serve /healthz and, with the extra prometheus, /metrics there",
    )
    parser.add_argument(
        "--grace",
        type=duration,
        default=FINISH_SECONDS,
        metavar="TIME",
        help="relay: how long to wait at SIGTERM for the requests in flight (default: 5s)",
    )
    parser.add_argument("--until-empty", action="store_true", help="relay: stop when nothing waits, not at Ctrl-C")
    parser.add_argument(
        "--rebind", action="store_true", help="relay: also send what was kept under another key of the same Space"
    )
    parser.add_argument("--space", metavar="NAME", help="relay: the Space's name, if the outbox was given one")
    parser.add_argument("--events", action="store_true", help="dead: print the events too, which are personal data")
    parser.add_argument("--transaction-id", metavar="ID", help="requeue: this dead letter only")
    add_client_options(parser)


def run(args: Namespace) -> int:
    """Carry out the action; return the exit code."""
    return explained("outbox", partial(_run, args), runs_until_stopped=True)


def _run(args: Namespace) -> int:
    if args.action == "sql":
        print_lines(*_sql(args))
        return DONE
    if (problem := _problem(args)) is not None:
        return print_error("outbox", *problem)
    return _ACTIONS[args.action](args)


def _problem(args: Namespace) -> tuple[str, int] | None:
    """Print why there is nothing to do, and return the exit code for it."""
    if args.place is None:
        return "say which: a directory, or postgresql://…", WRONG_USAGE
    directory = Path(args.place)
    if args.action != "move" and args.target is not None:
        advice = "name a dead letter with --transaction-id" if args.action == "requeue" else "only move takes two"
        return f"{args.action} takes one outbox; {advice}. Nothing was changed.", WRONG_USAGE
    if args.action == "move" and (_is_dsn(args.place) or not _is_dsn(args.target or "")):
        return "say from where to where: move DIR postgresql://…", WRONG_USAGE
    if args.action == "check" and not _is_dsn(args.place):
        return "check is for a database. Nothing was changed.", WRONG_USAGE
    return None if _is_dsn(args.place) else _problem_of(directory, args.action)


def _problem_of(directory: Path, action: str) -> tuple[str, int] | None:
    if not directory.is_dir():
        if any(mark in str(directory) for mark in _OF_A_DSN):  # it may hold a password
            return "this is not a directory, and a database is given as postgresql://user@host/database.", FAILED
        return f"{directory} is not a directory.", FAILED
    if action != "relay" and not holds_outbox(directory):
        return f"{directory} contains no outbox. Nothing was changed.", FAILED
    return None


def _run_relay(args: Namespace) -> int:
    relay_until_stopped(args, partial(_open, args))
    return show_stats(args, run_async(partial(_count, args)))


def _run_dead(args: Namespace) -> int:
    show_dead(run_async(partial(_dead, args)), with_events=args.events, as_json=args.json)
    return DONE


def _is_dsn(place: str) -> bool:
    return place.startswith(("postgresql://", "postgres://"))


def _open(args: Namespace) -> Outbox | PostgresOutbox:
    """Return the outbox with its own settings: open to its group if its directory is."""
    if _is_dsn(args.place):
        return _open_database(args)
    return Outbox(args.place, space=args.space, group_readable=_is_group_readable(args))


def _is_group_readable(args: Namespace) -> bool:
    return bool(Path(args.place).stat().st_mode & stat.S_IRGRP)


def _open_database(args: Namespace) -> PostgresOutbox:
    return PostgresOutbox(args.target or args.place, schema=args.schema, space=args.space, order_by=args.order_by)


def _sql(args: Namespace) -> list[str]:
    """Return the lines of a script for psql, which applies all of it or nothing."""
    by_customer = args.order_by == "customer"
    statements = outbox_schema(args.schema, after=args.after, order_by_customer=by_customer)
    return ["BEGIN;", *(f"{statement};" for statement in statements), "COMMIT;"]


async def _move(args: Namespace) -> Moved:
    source = SqliteStore(Directory(args.place, group_readable=_is_group_readable(args)), DEFAULT_MAX_BYTES)
    async with _open_database(args) as target:
        try:
            return await move(source, target._postgres)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        finally:
            await source.aclose()


async def _check(args: Namespace) -> Sequence[str]:
    async with _open_database(args) as outbox:
        return await outbox.check()


async def _count(args: Namespace) -> OutboxStats:
    async with _open(args) as outbox:
        return await outbox.stats()


async def _requeue(args: Namespace) -> int:
    async with _open(args) as outbox:
        return await outbox.requeue(args.transaction_id)


async def _dead(args: Namespace) -> list[DeadLetter]:
    async with _open(args) as outbox:
        return [letter async for letter in outbox.dead()]


_ACTIONS: Final[Mapping[str, Callable[[Namespace], int]]] = {
    "stats": lambda args: show_stats(args, run_async(partial(_count, args))),
    "relay": _run_relay,
    "dead": _run_dead,
    "requeue": lambda args: show_requeued(args, run_async(partial(_requeue, args))),
    "move": lambda args: show_moved(args, run_async(partial(_move, args))),
    "check": lambda args: show_missing(args, run_async(partial(_check, args))),
}
