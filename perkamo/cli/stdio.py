"""Standard output and standard error of a process, which may be missing, full, or closed by the reader.

If standard output can't be written, ``OutputError`` is raised, and the caller decides what that means. Notes on
standard error are dropped if they can't be written, because a failing report is not a failing call.
"""

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

from perkamo.cli.terminal import Style, painted
from perkamo.cli.text import printable


class OutputError(Exception):
    """Standard output can't be written.

    Attributes:
        reader_left: Whether the reader has closed it, as ``head`` does.
    """

    def __init__(self, reason: str, *, reader_left: bool = False) -> None:
        """Make the text: why it can't be written."""
        super().__init__(reason)
        self.reader_left = reader_left


def open_missing() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file or socket would get its number, and output for that stream would be written into it.
    Python's own ``sys.stdout`` stays None, so that a missing stream can still be recognized.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number


def write(text: str) -> None:
    """Write to standard output; characters that its encoding lacks are escaped.

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
    """Write bytes to standard output, whatever its encoding.

    Raises:
        OutputError: It can't be written.
    """
    try:
        _output().buffer.write(data)
    except (OSError, ValueError) as error:
        raise _output_error(error) from error


def flush() -> None:
    """Write what standard output still buffers.

    Raises:
        OutputError: It can't be written.
    """
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            raise _output_error(error) from error


def drop_output() -> None:
    """Drop what Python still buffers for standard output: writing it would fail again at exit."""
    _drop(sys.stdout)


def print_stderr(line: str, *, prefix: str = "", style: Style | None = None) -> None:
    """Write a line to standard error, which programs do not read as output; if that is impossible, do nothing.

    Args:
        line: The line.
        prefix: Its beginning.
        style: The style of the prefix, if the terminal has colours.
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
        with suppress(OSError, ValueError):  # a stream that a test has put there has no number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
