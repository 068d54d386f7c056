"""The output of ``perkamo outbox``: counts, dead letters, and the results of actions."""

import json
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from perkamo.cli import stdio
from perkamo.cli.duration import readable
from perkamo.cli.exit_codes import DONE, FAILED
from perkamo.cli.layout import table
from perkamo.cli.output import print_json, print_json_lines, print_lines
from perkamo.cli.running import print_error, reporting
from perkamo.cli.stdio import OutputError, print_stderr
from perkamo.cli.text import printable
from perkamo.outbox.postgres.moving import Moved
from perkamo.outbox.store import DeadLetter, OutboxStats


def show_stats(args: Namespace, stats: OutboxStats) -> int:
    """Print the counts, and the problems that they show.

    Args:
        args: What was typed.
        stats: The counts.

    Returns:
        The exit code.
    """
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
    # A relay shows it on /healthz: its regular end is not a failure.
    if args.action == "stats" and args.fail_if_older is not None:
        problems += _too_old(stats, args.fail_if_older)
    if stats.set_aside:
        print_stderr("Damaged or foreign files were set aside: look at *.damaged-* in the directory.")
    for problem in problems:
        print_error("outbox", problem, FAILED)
    return FAILED if problems else DONE


def _too_old(stats: OutboxStats, seconds: float) -> list[str]:
    if stats.pending and stats.oldest_age is None:
        return ["Events wait, and how old they are can't be read: the disk is full, or you may not write to it."]
    age = stats.oldest_age or 0.0
    return [f"The oldest event that waits was put {readable(age)} ago."] if age > seconds else []


def _lines(stats: OutboxStats) -> list[str]:
    """Yield the state of the outbox for people: the counts, then the delivery of each Space."""
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


def show_missing(args: Namespace, missing: Sequence[str]) -> int:
    """Print what a database lacks; return the exit code."""
    if args.json:
        print_json({"missing": list(missing)})
    elif not missing:
        print_lines("Nothing is missing.")
    for sentence in missing:
        print_error("outbox", sentence, FAILED)
    return FAILED if missing else DONE


def show_moved(args: Namespace, moved: Moved) -> int:
    """Print how many events were moved to a database; return the exit code."""
    if args.json:
        print_json({"moved": moved.moved, "refused": moved.refused})
    else:
        print_lines(f"Events that wait in the database now: {moved.moved:,}.")
    if moved.refused:
        problem = (
            f"Events that are dead letters in the directory, because another event has their id: {moved.refused:,}."
        )
        return print_error("outbox", problem, FAILED)
    return DONE


def show_requeued(args: Namespace, number: int) -> int:
    """Print how many dead letters were queued again; return the exit code."""
    with reporting(f"dead letters queued for delivery again: {number:,}."):
        if args.json:
            print_json({"requeued": number})
        else:
            print_lines(f"Dead letters queued for delivery again: {number:,}.")
    if args.transaction_id is not None and not number:
        return print_error("outbox", "There is no dead letter with this transaction id.", FAILED)
    return DONE


def show_dead(letters: Sequence[DeadLetter], *, with_events: bool, as_json: bool) -> None:
    """Print dead letters, with their reasons.

    Args:
        letters: The dead letters.
        with_events: Print the events, too, which are personal data.
        as_json: One JSON object per line.
    """
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
    """Return an event's bytes as JSON; bytes that are not JSON are shown as they are."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")
