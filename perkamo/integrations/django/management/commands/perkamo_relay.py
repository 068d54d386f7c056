"""``manage.py perkamo_relay``: deliver what waits in the outbox."""

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Generator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError

from perkamo.errors import PerkamoError
from perkamo.integrations.django.outbox import outbox


class Command(BaseCommand):
    """Run it as a service of its own, beside the web server; any number of them may run."""

    help = "Deliver the events that wait in the outbox, until Ctrl-C or SIGTERM. What waits then is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's options."""
        parser.add_argument("--until-empty", action="store_true", help="stop when nothing waits")

    def handle(self, *_: object, until_empty: bool, **__: object) -> None:
        """Do it."""
        try:
            if until_empty:
                stats = outbox.drain()
                self.stdout.write(f"delivered {stats.delivered}, waiting {stats.pending}, refused {stats.dead}")
                return
            with _stop_signals() as stop, outbox.relay():
                self.stdout.write("Delivering until Ctrl-C.")
                self.stdout.flush()
                stop.wait()
        except PerkamoError as error:
            raise CommandError(str(error)) from None


@contextmanager
def _stop_signals() -> Generator[threading.Event]:
    """Give an event that is set by SIGTERM or Ctrl-C; other threads than the main one hear of no signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: object) -> None:
        stop.set()

    former = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
