"""``python -m perkamo import FILE.jsonl``: emit a file of events, one JSON object a line.

Interrupted, it goes on where it stopped when it is run again; run twice, it earns once: a line without a transaction id
gets one derived from its text, so lines that are the same to the byte count as one event.
"""

import gzip
import json
import os
import sys
import zlib
from argparse import ArgumentTypeError, Namespace
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

import anyio
from attrs import asdict, define

from perkamo.batching.bulk import MAX_CONCURRENCY, Outcome, emit_many
from perkamo.batching.split import judge
from perkamo.cli.help import BASE_URL, KEY, explain
from perkamo.cli.output import print_json, print_lines, print_stderr
from perkamo.cli.running import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    client_of_environment,
    explained,
    print_error,
    sentence,
)
from perkamo.errors import PerkamoError, PerkamoValidationError
from perkamo.events import Event

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

MAX_LINE: Final = 1024 * 1024
_SAVE_EVERY: Final = 1000


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    summary = "emit a file of events, one JSON object a line"
    parser = subparsers.add_parser("import", help=summary)
    explain(
        parser,
        summary,
        example="perkamo import events.jsonl\nzcat more.jsonl.gz | perkamo import - --rejected refused.jsonl",
        exit_codes="0    done\n"
        "1    failed; the same command goes on from there\n"
        "2    wrong usage\n"
        "3    done, but lines were refused; they are in the file of rejected ones\n"
        f"{INTERRUPTED}  Ctrl-C; the same command goes on from there",
        environment=(KEY, BASE_URL),
    )
    parser.add_argument("file", metavar="FILE", help="FILE.jsonl, FILE.jsonl.gz, or - for standard input")
    parser.add_argument("--resume-file", type=Path, help="where to note how far it came (default: FILE.resume)")
    parser.add_argument("--rejected", type=Path, help="where to put refused lines (default: FILE.rejected.jsonl)")
    parser.add_argument(
        "--concurrency",
        type=_concurrency,
        default=4,
        help=f"requests at once, 1 to {MAX_CONCURRENCY} (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON document, for programs")


def run(args: Namespace) -> int:
    """Import the file; returns the exit code."""
    return explained("import", partial(_import, args))


def _import(args: Namespace) -> int:
    name: str = args.file
    stem = "stdin" if name == "-" else name
    resume: Path | None = args.resume_file or (None if name == "-" else Path(f"{stem}.resume"))
    try:
        state = _load(resume)
        job = Import(name, resume, args.rejected or Path(f"{stem}.rejected.jsonl"), state)
    except OSError as error:
        return print_error("import", f"{resume}: {error.strerror}", FAILED)
    if state.line:
        print_stderr(f"Going on after line {state.line:,}.")
    try:
        anyio.run(job.run, args.concurrency)
    except KeyboardInterrupt:
        job.save()
        return print_error("import", f"interrupted after line {state.line:,}. {job.how_to_go_on}", INTERRUPTED)
    except (OSError, EOFError, zlib.error) as error:
        job.save()
        return print_error("import", f"cannot read or write: {error}", FAILED)
    except PerkamoError as error:
        job.save()
        return print_error("import", f"{sentence(error)} Stopped after line {state.line:,}. {job.how_to_go_on}", FAILED)
    job.finish(as_json=args.json)
    return REFUSED if state.refused else DONE


