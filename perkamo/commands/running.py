"""How the commands run: their parsers, one client for one call, and failures told in one line with an exit code."""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio

from perkamo.client import AsyncPerkamoClient
from perkamo.commands.output import print_aside
from perkamo.errors import PerkamoApiError, PerkamoError, PerkamoResponseError, PerkamoValidationError

if TYPE_CHECKING:
    from perkamo.__main__ import SubParsers

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
REFUSED: Final = 3
INTERRUPTED: Final = 130

_EXIT_CODES: Final = f"""\
exit codes:
  {DONE}    done
  {FAILED}    failed: no key, no connection, no permission, or a failure of the service
  {WRONG_USAGE}    wrong usage; nothing was sent
  {REFUSED}    refused: the input can't be sent, or the service does not take it; trying again does not help
  {INTERRUPTED}  Ctrl-C
"""


class RefusedError(Exception):
    """The input is refused by the command itself, or the service did not take it. The text holds no values."""


def add_command(
    subparsers: "SubParsers", name: str, summary: str, *, example: str, environment: tuple[str, ...] = ()
) -> ArgumentParser:
    """Add a command with ``--json`` and a whole ``--help``.

    Args:
        subparsers: Where it goes.
        name: What the user types.
        summary: One line, without a full stop.
        example: Lines as typed, with what they print where that helps.
        environment: Lines about variables that this command needs besides the usual ones.
    """
    parser = subparsers.add_parser(name, help=summary)
    parser.description = f"{summary[0].upper()}{summary[1:]}."
    parser.formatter_class = RawDescriptionHelpFormatter
    variables = (
        "PERKAMO_SECRET_KEY   the server key; it is taken from here only",
        "PERKAMO_BASE_URL     where the API is (default: the hosted one)",
        *environment,
    )
    parser.epilog = "\n".join(
        ("example:", *_indented(example), "", "environment:", *_indented("\n".join(variables)), "", _EXIT_CODES)
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")
    return parser


def run_call(name: str, work: Callable[[AsyncPerkamoClient], Awaitable[None]]) -> int:
    """Do a command's work with a client of the environment's key, and tell what went wrong in one line.

    Args:
        name: The command's name.
        work: Makes the call and prints what came of it.

    Returns:
        The exit code.
    """
    try:
        anyio.run(_with_client, work)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough, as head does.
        _drop_output()
    except OSError as error:
        _drop_output()
        return tell(name, f"cannot write: {error.strerror}", FAILED)
    except RefusedError as error:
        return tell(name, str(error), REFUSED)
    except PerkamoError as error:
        return tell(name, _sentence(error), REFUSED if _is_refusal(error) else FAILED)
    return DONE


def tell(name: str, message: str, code: int) -> int:
    """Print why a command failed, in one line; returns the exit code."""
    print_aside(f"perkamo {name}: {message}")
    return code


def _drop_output() -> None:
    """Let go what Python still holds for standard output, which must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _with_client(work: Callable[[AsyncPerkamoClient], Awaitable[None]]) -> None:
    async with AsyncPerkamoClient() as client:
        await work(client)


def _sentence(error: PerkamoError) -> str:
    """Return the error's text and notes; it always names the request where the service did."""
    text = str(error)
    known = error.request_id if isinstance(error, PerkamoApiError | PerkamoResponseError) else None
    if known is not None and known not in text:
        text = f"{text} (request id {known})"
    notes: list[str] = getattr(error, "__notes__", [])
    return " ".join([text, *notes])


def _is_refusal(error: PerkamoError) -> bool:
    """Tell whether the input is at fault, rather than key, network or service."""
    if isinstance(error, PerkamoApiError):
        return 400 <= error.status < 500 and error.status not in (401, 403) and not error.retryable
    return isinstance(error, PerkamoValidationError)


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
