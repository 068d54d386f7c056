"""What an import keeps on disk: how far it came, and the lines that were refused.

Both survive whatever ends the process. The state is about one input: it holds a hash of the lines that are done.
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
    """How far an import came; what the resume file holds.

    Attributes:
        line: The last line whose result, and that of all lines before it, is known.
        applied: Events that counted.
        known: Events whose transaction id had counted before.
        refused: Lines that were put into the file of refused lines.
        rejected_size: That file's length in bytes.
        sha256: The hash of the lines that are done, by which another input is recognized.
    """

    line: int = 0
    applied: int = 0
    known: int = 0
    refused: int = 0
    rejected_size: int = 0
    sha256: str = _NO_LINES


def load(path: Path | None) -> State:
    """Return the state of an interrupted import, or that of one at its beginning.

    Args:
        path: The resume file, or None.

    Raises:
        InputError: There is a file of this name that no import has written.
        OSError: It can't be read.
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
    """Return the file that becomes the resume file once it is written whole."""
    return path.with_name(f"{path.name}.new")


def save(path: Path, state: State) -> None:
    """Write the state, whole or not at all.

    Raises:
        OSError: It can't be written.
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
    """The file of refused lines, each with its number and the reason. It is only ever added to.

    Args:
        path: The file; it is made with the first refused line.
        known_size: Its length when the state was saved, None where no import was interrupted. What stands behind it
            was written by the interrupted run, and is not written again.
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
            self._file.flush()  # whole, so that a kill leaves no half of it for the next run to add to
        self._size = os.fstat(self._file.fileno()).st_size

    def save(self) -> int:
        """Write everything to the disk; returns the length of the file's whole lines, 0 where there is none.

        Raises:
            OSError: It can't be written.
        """
        if self._file is not None:
            with suppress(OSError):  # of a device or a pipe there is nothing to sync
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
    """Yield number and text of the lines behind a place, and cut off the last one where it was not written whole.

    Lines that somebody else wrote there are passed over.
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
