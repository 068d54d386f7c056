"""Finds the command that was typed, and runs its module."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from perkamo import __version__
from perkamo.cli import stdio
from perkamo.cli.exit_codes import DONE, FAILED, INTERRUPTED, TERMINATED, WRONG_USAGE
from perkamo.cli.signals import TerminatedError, on_sigterm, terminate
from perkamo.redaction import clean

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Command(Protocol):
    """The interface of a command's module."""

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the command's options, and what its help says below them."""
        ...

    def run(self, args: Namespace) -> int:
        """Run it and return the exit code."""
        ...


COMMANDS: Final = {
    "catalog": ("perkamo.cli.catalog", "show which events earn, and which facts they need"),
    "check": ("perkamo.cli.check", "compare a service with what is published and assumed"),
    "completion": ("perkamo.cli.completion", "print a script that completes commands in bash, zsh or fish"),
    "customer": ("perkamo.cli.customer", "show a customer's wallets, level, perks and traits"),
    "demo": ("perkamo.cli.demo", "see events earn points, in three seconds, on this machine"),
    "emit": ("perkamo.cli.emit", "send one event and show what it did"),
    "identify": ("perkamo.cli.identify", "create or update a customer's trusted traits"),
    "import": ("perkamo.cli.import_events", "send a file of events, one JSON object per line"),
    "outbox": ("perkamo.cli.outbox", "inspect an outbox, deliver it, handle its dead letters"),
    "program": ("perkamo.cli.program", "show the Space's active program"),
    "sandbox": ("perkamo.cli.sandbox", "run a small Perkamo on this machine until Ctrl-C"),
    "token": ("perkamo.cli.browser_token", "get a short-lived token for one customer's browser"),
    "watch": ("perkamo.cli.watch", "show a customer's updates as they happen, until Ctrl-C (preview)"),
}
"""Each command's module and summary. Only the module of the command that was typed is imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after the program's name; None for those of this process.

    Returns:
        The exit code: 0 for success, 1 for a failure that was explained. Wrong usage exits with 2.
    """
    if argv is None:
        stdio.open_missing()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with on_sigterm(terminate):
            return _run(words)
    except KeyboardInterrupt as stop:  # it came before the command began
        return TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED
    except stdio.OutputError as error:  # of a help text
        stdio.drop_output()
        if error.reader_left:
            return DONE
        stdio.print_stderr(f"perkamo: cannot write: {error}")
        return FAILED


def command_parser(name: str, words: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser of a command.

    Args:
        name: The command.
        words: What was typed; its errors do not repeat it.
    """
    summary = COMMANDS[name][1]
    parser = _Parser(f"perkamo {name}", _values(words, name))
    parser.description = f"{summary[0].upper()}{summary[1:]}."
    _command(name).add_options(parser)
    return parser


def _run(words: Sequence[str]) -> int:
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), None)
    overview = _overview(words, None if place is None else words[place])
    if overview.parse_args(words if place is None else words[: place + 1]).version:
        stdio.write(f"perkamo {__version__}\n")
        stdio.flush()
        return DONE
    if place is None:
        for line in overview.format_help().splitlines():
            stdio.print_stderr(line)
        return WRONG_USAGE
    name = words[place]
    # Options and facts in any order: the usual parse_args takes no facts after an option.
    return _command(name).run(command_parser(name, words).parse_intermixed_args(words[place + 1 :]))


def _command(name: str) -> Command:
    return cast("Command", import_module(COMMANDS[name][0]))


def _overview(words: Sequence[str], command: str | None) -> ArgumentParser:
    """Return the parser of the words before a command's own."""
    parser = _Parser("perkamo", _values(words, command))
    parser.description = "The Perkamo API at the command line."
    parser.epilog = "'perkamo COMMAND --help' shows a command's options, with examples."
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=ArgumentParser)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


class _Parser(ArgumentParser):
    """Writes its help if that is possible, and keeps what was typed out of its errors, which may end in a log."""

    def __init__(self, prog: str, typed: Sequence[str]) -> None:
        super().__init__(prog=prog)
        self._typed = typed

    def error(self, message: str) -> NoReturn:
        for line in self.format_usage().splitlines():
            stdio.print_stderr(line)
        stdio.print_stderr(f"{self.prog}: error: {clean(message, *self._typed)}")
        raise SystemExit(WRONG_USAGE)

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        if file is None:
            stdio.write(self.format_help())
        else:
            super().print_help(file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        stdio.flush()
        super().exit(status, message)


def _values(words: Sequence[str], command: str | None) -> list[str]:
    """Return what was typed, without the command and the names of options, longest first."""
    values = {word.partition("=")[2] if word.startswith("-") else word for word in words}
    return sorted(values - {command or ""}, key=len, reverse=True)
