"""``python -m perkamo outbox``: look at an outbox, deliver what is in it, and see to its dead letters."""

import json
import stat
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from perkamo.cli import stdio
from perkamo.cli.duration import duration, readable
from perkamo.cli.exit_codes import DONE, FAILED, WRONG_USAGE
from perkamo.cli.help import BASE_URL, KEY, add_client_options, explain
from perkamo.cli.layout import table
from perkamo.cli.listening import address, listening
from perkamo.cli.output import print_json, print_json_lines, print_lines
from perkamo.cli.relay_pages import HAS_PROMETHEUS, MISSING, RelayPages
from perkamo.cli.running import (
    client_of_environment,
    explained,
    on_sigterm_in_loop,
    print_error,
    reporting,
    run_async,
    shown_log,
)
from perkamo.cli.stdio import OutputError, print_stderr
from perkamo.cli.text import printable
from perkamo.errors import PerkamoError
from perkamo.outbox.directory import Directory, holds_outbox
from perkamo.outbox.outbox import DEFAULT_MAX_BYTES, Outbox
from perkamo.outbox.postgres.moving import Moved, move
from perkamo.outbox.postgres.outbox import PostgresOutbox
from perkamo.outbox.postgres.schema import outbox_schema
from perkamo.outbox.relay import FINISH_SECONDS, Relay
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import DeadLetter, OutboxStats

if TYPE_CHECKING:
    from perkamo.cli.relay_metrics import RelayMetrics


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
        exit_codes="0  done; also Ctrl-C and SIGTERM, after which all that waits is kept\n"
        "1  failed: no outbox, no key, no permission; events still wait (--until-empty), wait too long\n"
        "   (--fail-if-older), or are missing\n"
        "2  wrong usage\n"
        "3  refused: the service does not take what waits; trying again does not help",
        environment=(f"{KEY} (relay)", BASE_URL),
    )
    parser.add_argument(
        "action",
        choices=["stats", "relay", "dead", "requeue", "move", "check", "sql"],
        help="what to do; move: carry what waits in a directory to a database; check: tell what a database lacks; "
        "sql: print what makes the tables there",
    )
    parser.add_argument(
        "place",
        nargs="?",
        metavar="DIR|DSN",
        help="the outbox's directory, or postgresql://user@host/database; passwords: PGPASSWORD or ~/.pgpass",
    )
    parser.add_argument("target", nargs="?", metavar="DSN", help="move: the database, as postgresql://…")
    parser.add_argument("--schema", metavar="NAME", default="perkamo", help="the schema of the tables (PostgreSQL)")
    parser.add_argument("--after", metavar="N", type=int, default=0, help="sql: the version that is there already")
    parser.add_argument("--order-by", choices=["customer"], help="relay, check, sql: see order_by (PostgreSQL)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs; dead: one object a line")
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
        help="relay: how long to wait at SIGTERM for answers that are due (5s)",
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
    """Do what was asked; returns the exit code."""
    return explained("outbox", partial(_run, args), runs_until_stopped=True)


def _run(args: Namespace) -> int:
    if args.action == "sql":
        print_lines(*_sql(args))
        return DONE
    if (problem := _problem(args)) is not None:
        return print_error("outbox", *problem)
    return _ACTIONS[args.action](args)


def _problem(args: Namespace) -> tuple[str, int] | None:
    """Tell why there is nothing to do, and the exit code for it."""
    if args.place is None:
        return "say which: a directory, or postgresql://…", WRONG_USAGE
    directory = Path(args.place)
    if args.action == "move" and (_is_dsn(args.place) or not _is_dsn(args.target or "")):
        return "say from where to where: move DIR postgresql://…", WRONG_USAGE
    if args.action == "check" and not _is_dsn(args.place):
        return "check is for a database. Nothing was changed.", WRONG_USAGE
    return None if _is_dsn(args.place) else _problem_of(directory, args.action)


def _problem_of(directory: Path, action: str) -> tuple[str, int] | None:
    if not directory.is_dir():
        return f"{directory} is not a directory.", FAILED
    if action != "relay" and not holds_outbox(directory):
        return f"{directory} contains no outbox. Nothing was changed.", FAILED
    return None


