"""A file of events or of recorded requests, line by line, as ``program diff`` and ``sandbox --replay`` read it."""

import gzip
import os
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, Final, cast

from perkamo.sandbox.recording import MAX_LINE

UNREADABLE: Final = (EOFError, UnicodeDecodeError, zlib.error)
"""What reading a line raises besides OSError: a compressed file that is cut or damaged, or no text."""


@contextmanager
def open_lines(name: str) -> Generator[Iterator[str]]:
    """Open a file of lines; ``-`` is standard input, ``.gz`` is unpacked, and a byte-order mark is left out.

    Of a line that is longer than ``MAX_LINE`` only the beginning is kept, with one character more than may be.

    Args:
        name: The file's name.

    Raises:
        OSError: It can't be read.
    """
    with _open(name) as file:
        yield _lines(file)


def _open(name: str) -> IO[str]:
    if name == "-":
        if sys.stdin is None:
            raise OSError("standard input is closed")
        return os.fdopen(sys.stdin.fileno(), encoding="utf-8-sig", newline="\n", closefd=False)
    if name.endswith(".gz"):
        return cast("IO[str]", gzip.open(name, "rt", encoding="utf-8-sig", newline="\n"))
    return open(name, encoding="utf-8-sig", newline="\n")  # noqa: PTH123 - the name as it was typed


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(MAX_LINE + 1):
        yield line
        while line and not line.endswith("\n"):
            line = file.readline(MAX_LINE)
