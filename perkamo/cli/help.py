"""The end of every command's ``--help``: examples, variables, exit codes."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Final

KEY: Final = "PERKAMO_SECRET_KEY   the server key; it is read from here only"
BASE_URL: Final = "PERKAMO_BASE_URL     where the API is (default: the hosted one)"
BROWSER_KEY_VARIABLE: Final = "PERKAMO_BROWSER_KEY"
BROWSER_KEY: Final = f"{BROWSER_KEY_VARIABLE}  the public browser key, pk_…"


def explain(parser: ArgumentParser, *, example: str, exit_codes: str, environment: tuple[str, ...] = ()) -> None:
    """Add the text after the options to a command's parser.

    Args:
        parser: The command's parser.
        example: Lines as typed, with their output if that helps.
        exit_codes: One line each.
        environment: Lines about the variables that it reads.
    """
    parser.formatter_class = RawDescriptionHelpFormatter
    parts = [("example:", example), ("environment:", "\n".join(environment)), ("exit codes:", exit_codes)]
    parser.epilog = "\n\n".join("\n".join((head, *_indented(text))) for head, text in parts if text)


def add_client_options(parser: ArgumentParser) -> None:
    """Add the options of every command that calls the API."""
    parser.add_argument(
        "--allow-insecure-http",
        action="store_true",
        help="allow plain http to other hosts than this machine; others can then read what is sent",
    )


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
