"""How the commands run: their parsers, a client of the environment's key, and failures told in one line."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio

from perkamo.cli.help import BASE_URL, KEY, explain
from perkamo.cli.output import print_stderr
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoApiError,
    PerkamoConfigurationError,
    PerkamoError,
    PerkamoEventError,
    PerkamoResponseError,
    PerkamoValidationError,
)
from perkamo.request.credentials import API_KEY_VARIABLE

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
REFUSED: Final = 3
INTERRUPTED: Final = 130

_EXIT_CODES: Final = f"""\
{DONE}    done
{FAILED}    failed: no key, no connection, no permission, or a failure of the service
{WRONG_USAGE}    wrong usage; nothing was sent
{REFUSED}    refused: the input can't be sent, or the service does not take it; trying again does not help
{INTERRUPTED}  Ctrl-C"""


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
    explain(parser, summary, example=example, exit_codes=_EXIT_CODES, environment=(KEY, BASE_URL, *environment))
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")
    return parser


def client_of_environment() -> AsyncPerkamoClient:
    """Return a client with the key and the address that the environment gives.

    Raises:
        PerkamoConfigurationError: There is no key, or it can't be one. The text names the variable.
    """
    if not os.environ.get(API_KEY_VARIABLE, "").strip():
        raise PerkamoConfigurationError(f"There is no server key: set {API_KEY_VARIABLE}.")
    return AsyncPerkamoClient()


def run_call(name: str, work: Callable[[AsyncPerkamoClient], Awaitable[None]]) -> int:
    """Do a command's work with a client of the environment's key, and tell what went wrong in one line.

    Args:
        name: The command's name.
        work: Makes the call and prints what came of it.

    Returns:
        The exit code.
    """

    def call() -> int:
        anyio.run(_with_client, work)
        return DONE

    return explained(name, call)


def explained(name: str, command: Callable[[], int], *, interrupted: int = INTERRUPTED) -> int:
    """Run a command; where it fails, tell why in one line.

    Args:
        name: The command's name.
        command: Does everything and returns the exit code.
        interrupted: The exit code for Ctrl-C.

    Returns:
        The exit code.
    """
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return interrupted
    except BrokenPipeError:
        # Whoever read has enough, as head does.
        _drop_output()
    except OSError as error:
        _drop_output()
        return print_error(name, f"cannot write: {error.strerror}", FAILED)
    except RefusedError as error:
        return print_error(name, str(error), REFUSED)
    except PerkamoError as error:
        return print_error(name, sentence(error), REFUSED if _is_refusal(error) else FAILED)
    else:
        return code
    return DONE


def print_error(name: str, message: str, code: int) -> int:
    """Print why a command failed, in one line; returns the exit code."""
    print_stderr(f"perkamo {name}: {message}")
    return code


def _drop_output() -> None:
    """Let go what Python still holds for standard output, which must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _with_client(work: Callable[[AsyncPerkamoClient], Awaitable[None]]) -> None:
    async with client_of_environment() as client:
        await work(client)


def sentence(error: PerkamoError) -> str:
    """Return the error's text and notes; it always names the request where the service did."""
    text = str(error)
    known = error.request_id if isinstance(error, PerkamoApiError | PerkamoEventError | PerkamoResponseError) else None
    if known is not None and known not in text:
        text = f"{text} (request id {known})"
    notes: list[str] = getattr(error, "__notes__", [])
    return " ".join([text, *notes])


def _is_refusal(error: PerkamoError) -> bool:
    """Tell whether the input is at fault, rather than key, network or service."""
    if isinstance(error, PerkamoApiError):
        return 400 <= error.status < 500 and error.status not in (401, 403) and not error.retryable
    if isinstance(error, PerkamoEventError):
        return error.outcome == "rejected"
    return isinstance(error, PerkamoValidationError)
