"""python -m perkamo import: its input, its resume file and the refused lines."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from perkamo.cli.main import main
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.cli.conftest import Perkamo
from tests.cli.importing import write

BATCH = "POST /v1/events:batch"


def interrupt(sandbox: Sandbox, perkamo: Perkamo, path: Path, *options: str) -> None:
    """Import the first hundred lines of a file, and then lose the key."""
    answered: list[Request] = []

    def refuse(request: Request) -> Response | None:
        if request.path == "/v1/events:batch":
            answered.append(request)
        return Response(401, body=b"{}") if len(answered) == 2 else None

    sandbox.add_handler(refuse)
    assert perkamo("import", str(path), "--concurrency", "1", *options).returncode == 1


def sent(sandbox: Sandbox) -> int:
    """Count the events of all requests, those that were sent again included."""
    return sum(len(json.loads(record.body)["events"]) for record in sandbox.requests if record.status == 200)


@pytest.mark.stress
def test_another_file_of_the_same_name_is_imported_from_its_first_line(
    sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path
) -> None:
    """A nightly export after an interrupted one; catches lines that are passed over as if they were done."""
    path = tmp_path / "events.jsonl"
    write(path, "monday", 500)
    interrupt(sandbox, perkamo, path)
    write(path, "tuesday", 300)

    done = perkamo("import", str(path))

    assert (done.returncode, done.stdout) == (0, "300 lines: 300 events applied, 0 known before, 0 refused\n")
    assert done.stderr == f"{path}.resume belongs to another input. Starting at the first line.\n"
    assert sum(event.transaction_id.startswith("tuesday") for event in sandbox.events()) == 300
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]


def test_a_file_that_has_grown_goes_on_where_it_stopped(sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path) -> None:
    """What is done is the same, so it is not sent again; catches an identity that is the file's size."""
    path = tmp_path / "events.jsonl"
    write(path, "log", 500)
    interrupt(sandbox, perkamo, path)
    before = sent(sandbox)
    write(path, "log", 600)

    done = perkamo("import", str(path))

    assert (done.returncode, done.stderr) == (0, "Continuing after line 100.\n")
    assert (sent(sandbox) - before, len(sandbox.events())) == (500, 600)


def test_the_input_of_a_pipe_is_not_begun_again_without_a_word(
    sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path
) -> None:
    """What was read can't be read again; catches a second stream whose beginning is lost."""
    path, resume = tmp_path / "events.jsonl", str(tmp_path / "resume")
    write(path, "monday", 500)
    interrupt(sandbox, perkamo, path, "--resume-file", resume)
    write(path, "tuesday", 300)
    before = len(sandbox.requests)

    with path.open() as file:
        done = perkamo("import", "-", "--resume-file", resume, stdin=file)

    assert (done.returncode, done.stdout, len(sandbox.requests)) == (1, "", before)
    assert done.stderr == f"perkamo import: {resume} belongs to another input. Name another one, or remove it.\n"


@pytest.mark.stress
def test_an_input_that_was_refused_is_refused_again(sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path) -> None:
    """And the right one continues; catches a resume file that takes the hash of what it does not belong to."""
    path, resume = tmp_path / "events.jsonl", str(tmp_path / "resume")
    other = tmp_path / "other.jsonl"
    write(path, "monday", 500)
    write(other, "tuesday", 300)
    interrupt(sandbox, perkamo, path, "--resume-file", resume)

    codes: list[int] = []
    for source in (other, other, path):
        with source.open() as file:
            codes.append(perkamo("import", "-", "--resume-file", resume, stdin=file).returncode)

    assert codes == [1, 1, 0]
    assert {event.transaction_id.partition("_")[0] for event in sandbox.events()} == {"monday"}
    assert len(sandbox.events()) == 500


def test_an_input_that_is_not_there_for_a_moment_is_continued(
    sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path
) -> None:
    """Catches a resume file that is spoilt by a disk which is not mounted yet."""
    path = tmp_path / "events.jsonl"
    write(path, "monday", 500)
    interrupt(sandbox, perkamo, path)

    path.rename(tmp_path / "away")
    failed = perkamo("import", str(path))
    (tmp_path / "away").rename(path)
    done = perkamo("import", str(path))

    assert (failed.returncode, done.returncode, done.stderr) == (1, 0, "Continuing after line 100.\n")


def test_what_others_wrote_among_refused_lines_is_passed_over(
    sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path
) -> None:
    """It stays where it is, and nothing is written twice; catches a traceback over a note of the user's."""
    path, rejected = tmp_path / "events.jsonl", tmp_path / "events.jsonl.rejected.jsonl"
    write(path, "monday", 500, broken=(3, 200))
    interrupt(sandbox, perkamo, path)
    known = rejected.read_bytes()
    later = b'{"line": 201, "reason": "is not JSON", "text": "nonsense"}\n'
    rejected.write_bytes(known + b"# ask Jan\n[1]\n\xff\n" + later + b'{"line": 2')

    done = perkamo("import", str(path))

    assert (done.returncode, done.stderr) == (3, "Continuing after line 101.\n")
    assert rejected.read_bytes() == known + b"# ask Jan\n[1]\n\xff\n" + later


