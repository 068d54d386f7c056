"""Standard output and standard error of a process, which may be missing, full, or closed at their other end.

What can't be written to standard output is an ``OutputError``: the caller decides what that means. Notes on standard
error are dropped where they can't be written, because a failing report is not a failing call.
"""

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

from perkamo.cli.terminal import Style, painted
from perkamo.cli.text import printable


class OutputError(Exception):
    """Standard output does not take what is written to it.

    Attributes:
        reader_left: Whoever read has enough, as ``head`` does.
    """

    def __init__(self, reason: str, *, reader_left: bool = False) -> None:
        """Say why."""
        super().__init__(reason)
        self.reader_left = reader_left


def open_missing() -> None:
    """Open the null device in the place of each standard stream that is closed.

    Else the next file or socket would get its number, and what is written to that stream would end in it. Python's own
    ``sys.stdout`` stays None, so that a missing stream is known as one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free


def write(text: str) -> None:
    """Write to standard output; what its encoding lacks is written as an escape.

    Raises:
        OutputError: It can't be written.
    """
    stream = _output()
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except (OSError, ValueError) as error:
        raise _output_error(error) from error


def write_bytes(data: bytes) -> None:
    """Write to standard output as it is, whatever its encoding.

    Raises:
        OutputError: It can't be written.
    """
    try:
        _output().buffer.write(data)
    except (OSError, ValueError) as error:
        raise _output_error(error) from error


def flush() -> None:
    """Write out what standard output still holds.

    Raises:
        OutputError: It can't be written.
    """
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            raise _output_error(error) from error


def drop_output() -> None:
    """Release what Python still holds for standard output, which would fail again at exit."""
    _drop(sys.stdout)


def print_stderr(line: str, *, prefix: str = "", style: Style | None = None) -> None:
    """Write a line to standard error, where it is in no program's way; where that is impossible, do nothing.

    Args:
        line: The line.
        prefix: What it begins with.
        style: How that stands out, where the terminal has colours.
    """
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"{painted(prefix, style, sys.stderr)}{printable(line)}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            _drop(sys.stderr)


def _output() -> TextIO:
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    return sys.stdout


def _output_error(error: OSError | ValueError) -> OutputError:
    if isinstance(error, OSError):
        return OutputError(error.strerror or str(error), reader_left=error.errno == errno.EPIPE)
    return OutputError("standard output is closed")


def _drop(stream: TextIO | None) -> None:
    if stream is not None:
        with suppress(OSError, ValueError):  # one that a test has put there has no number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
