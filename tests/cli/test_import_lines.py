"""python -m perkamo import: how lines are read, and what is said of them."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from perkamo.cli.import_input import MAX_LINE, Input, InputError, Line
from perkamo.cli.main import main
from perkamo.sandbox import Sandbox
from tests.cli.importing import write


def test_files_of_other_systems_are_read(
    in_tmp_path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte-order mark and CRLF change no derived id; catches events that earn twice after a detour over Windows."""
    lines = [f'{{"user_id": "u{number}", "event": "review.created"}}' for number in range(3)]
    (in_tmp_path / "unix.jsonl").write_bytes("\n".join(lines).encode())
    (in_tmp_path / "windows.jsonl").write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))

    codes = [main(["import", name]) for name in ("unix.jsonl", "windows.jsonl")]

    assert (codes, len(sandbox.events())) == ([0, 0], 3)
    assert "3 lines: 0 events applied, 3 known before, 0 refused" in capsys.readouterr().out


def test_one_is_singular(in_tmp_path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches "1 lines"."""
    write(in_tmp_path / "events.jsonl", "x", 1)

    main(["import", "events.jsonl"])

    assert capsys.readouterr().out == "1 line: 1 event applied, 0 known before, 0 refused\n"


REFUSED = {
    '{"user": "u", "event": "e"}': "has an unknown field, user;",
    '{"user_id": "u", "event": "e", "bob@example.com": 1}': "has an unknown field;",
    '{"user_id": "u", "event": "e", "context": {"a": 1, "a": 2}}': "has the same key twice in one object",
    '{"user_id": "u", "event": "e", "context": {"a": 1e999}}': "holds a number that is too large",
    '"text"': "is not a JSON object",
    "{": "is not JSON",
}


def test_a_refused_line_says_what_is_wrong(in_tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its own reason, a mistyped field by its name; catches a value that is changed in silence."""
    (in_tmp_path / "events.jsonl").write_text("\n".join(REFUSED))

    code = main(["import", "events.jsonl"])

    notes = [json.loads(line) for line in (in_tmp_path / "events.jsonl.rejected.jsonl").read_text().splitlines()]
    assert (code, len(notes)) == (3, len(REFUSED))
    for note, reason in zip(notes, REFUSED.values(), strict=True):
        assert reason in note["reason"]
    assert "bob" not in notes[1]["reason"]
    assert "6 refused, see events.jsonl.rejected.jsonl" in capsys.readouterr().out


def lines_of(data: bytes, tmp_path: Path, until: Callable[[Input, Line], None] | None = None) -> list[Line]:
    """Read a file's lines."""
    path = tmp_path / "input"
    path.write_bytes(data)
    found: list[Line] = []

    async def read() -> None:
        with ExitStack() as stack:
            source = Input(str(path), stack)
            async for line in source.lines():
                found.append(line)
                if until is not None:
                    until(source, line)

    anyio.run(read)
    return found


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n  \n"])
def test_lines_are_the_same_wherever_the_reads_end(end: bytes, tmp_path: Path) -> None:
    """Many reads long, with blank lines between; catches a line that is cut or joined at the edge of a read."""
    texts = [f"{number}".encode() * 1000 for number in range(1000)]

    found = lines_of(b"\n\n".join(texts) + end, tmp_path)

    assert [line.text for line in found] == texts
    assert [line.number for line in found] == [*range(1, 2000, 2)]
    assert all(line.is_whole for line in found)


@pytest.mark.parametrize("size", [MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nnext"])
def test_a_line_that_is_too_long_is_bounded(size: int, end: bytes, tmp_path: Path) -> None:
    """Its beginning is kept, and the next line is whole; catches a file without ends of lines in memory."""
    found = lines_of(b"x" * size + end, tmp_path)

    assert (len(found[0].text), found[0].is_whole) == (MAX_LINE, size == MAX_LINE)
    assert [line.text for line in found[1:]] == ([b"next"] if end == b"\nnext" else [])


def test_an_input_that_is_stopped_ends_between_two_lines(tmp_path: Path) -> None:
    """The last line, without its end, is no line yet; catches half an event."""
    found = lines_of(b"one\ntwo\nthree", tmp_path, lambda source, line: source.stop() if line.text == b"two" else None)

    assert [line.text for line in found] == [b"one", b"two"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_an_input_in_utf_16_is_reported(encoding: str, tmp_path: Path) -> None:
    """As a Windows shell writes it; catches thousands of refused lines."""
    with pytest.raises(InputError, match="UTF-16"):
        lines_of(
            ("\ufeff" if encoding == "utf-16-be" else "").encode(encoding) + '{"a": 1}\n'.encode(encoding), tmp_path
        )