@pytest.mark.stress
def test_refused_lines_of_earlier_runs_are_kept(sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path) -> None:
    """Each run adds its own; catches a run that overwrites what nobody has looked at yet."""
    path = tmp_path / "events.jsonl"
    codes = []
    for name, broken in (("wednesday", (2, 3, 4)), ("thursday", (5,)), ("friday", ())):
        write(path, name, 10, broken=broken)
        codes.append(perkamo("import", str(path)).returncode)

    rejected = [json.loads(line) for line in (tmp_path / "events.jsonl.rejected.jsonl").read_text().splitlines()]
    assert codes == [3, 3, 0]
    assert [note["line"] for note in rejected] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--rejected", "events.jsonl"], "--rejected names the input"),
        (["--rejected", "./link"], "--rejected names the input"),
        (["--rejected", "hard"], "--rejected names the input"),
        (["--resume-file", "../work/events.jsonl"], "--resume-file names the input"),
        (["--resume-file", "x", "--rejected", "./x"], "--rejected and --resume-file name one file"),
        (["--rejected", "events.jsonl.resume"], "--rejected and --resume-file name one file"),
        (["--rejected", "events.jsonl.resume.new"], "--rejected and --resume-file name one file"),
    ],
)
def test_no_two_of_its_files_are_one(
    in_tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, and the file stays whole, by whatever name; catches an input that is emptied before it is read."""
    directory = in_tmp_path / "work"
    directory.mkdir()
    os.chdir(directory)
    write(directory / "events.jsonl", "x", 10, broken=(1,))
    before = (directory / "events.jsonl").read_bytes()
    (directory / "link").symlink_to("events.jsonl")
    (directory / "hard").hardlink_to(directory / "events.jsonl")

    code = main(["import", "events.jsonl", *options])

    assert (code, capsys.readouterr().err) == (
        2,
        f"perkamo import: {reason}; name {'two' if 'one' in reason else 'another file'}.\n",
    )
    assert (directory / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["events.new", "--resume-file", "events"], "--resume-file (first written as events.new) names the input"),
        (["-", "--rejected", "events.new"], "--rejected names the input"),
        (["-", "--resume-file", "events.new"], "--resume-file names the input"),
    ],
)
def test_an_input_under_another_name_is_recognized(
    in_tmp_path: Path, words: list[str], reason: str, perkamo: Perkamo
) -> None:
    """It stays whole; catches one that is replaced by its resume file, and one that is redirected and then added to."""
    path = in_tmp_path / "events.new"
    write(path, "x", 10, broken=(1,))
    before = path.read_bytes()

    with path.open() as file:
        done = perkamo("import", *words, stdin=file)

    assert (done.returncode, done.stderr) == (2, f"perkamo import: {reason}; name another file.\n")
    assert path.read_bytes() == before


def test_a_pipe_with_a_name_is_read_as_standard_input_is(in_tmp_path: Path, sandbox: Sandbox, perkamo: Perkamo) -> None:
    """Nothing is written beside it, as with ``import <(zcat *.gz)``; catches a resume file in /dev/fd."""
    path = in_tmp_path / "events.jsonl"
    write(path, "x", 1_200, broken=(1,))

    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE, text=True) as pipe:
        done = perkamo("import", "/dev/stdin", stdin=pipe.stdout)

    assert (done.returncode, done.stderr, len(sandbox.events())) == (3, "", 1_199)
    assert sorted(one.name for one in in_tmp_path.iterdir()) == ["events.jsonl", "stdin.rejected.jsonl"]


@pytest.mark.parametrize("text", [b"notes\n", b'{"line": 1}', b"[]"])
def test_a_file_that_no_import_has_written_is_left_alone(
    in_tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 before anything is read; catches a foreign file that becomes a resume file."""
    write(in_tmp_path / "events.jsonl", "x", 10)
    (in_tmp_path / "notes").write_bytes(text)

    code = main(["import", "events.jsonl", "--resume-file", "notes"])

    assert (code, (in_tmp_path / "notes").read_bytes()) == (1, text)
    assert "notes is not the resume file of an import" in capsys.readouterr().err


def test_a_device_is_no_resume_file(in_tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a root user's /dev/null that is replaced by a file."""
    write(in_tmp_path / "events.jsonl", "x", 10)

    assert main(["import", "events.jsonl", "--resume-file", "/dev/null"]) == 1
    assert not Path("/dev/null").is_file()
    assert "/dev/null is not the resume file" in capsys.readouterr().err


@pytest.mark.parametrize("failure", ["missing", "directory", "no key", "key refused", "UTF-16"])
def test_an_import_that_never_began_leaves_nothing(
    in_tmp_path: Path,
    sandbox: Sandbox,
    failure: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No file beside the input, whatever went wrong; catches litter beside a name that was mistyped."""
    path = in_tmp_path / "events.jsonl"
    write(path, "x", 10)
    match failure:
        case "missing":
            path.unlink()
        case "directory":
            path.unlink()
            path.mkdir()
        case "no key":
            monkeypatch.delenv("PERKAMO_SECRET_KEY")
        case "key refused":
            sandbox.faults.next(BATCH, Status(401))
        case _:
            path.write_text(path.read_text(), "utf-16")
    before = sorted(in_tmp_path.iterdir())

    code = main(["import", "events.jsonl"])

    assert (code, sorted(in_tmp_path.iterdir())) == (1, before)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it takes a device that is always full")
def test_a_refused_line_that_can_not_be_kept_stops_the_import(
    in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the line comes again; catches a full disk that swallows what was refused."""
    write(in_tmp_path / "events.jsonl", "x", 10, broken=(1,))

    code = main(["import", "events.jsonl", "--rejected", "/dev/full"])
    again = main(["import", "events.jsonl", "--rejected", "rejected"])

    assert (code, again) == (1, 3)
    assert "No space left on device" in capsys.readouterr().err
    assert len((in_tmp_path / "rejected").read_text().splitlines()) == 1
