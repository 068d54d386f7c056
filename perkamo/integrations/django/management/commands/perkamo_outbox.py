"""``manage.py perkamo_outbox``: look at the outbox, and see to its dead letters."""

from argparse import ArgumentParser
from typing import Final

from django.core.management.base import BaseCommand, CommandError

from perkamo.errors import PerkamoError
from perkamo.integrations.django.outbox import outbox
from perkamo.outbox.store import OutboxStats

_COUNTS: Final = ("accepted", "delivered", "pending", "dead", "missing")


class Command(BaseCommand):
    """Prints no customer and no context of an event."""

    help = "Count the outbox's events, list those that the service refused, or queue these for delivery again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's options."""
        parser.add_argument("action", choices=["stats", "dead", "requeue"])
        parser.add_argument("--transaction-id", metavar="ID", help="requeue: this one only")

    def handle(self, *_: object, action: str, transaction_id: str | None, **__: object) -> None:
        """Do it."""
        try:
            for line in _lines(action, transaction_id):
                self.stdout.write(line)
        except PerkamoError as error:
            raise CommandError(str(error)) from None


def _lines(action: str, transaction_id: str | None) -> list[str]:
    match action:
        case "stats":
            return _stats_lines(outbox.stats())
        case "dead":
            return [f"{letter.transaction_id}  {letter.reason}" for letter in outbox.dead()]
        case _:
            return [f"Dead letters queued for delivery again: {outbox.requeue(transaction_id)}."]


def _stats_lines(stats: OutboxStats) -> list[str]:
    lines = [f"{name:<10} {getattr(stats, name):>14,}" for name in _COUNTS]
    if stats.oldest_age is not None:
        lines.append(f"oldest age {stats.oldest_age:>12,.0f} s")
    return lines + ([f"nothing passes: {stats.paused}"] if stats.paused is not None else [])
