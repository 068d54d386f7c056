"""The files of an import: its progress, and the lines that were refused.

Both survive any end of the process. The progress belongs to one input: it has a hash of the lines that are done.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Final, cast

from attrs import asdict, define, fields

from perkamo.cli.import_input import InputError, Line

_NO_LINES: Final = sha256().hexdigest()


@define
class State:
    """The progress of an import; the content of the resume file.

    Attributes:
        line: The last line up to which all results are known.
        applied: Events that counted.
        known: Events whose transaction id had counted before.
        refused: Lines that were put into the file of refused lines.
        rejected_size: That file's length in bytes.
        sha256: The hash of the lines that are done, to recognize another input.
    """

    line: int = 0
    applied: int = 0
    known: int = 0
    refused: int = 0
    rejected_size: int = 0
    sha256: str = _NO_LINES


def load(path: Path | None) -> State:
    """Return the progress of an interrupted import, or of a new one.

    Args:
        path: The resume file, or None.

    Raises:
        InputError: A file of this name exists that was not written by an import.
        OSError: The file can't be read.
    """
    if path is None or not path.exists():
        return State()
    text = path.read_bytes() if path.is_file() else b"a device or a directory"
    if not text:
        return State()
    try:
        values: object = json.loads(text)
    except ValueError:
        values = None
    if not _is_state(values):
        raise InputError(f"{path} is not the resume file of an import. Name another one, or remove it.")
    return State(**cast("dict[str, int]", values))  # type: ignore[arg-type]  # checked above, name by name


def draft_of(path: Path) -> Path:
    """Return the file that becomes the resume file when it is complete."""
    return path.with_name(f"{path.name}.new")


def save(path: Path, state: State) -> None:
    """Write the progress, completely or not at all.

    Raises:
        OSError: The file can't be written.
    """
    new = draft_of(path)
    with new.open("wb") as file:
        file.write(json.dumps(asdict(state)).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _is_state(values: object) -> bool:
    if not isinstance(values, dict):
        return False
    given = cast("dict[str, object]", values)
    types = {one.name: one.type for one in fields(State)}
    return given.keys() == types.keys() and all(type(given[name]) is kind for name, kind in types.items())


class RejectedLines:
    """The file of refused lines, each with its number and the reason. Lines are only appended.

    Args:
        path: The file; it is created with the first refused line.
        known_size: Its length when the progress was saved, None if no import was interrupted. Lines after that were
            written by the interrupted run, and are not written again.
    """

    def __init__(self, path: Path, known_size: int | None) -> None:
        self.path = path
        self._size = known_size
        self._file: IO[bytes] | None = None
        self._written: set[tuple[int, str]] = set()
        if known_size is not None and path.is_file():
            self._written = set(_identities(path, known_size))

    def add(self, line: Line, reason: str) -> None:
        """Keep a line.

        Raises:
            OSError: It can't be written.
        """
        if self._file is None:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "ab")
        text = line.text.decode("utf-8", "replace")
        if (line.number, text) not in self._written:
            note = {"line": line.number, "reason": reason, "text": text}
            self._file.write(json.dumps(note, ensure_ascii=False).encode() + b"\n")
            self._file.flush()  # in one piece, so that a kill does not leave half a line to which the next run appends
        self._size = os.fstat(self._file.fileno()).st_size

    def save(self) -> int:
        """Write everything to the disk; return the length of the file's complete lines, 0 if there is no file.

        Raises:
            OSError: It can't be written.
        """
        if self._file is not None:
            with suppress(OSError):  # a device or a pipe can't be synced
                os.fsync(self._file.fileno())
        if self._size is None:
            self._size = self.path.stat().st_size if self.path.exists() else 0
        return self._size

    def close(self) -> None:
        """Write everything to the disk and close the file; it is opened again when a line is added.

        Raises:
            OSError: It can't be written.
        """
        self.save()
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _identities(path: Path, start: int) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines after a position, and cut off the last one if it is incomplete.

    Lines of other programs are skipped.
    """
    with path.open("r+b") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(file.tell() - len(line))
                return
            try:
                note: object = json.loads(line)
            except ValueError:
                continue
            match note:
                case {"line": int(number), "text": str(text)}:
                    yield number, text
                case _:
                    pass
