"""What was typed -> the command, each in a module of its own."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn, Protocol, cast

from perkamo import __version__
from perkamo.redaction import clean


class SubParsers(Protocol):
    """Where a command adds its own parser (argparse keeps the name of its class to itself)."""

    def add_parser(self, name: str, *, help: str) -> ArgumentParser:  # noqa: A002 - argparse's own name
        """Add the parser of one command."""
        ...


class Command(Protocol):
    """What the module of a command offers."""

    def add_parser(self, subparsers: SubParsers) -> None:
        """Add the command's options."""
        ...

    def run(self, args: Namespace) -> int:
        """Run it and return the exit code."""
        ...


COMMANDS: Final = {
    "catalog": ("perkamo.cli.catalog", "show which events earn, and from which facts"),
    "customer": ("perkamo.cli.customer", "show a customer's wallets, level, perks and traits"),
    "demo": ("perkamo.cli.demo", "see events earn points, in three seconds, on this machine"),
    "emit": ("perkamo.cli.emit", "send one event and show what it did"),
    "identify": ("perkamo.cli.identify", "create or update a customer's trusted traits"),
    "import": ("perkamo.cli.import_events", "emit a file of events, one JSON object a line"),
    "outbox": ("perkamo.cli.outbox", "look at an outbox, deliver it, see to its dead letters"),
    "program": ("perkamo.cli.program", "show the Space's active program, whole"),
    "sandbox": ("perkamo.cli.sandbox", "run a small Perkamo on this machine until Ctrl-C"),
    "token": ("perkamo.cli.browser_token", "get a short-lived token for one customer's browser"),
    "watch": ("perkamo.cli.watch", "show a customer's updates as they come, until Ctrl-C (preview)"),
}
"""Each command's module and summary. Only the module of the command that was asked for is loaded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after the program's name; None for those of this process.

    Returns:
        The exit code: 0 for success, 1 for a failure that was explained. Wrong usage exits with 2.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    asked = next((word for word in words if not word.startswith("-")), None)

    class Parser(ArgumentParser):
        """Keeps what was typed out of its errors, which may end in a log: it may be a key or a customer's id."""

        def error(self, message: str) -> NoReturn:
            super().error(clean(message, *_values(words, asked)))

    parser = Parser(
        prog="perkamo",
        description="The Perkamo API at the command line.",
        epilog="'perkamo COMMAND --help' tells a command's options, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"perkamo {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command: Command | None = None
    for name, (module, summary) in COMMANDS.items():
        if name == asked:
            command = cast("Command", import_module(module))
            command.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    args = parser.parse_args(words)
    return 0 if command is None else command.run(args)


def _values(words: Sequence[str], command: str | None) -> list[str]:
    """Return what was typed but the command and the names of options, longest first."""
    values = {word.partition("=")[2] if word.startswith("-") else word for word in words}
    return sorted(values - {command or ""}, key=len, reverse=True)