def _run_relay(args: Namespace) -> int:
    _relay_until_stopped(args)
    return _show(args, run_async(partial(_count, args)))


def _run_dead(args: Namespace) -> int:
    _show_dead(run_async(partial(_dead, args)), with_events=args.events, as_json=args.json)
    return DONE


def _is_dsn(place: str) -> bool:
    return place.startswith(("postgresql://", "postgres://"))


def _open(args: Namespace) -> Outbox | PostgresOutbox:
    """Return the outbox as it is: a directory open to its group where those who use it have opened it."""
    if _is_dsn(args.place):
        return _open_database(args)
    return Outbox(args.place, space=args.space, group_readable=_is_group_readable(args))


def _is_group_readable(args: Namespace) -> bool:
    return bool(Path(args.place).stat().st_mode & stat.S_IRGRP)


def _open_database(args: Namespace) -> PostgresOutbox:
    return PostgresOutbox(args.target or args.place, schema=args.schema, space=args.space, order_by=args.order_by)


def _sql(args: Namespace) -> list[str]:
    """Return the lines of a script for psql, which does all or nothing."""
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


def _relay_until_stopped(args: Namespace) -> None:
    try:
        with shown_log("outbox"):  # why events wait, and which are refused
            run_async(partial(_relay, args))
    except KeyboardInterrupt:
        _say(args, "Stopped. What waits is kept.")


async def _relay(args: Namespace) -> None:
    relays: list[Relay] = []  # the one that runs

    def trouble() -> PerkamoError | None:
        return relays[0].trouble if relays else None

    figures = _figures(trouble) if args.listen else None
    hooks = [] if figures is None else [figures]
    async with client_of_environment(args, hooks) as client, _open(args) as outbox:
        if args.rebind:
            rebound = await outbox.rebind(client)
            _say(args, f"Events that belong to this key now: {rebound:,}.")
        if args.until_empty:
            await outbox.drain(client)
            return
        stop = anyio.Event()
        with on_sigterm_in_loop(stop.set):
            pages = RelayPages(outbox.stats, trouble, args.fail_if_older, figures)
            async with _listening(args, pages), outbox.relay(client, grace=args.grace) as relay:
                relays.append(relay)
                _say(args, "Delivering until Ctrl-C.")
                await stop.wait()
        _say(args, "Stopped. What waits is kept.")


def _figures(trouble: Callable[[], PerkamoError | None]) -> "RelayMetrics | None":
    if not HAS_PROMETHEUS:
        print_stderr(f"perkamo outbox: {MISSING}")
        return None
    from perkamo.cli.relay_metrics import RelayMetrics  # noqa: PLC0415 - the extra may be missing

    return RelayMetrics(trouble)


@asynccontextmanager
async def _listening(args: Namespace, pages: RelayPages) -> AsyncGenerator[None]:
    """Serve the pages while the block lasts, if that was asked for."""
    if args.listen is None:
        yield
        return
    host, port = args.listen
    async with listening(host, port, pages.pages) as bound:
        shown = f"[{host}]" if ":" in host else host
        _say(args, f"Health and metrics: http://{shown}:{bound}/healthz and /metrics.")
        yield


def _say(args: Namespace, line: str) -> None:
    """Print a line for people, at once; where it can't be written, the work continues."""
    if not args.json:
        try:
            print_lines(line)
            stdio.flush()
        except OutputError as error:
            stdio.drop_output()
            print_stderr(f"perkamo outbox: cannot write: {error}")


