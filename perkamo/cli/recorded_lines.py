"""A file of events or of recorded requests, line by line, as ``program diff`` and ``sandbox --replay`` read it."""

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Final, Self, cast

from perkamo.sandbox.recording import MAX_LINE

UNREADABLE: Final = (EOFError, UnicodeDecodeError, zlib.error)
"""Errors of reading a line besides OSError: a compressed file that is cut or damaged, or bytes that are not text."""


class RecordedLines:
    """The lines of an open file. A byte-order mark is left out.

    If a line is longer than ``MAX_LINE``, only its beginning is kept: one character more than the limit.

    Args:
        name: The file's name; ``-`` is standard input, and ``.gz`` is unpacked.

    Raises:
        OSError: It can't be opened, or, later, be read.
    """

    def __init__(self, name: str) -> None:
        self._file = _open(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE + 1):
            yield line
            while line and not line.endswith("\n"):
                line = self._file.readline(MAX_LINE)


def _open(name: str) -> IO[str]:
    if name == "-":
        if sys.stdin is None:
            raise OSError("standard input is closed")
        return os.fdopen(sys.stdin.fileno(), encoding="utf-8-sig", newline="\n", closefd=False)
    if name.endswith(".gz"):
        return cast("IO[str]", gzip.open(name, "rt", encoding="utf-8-sig", newline="\n"))
    return open(name, encoding="utf-8-sig", newline="\n")  # noqa: PTH123 - the name as it was typed
