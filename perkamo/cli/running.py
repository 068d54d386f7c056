"""How the commands run: a client with the environment's key, SIGTERM, and one line for each failure."""

import asyncio
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio

from perkamo.cli import stdio
from perkamo.cli.exit_codes import DONE, FAILED, INTERRUPTED, OF_A_CALL, REFUSED, TERMINATED
from perkamo.cli.help import BASE_URL, KEY, add_client_options, explain
from perkamo.cli.signals import TerminatedError, on_sigterm
from perkamo.cli.stdio import OutputError, print_stderr
from perkamo.cli.terminal import Style
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoApiError,
    PerkamoConfigurationError,
    PerkamoError,
    PerkamoEventError,
    PerkamoResponseError,
    PerkamoValidationError,
)
from perkamo.hooks import Hook
from perkamo.request.credentials import API_KEY_VARIABLE, BASE_URL_VARIABLE

T = TypeVar("T")

_ADVICE: Final = {
    "pass allow_insecure_http=True": "give --allow-insecure-http",
    f"pass api_key= or set {API_KEY_VARIABLE}": f"set {API_KEY_VARIABLE}",
    "see Outbox.rebind": "give --rebind",
    "Check base_url and stream_path": f"Check {BASE_URL_VARIABLE}",
    "; subscribe with bad_data='skip' to skip such events": "",
    "send it as text": "send it as text, such as KEY='\"…\"'",
}
"""Advice of the library, and its form at the command line."""


class RefusedError(Exception):
    """The command itself or the service refused the input. The text does not contain values."""


class UnreportedError(Exception):
    """The command did its work, but can't show the result. The text says what a user must know about it."""


def add_call_options(parser: ArgumentParser, *, example: str, environment: tuple[str, ...] = ()) -> None:
    """Add the options of every command that makes one call: ``--json``, the client's options and a full ``--help``.

    Args:
        parser: The command's parser.
        example: Lines as typed, with their output if that helps.
        environment: Lines about variables that this command needs besides the usual ones.
    """
    explain(parser, example=example, exit_codes=OF_A_CALL, environment=(KEY, BASE_URL, *environment))
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")
    add_client_options(parser)


def client_of_environment(args: Namespace, hooks: Iterable[Hook] = ()) -> AsyncPerkamoClient:
    """Return a client with the key and the address from the environment.

    Args:
        args: The parsed arguments; see ``add_client_options``.
        hooks: The hooks that are notified of its calls.

    Raises:
        PerkamoConfigurationError: There is no key, or it is not a valid one. The text names the variable.
    """
    if not os.environ.get(API_KEY_VARIABLE, "").strip():
        raise PerkamoConfigurationError(
            f"There is no server key: set {API_KEY_VARIABLE}. Without an account, run 'perkamo sandbox': it prints one."
        )
    return AsyncPerkamoClient(allow_insecure_http=args.allow_insecure_http, hooks=hooks)


def run_call(name: str, args: Namespace, work: Callable[[Namespace, AsyncPerkamoClient], Awaitable[None]]) -> int:
    """Do a command's work with a client with the environment's key, and print a failure in one line.

    Args:
        name: The command's name.
        args: What was typed.
        work: Makes the call and prints its result.

    Returns:
        The exit code.
    """

    async def call() -> int:
        async with client_of_environment(args) as client:
            await work(args, client)
        return DONE

    return explained(name, lambda: run_async(call))


def explained(name: str, command: Callable[[], int], *, runs_until_stopped: bool = False) -> int:
    """Run a command, and print a failure in one line.

    Args:
        name: The command's name.
        command: Does everything and returns the exit code.
        runs_until_stopped: Whether Ctrl-C and SIGTERM are its normal end, and not a failure.

    Returns:
        The exit code.
    """
    try:
        code = command()
        stdio.flush()
    except KeyboardInterrupt as stop:
        _end_output()
        signalled = TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED
        return DONE if runs_until_stopped else signalled
    except OutputError as error:
        stdio.drop_output()
        return DONE if error.reader_left else print_error(name, f"cannot write: {error}", FAILED)
    except UnreportedError as error:
        stdio.drop_output()
        return print_error(name, str(error), DONE)
    except RefusedError as error:
        code = print_error(name, str(error), REFUSED)
    except PerkamoError as error:
        code = print_error(name, sentence(error), REFUSED if _is_refusal(error) else FAILED)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        code = print_error(name, f"{where}{error.strerror}", FAILED)
    _end_output()
    return code


def run_async(function: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine function, which SIGTERM cancels as Ctrl-C does.

    Raises:
        TerminatedError: SIGTERM came, and the function did not handle it itself; see ``on_sigterm_in_loop``.
    """

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None  # it runs here
        with on_sigterm_in_loop(task.cancel):
            return await function()

    try:
        return anyio.run(run)
    except asyncio.CancelledError:
        raise TerminatedError from None


@contextmanager
def on_sigterm_in_loop(act: Callable[[], object]) -> Generator[None]:
    """Call a function at SIGTERM in the running event loop while the block lasts.

    Args:
        act: Called like any other callback of the loop, never in the middle of one.
    """
    loop = asyncio.get_running_loop()
    with on_sigterm(lambda: loop.call_soon_threadsafe(act)):
        yield


@contextmanager
def reporting(done: str) -> Generator[None]:
    """Guard the output of a result, within the block: the work is done, even if its result can't be printed.

    Args:
        done: A sentence that says what was done.

    Raises:
        UnreportedError: The result cannot be shown.
    """
    try:
        yield
        stdio.flush()
    except OutputError as error:
        if error.reader_left:
            raise
        raise UnreportedError(f"{done} The result cannot be shown: {error}.") from error


@contextmanager
def shown_log(name: str) -> Generator[None]:
    """Show the warnings of the library on standard error while the block lasts, for commands that run long.

    Args:
        name: The command's name.
    """

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_stderr(f"perkamo {name}: {for_command_line(record.getMessage())}")

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def print_error(name: str, message: str, code: int) -> int:
    """Print why a command failed, in one line; return the exit code."""
    print_stderr(message, prefix=f"perkamo {name}: ", style=Style.NOTABLE if code == DONE else Style.BAD)
    return code


def _end_output() -> None:
    try:
        stdio.flush()
    except OutputError:  # the failure that was printed already is more important
        stdio.drop_output()


def sentence(error: PerkamoError) -> str:
    """Return the error's text and notes, with the request id if the service sent one."""
    text = str(error)
    known = error.request_id if isinstance(error, PerkamoApiError | PerkamoEventError | PerkamoResponseError) else None
    if known is not None and known not in text:
        text = f"{text} (request id {known})"
    notes: list[str] = getattr(error, "__notes__", [])
    return for_command_line(" ".join([text, *notes]))


def for_command_line(text: str) -> str:
    """Return a message of the library with its advice in terms of the command line."""
    for advice, here in _ADVICE.items():
        text = text.replace(advice, here)
    return text


def _is_refusal(error: PerkamoError) -> bool:
    """Return whether the input is the cause, rather than key, network or service."""
    if isinstance(error, PerkamoApiError):
        return 400 <= error.status < 500 and error.status not in (401, 403) and not error.retryable
    if isinstance(error, PerkamoEventError):
        return error.outcome == "rejected"
    return isinstance(error, PerkamoValidationError)
