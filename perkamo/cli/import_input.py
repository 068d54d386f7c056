"""The input of an import: a file, a compressed one, or standard input, line by line."""

import gzip
import os
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, cast

import anyio
from attrs import frozen

MAX_LINE: Final = 1024 * 1024
STANDARD_INPUT: Final = "-"
_CHUNK: Final = 256 * 1024
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


class InputError(Exception):
    """The input can't be imported. The text says why."""


@frozen
class Line:
    """One line that is not blank.

    Attributes:
        number: Its number in the input, from 1.
        text: Its bytes without the line end and the byte-order mark; only the beginning if the line is too long.
        is_whole: Whether it has at most ``MAX_LINE`` bytes.
    """

    number: int
    text: bytes
    is_whole: bool


class Input:
    """The lines of an input, from its beginning.

    Args:
        name: A file's name, or ``-``.
        stack: Closes what is opened here.

    Raises:
        OSError: The file can't be opened.
        InputError: Standard input is closed.
    """

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.stopped: bool = False
        self._raw = _open(name, stack)
        is_file = stat.S_ISREG(os.fstat(self._raw.fileno()).st_mode)
        self.size: int | None = os.fstat(self._raw.fileno()).st_size if is_file else None
        self._may_wait = not is_file
        self._waiting = anyio.CancelScope()
        self._stream = self._raw
        if name.endswith(".gz"):
            self._stream = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=self._raw)))

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        return self._raw.tell()

    def stop(self) -> None:
        """End the lines here, even while the next one is awaited."""
        self.stopped = True
        self._waiting.cancel()

    async def lines(self) -> AsyncGenerator[Line]:
        """Yield the lines.

        Raises:
            OSError: The input can't be read.
            InputError: It is not UTF-8.
        """
        number, kept = 0, b""
        while chunk := await self._read():
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                number += 1
                line = _line(number, kept + end)
                kept = b""
                if self.stopped:
                    return
                if line.text:
                    yield line
            kept = (kept + rest)[: MAX_LINE + 1]
        if not self.stopped and (line := _line(number + 1, kept)).text:
            yield line

    async def _read(self) -> bytes:
        """Read more. Waiting for another program does not block the event loop, so that a signal is noticed."""
        if self._may_wait:
            with self._waiting:
                try:
                    await anyio.wait_readable(self._raw.fileno())
                except (OSError, NotImplementedError):  # a device that is always ready, or a system that can't tell
                    self._may_wait = False
            self._waiting = anyio.CancelScope()
        return b"" if self.stopped else self._stream.read(_CHUNK)


def _open(name: str, stack: ExitStack) -> IO[bytes]:
    if name != STANDARD_INPUT:
        return cast("IO[bytes]", stack.enter_context(Path(name).open("rb", buffering=0)))
    if sys.stdin is None:
        raise InputError("standard input is closed.")
    return cast("IO[bytes]", stack.enter_context(os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False)))


def _line(number: int, text: bytes) -> Line:
    if number == 1:
        if text.startswith(_UTF16_MARKS):
            raise InputError("the file is UTF-16; convert it to UTF-8, such as with iconv -f UTF-16 -t UTF-8.")
        text = text.removeprefix(_UTF8_MARK)
    return Line(number, text[:MAX_LINE].strip(), len(text) <= MAX_LINE)
