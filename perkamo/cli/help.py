"""What ``--help`` of every command says below its options: examples, variables, exit codes."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Final

KEY: Final = "PERKAMO_SECRET_KEY   the server key; it is taken from here only"
BASE_URL: Final = "PERKAMO_BASE_URL     where the API is (default: the hosted one)"
BROWSER_KEY: Final = "PERKAMO_BROWSER_KEY  the public browser key"


def explain(
    parser: ArgumentParser, summary: str, *, example: str, exit_codes: str, environment: tuple[str, ...] = ()
) -> None:
    """Give a command's parser its description and what follows its options.

    Args:
        parser: The command's parser.
        summary: One line, without a full stop.
        example: Lines as typed, with what they print where that helps.
        exit_codes: One line each.
        environment: Lines about the variables that it reads.
    """
    parser.description = f"{summary[0].upper()}{summary[1:]}."
    parser.formatter_class = RawDescriptionHelpFormatter
    parts = [("example:", example), ("environment:", "\n".join(environment)), ("exit codes:", exit_codes)]
    parser.epilog = "\n\n".join("\n".join((head, *_indented(text))) for head, text in parts if text)


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