def _show(args: Namespace, stats: OutboxStats) -> int:
    """Print the counts, and what in them wants to be looked at; return the exit code."""
    try:
        if args.json:
            print_json(stats.to_dict())
        else:
            print_lines(*_lines(stats))
        stdio.flush()
    except OutputError as error:
        if args.action != "relay":  # whose work is done, and is not the counts
            raise
        stdio.drop_output()
        print_stderr(f"perkamo outbox: the counts cannot be shown: {error}")
    problems: list[str] = []
    if args.until_empty and stats.pending:
        problems.append(
            f"Events that still wait: {stats.pending:,}. They belong to another Space or key (see --rebind, --space),"
            " or failed again and again while others passed."
        )
    if stats.missing:
        problems.append(
            f"Events that are missing: {stats.missing:,}. They were acknowledged, and their files were deleted or"
            " overwritten. Put them again, or restore a copy of the files."
        )
    if args.fail_if_older is not None and (stats.oldest_age or 0.0) > args.fail_if_older:
        problems.append(f"The oldest event that waits was put {readable(stats.oldest_age or 0.0)} ago.")
    if stats.set_aside:
        print_stderr("Damaged or foreign files were set aside: look at *.damaged-* in the directory.")
    for problem in problems:
        print_error("outbox", problem, FAILED)
    return FAILED if problems else DONE


def _lines(stats: OutboxStats) -> list[str]:
    """Say how the outbox stands, for people: the counts, then how delivery goes, in each Space."""
    plain = stats.to_dict()
    lines = [f"{name:<10} {number:>14,}" for name, number in plain.items() if type(number) is int and name in _COUNTS]
    if not stats.spaces:
        return lines
    head = ["space", "waiting", "oldest", "last minute", "last delivery", "last error", "paused", "until"]
    rows = [
        [
            one.space or "(not known yet)",
            f"{one.pending:,}",
            "-" if one.oldest_age is None else readable(one.oldest_age),
            f"{one.delivered_last_minute:,}",
            _moment(one.last_delivery),
            "-" if one.last_error is None else f"{_moment(one.last_error_at)} {printable(one.last_error)}",
            "no" if one.paused is None else "yes",
            _moment(one.paused_until),
        ]
        for one in stats.spaces
    ]
    return [*lines, "", *table(head, rows)]


_COUNTS: Final = ("accepted", "delivered", "pending", "dead", "missing", "size", "files", "set_aside")


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _show_missing(args: Namespace, missing: Sequence[str]) -> int:
    if args.json:
        print_json({"missing": list(missing)})
    elif not missing:
        print_lines("Nothing is missing.")
    for sentence in missing:
        print_error("outbox", sentence, FAILED)
    return FAILED if missing else DONE


def _show_moved(args: Namespace, moved: Moved) -> int:
    if args.json:
        print_json({"moved": moved.moved, "refused": moved.refused})
    else:
        print_lines(f"Events that wait in the database now: {moved.moved:,}.")
    if moved.refused:
        problem = f"Events that are dead letters in the directory, as their ids have other events: {moved.refused:,}."
        return print_error("outbox", problem, FAILED)
    return DONE


def _show_requeued(args: Namespace, number: int) -> int:
    with reporting(f"dead letters queued for delivery again: {number:,}."):
        if args.json:
            print_json({"requeued": number})
        else:
            print_lines(f"Dead letters queued for delivery again: {number:,}.")
    if args.transaction_id is not None and not number:
        return print_error("outbox", "There is no dead letter with this transaction id.", FAILED)
    return DONE


def _show_dead(letters: Sequence[DeadLetter], *, with_events: bool, as_json: bool) -> None:
    lines: list[dict[str, object]] = [
        {
            "transaction_id": letter.transaction_id,
            "reason": letter.reason,
            **({"event": _readable(letter.body)} if with_events else {}),
        }
        for letter in letters
    ]
    if as_json:
        print_json_lines(*lines)
    elif lines:
        head = [name.replace("_", " ") for name in lines[0]]
        print_lines(*table(head, [[printable(cell) for cell in line.values()] for line in lines]))
    else:
        print_lines("No dead letters.")


def _readable(body: bytes) -> object:
    """Return an event's bytes as JSON; what is none is shown as it is, for that is why it is a dead letter."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


_ACTIONS: Final[Mapping[str, Callable[[Namespace], int]]] = {
    "stats": lambda args: _show(args, run_async(partial(_count, args))),
    "relay": _run_relay,
    "dead": _run_dead,
    "requeue": lambda args: _show_requeued(args, run_async(partial(_requeue, args))),
    "move": lambda args: _show_moved(args, run_async(partial(_move, args))),
    "check": lambda args: _show_missing(args, run_async(partial(_check, args))),
}