def _concurrency(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CONCURRENCY:
        raise ArgumentTypeError(f"a number from 1 to {MAX_CONCURRENCY}")
    return int(text)


@define
class State:
    """How far an import came; what the resume file holds.

    Attributes:
        line: The last line of which, and of all before it, it is known what became of it.
        applied: Events that counted.
        known: Events whose transaction id had counted before.
        refused: Lines that were put into the file of refused lines.
        refused_size: That file's length in bytes.
    """

    line: int = 0
    applied: int = 0
    known: int = 0
    refused: int = 0
    refused_size: int = 0


def _load(resume: Path | None) -> State:
    if resume is None or not resume.exists():
        return State()
    try:
        return State(**cast("dict[str, int]", json.loads(resume.read_bytes())))
    except (ValueError, TypeError):
        print_stderr(f"{resume} is no resume file of an import; beginning at the first line.")
        return State()


@define
class _Line:
    number: int
    text: bytes
    problem: str | None


class Import:
    """One import: lines in, outcomes noted, in the order of the file."""

    def __init__(self, name: str, resume: Path | None, rejected: Path, state: State) -> None:
        """Prepare; nothing is read or written yet."""
        self.state = state
        self._name = name
        self._resume = resume
        self._rejected_path = rejected
        self._rejected: IO[bytes] | None = None
        self._waiting: deque[_Line] = deque()
        self._show_progress: Callable[[int], None] = _ignore

    @property
    def how_to_go_on(self) -> str:
        """What to tell whoever sees the import stop."""
        if self._resume is None:
            return "Run it again from the start: what counted before counts once."
        return "Run the same command again to go on from there."

    async def run(self, concurrency: int) -> None:
        """Read and emit everything that is left.

        Raises:
            PerkamoError: The service is not there, or refuses the key. What it took is noted.
            OSError: A file can't be read or written.
        """
        with ExitStack() as stack:
            lines = self._open(stack)
            async with client_of_environment() as client:
                async for outcome in emit_many(client, self._events(lines), concurrency=concurrency):
                    self._note(outcome)
                    if self.state.line % _SAVE_EVERY == 0:
                        self.save()
            self._note_problems()

    def save(self) -> None:
        """Write down how far it came."""
        if self._rejected is not None:
            self._rejected.flush()
        if self._resume is not None:
            new = self._resume.with_name(f"{self._resume.name}.new")
            new.write_text(json.dumps(asdict(self.state)), "utf-8")
            new.replace(self._resume)

    def finish(self, *, as_json: bool) -> None:
        """Tell what became of the file; there is nothing left to resume."""
        if self._rejected is not None:
            self._rejected.close()
        if self._resume is not None:
            self._resume.unlink(missing_ok=True)
        state = self.state
        if as_json:
            counts = {"lines": state.line, "applied": state.applied, "known": state.known, "refused": state.refused}
            print_json({**counts, "rejected": str(self._rejected_path) if state.refused else None})
            return
        where = f", see {self._rejected_path}" if state.refused else ""
        print_lines(
            f"{state.line:,} lines: {state.applied:,} events applied, {state.known:,} known before,"
            f" {state.refused:,} refused{where}"
        )

    def _open(self, stack: ExitStack) -> IO[bytes]:
        raw: IO[bytes] = sys.stdin.buffer
        if self._name != "-":
            raw = Path(self._name).open("rb")  # noqa: SIM115 - the stack closes it
            stack.callback(raw.close)
        self._show_progress = _progress_bar(stack, raw, self._name)
        if self._name.endswith(".gz"):
            return cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw)))
        return raw

    def _events(self, lines: IO[bytes]) -> Iterator[Event]:
        number = 0
        while text := lines.readline(MAX_LINE):
            number += 1
            is_whole = len(text) < MAX_LINE or text.endswith(b"\n")
            while not is_whole and (rest := lines.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            if number <= self.state.line or not text.strip():
                continue
            event, problem = _parse(text) if is_whole else (None, f"is longer than {MAX_LINE} bytes")
            self._waiting.append(_Line(number, text, problem))
            if event is None:
                if len(self._waiting) == 1:
                    self._note_problems()
                continue
            yield event

    def _note(self, outcome: Outcome) -> None:
        self._note_problems()
        line = self._waiting.popleft()
        if outcome.result is not None:
            self.state.applied += outcome.result.applied
            self.state.known += not outcome.result.applied
        elif outcome.error is not None:
            verdict = judge(outcome.error)
            if verdict == "failed":
                raise outcome.error
            if verdict == "accepted":
                self.state.applied += 1
            else:
                line.problem = str(outcome.error)
                self._refuse(line)
        self.state.line = line.number
        self._show_progress(line.number)

    def _note_problems(self) -> None:
        """Note the lines, next in turn, that hold no event at all."""
        while self._waiting and self._waiting[0].problem is not None:
            line = self._waiting.popleft()
            self._refuse(line)
            self.state.line = line.number

    def _refuse(self, line: _Line) -> None:
        if self._rejected is None:
            descriptor = os.open(self._rejected_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._rejected = os.fdopen(descriptor, "r+b")
            self._rejected.seek(
                self.state.refused_size
            )  # what an interrupted run wrote after its last note comes again
            self._rejected.truncate()
        note = {"line": line.number, "reason": line.problem, "text": line.text.decode("utf-8", "replace").rstrip("\n")}
        self._rejected.write(json.dumps(note, ensure_ascii=False).encode() + b"\n")
        self.state.refused += 1
        self.state.refused_size = self._rejected.tell()


def _parse(text: bytes) -> tuple[Event | None, str | None]:
    try:
        fields: object = json.loads(text)
        if not isinstance(fields, dict):
            return None, "is no JSON object"
        given = cast("dict[str, object]", fields)
        if given.get("transaction_id") is None:
            given["transaction_id"] = f"line_{sha256(text.strip()).hexdigest()[:32]}"
        return Event.from_mapping(given), None
    except PerkamoValidationError as error:
        return None, str(error)
    except (ValueError, RecursionError):
        return None, "is no JSON in UTF-8"


def _ignore(_: int) -> None:
    pass


def _progress_bar(stack: ExitStack, raw: IO[bytes], name: str) -> Callable[[int], None]:
    """Show a bar on a terminal, where the extra ``cli`` is installed."""
    if not sys.stderr.isatty():
        return _ignore
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import Progress  # noqa: PLC0415
    except ImportError:
        return _ignore
    is_file = name != "-"
    progress = stack.enter_context(Progress(console=Console(stderr=True)))
    task = progress.add_task(name, total=os.fstat(raw.fileno()).st_size if is_file else None)

    def show(line: int) -> None:
        if line % 100 == 0:
            progress.update(task, completed=raw.tell() if is_file else line, description=f"{line:,} lines")

    return show
