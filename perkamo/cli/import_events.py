"""``python -m perkamo import FILE.jsonl``: send a file of events, one JSON object a line.

After an interruption, the next run continues where it stopped. Two runs earn once: a line without a transaction id gets
one that is derived from its text, so identical lines count as one event.
"""

import os
import sys
import zlib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path

from perkamo.batching.bulk import MAX_CONCURRENCY
from perkamo.cli.exit_codes import DONE, FAILED, INTERRUPTED, REFUSED, TERMINATED, WRONG_USAGE
from perkamo.cli.help import BASE_URL, KEY, add_client_options, explain
from perkamo.cli.import_input import STANDARD_INPUT, InputError
from perkamo.cli.import_job import Import
from perkamo.cli.import_state import draft_of
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import explained, print_error, run_async, sentence
from perkamo.cli.signals import TerminatedError
from perkamo.cli.text import count, number
from perkamo.errors import PerkamoError


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example="perkamo import events.jsonl\nzcat more.jsonl.gz | perkamo import - --rejected refused.jsonl",
        exit_codes=f"{DONE}    done; every line was applied now or before\n"
        f"{FAILED}    failed; the same command continues from there\n"
        f"{WRONG_USAGE}    wrong usage\n"
        f"{REFUSED}    done, but lines were refused; they are in the file of --rejected\n"
        f"{INTERRUPTED}  Ctrl-C; the same command continues from there\n"
        f"{TERMINATED}  SIGTERM, after the requests in flight; the same command continues from there",
        environment=(KEY, BASE_URL),
    )
    parser.add_argument("file", metavar="FILE", help="FILE.jsonl, FILE.jsonl.gz, or - for standard input")
    parser.add_argument("--resume-file", type=Path, help="where to save its progress (default: FILE.resume)")
    parser.add_argument(
        "--rejected", type=Path, help="where to add refused lines, with their reasons (default: FILE.rejected.jsonl)"
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrency,
        default=4,
        help=f"requests at once, 1 to {MAX_CONCURRENCY} (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON document, for programs")
    add_client_options(parser)


def run(args: Namespace) -> int:
    """Import the file; return the exit code."""
    return explained("import", partial(_import, args))


def _import(args: Namespace) -> int:
    name: str = args.file
    is_stream = name == STANDARD_INPUT or (Path(name).exists() and not Path(name).is_file())
    stem = "stdin" if is_stream else name  # no file can be written beside a pipe such as /dev/fd/63
    resume: Path | None = args.resume_file or (None if is_stream else Path(f"{stem}.resume"))
    rejected: Path = args.rejected or Path(f"{stem}.rejected.jsonl")
    if problem := _conflict(name, resume, rejected):
        return print_error("import", problem, WRONG_USAGE)
    try:
        job = Import(name, resume, rejected)
    except InputError as error:
        return print_error("import", str(error), FAILED)
    if stopped := _run_job(job, args):
        message, code = stopped
        try:
            job.save()
        except OSError as error:
            message = f"{message} Its progress can't be saved: {error.strerror}."
        return print_error("import", message, code)
    _show(job, job.finish(), as_json=args.json)
    return REFUSED if job.state.refused else DONE


def _run_job(job: Import, args: Namespace) -> tuple[str, int] | None:
    """Return why the import stopped before its end, and the exit code for it."""
    try:
        run_async(partial(job.run, args))
    except TerminatedError:
        return f"stopped after line {job.state.line:,}. {job.how_to_go_on}", TERMINATED
    except KeyboardInterrupt:
        return f"interrupted after line {job.state.line:,}. {job.how_to_go_on}", INTERRUPTED
    except InputError as error:
        return str(error), FAILED
    except (OSError, EOFError, zlib.error) as error:
        return f"cannot read or write: {error}", FAILED
    except PerkamoError as error:
        return f"{sentence(error)} Stopped after line {job.state.line:,}. {job.how_to_go_on}", FAILED
    return None


def _show(job: Import, rejected: Path | None, *, as_json: bool) -> None:
    state = job.state
    if as_json:
        counts = {"lines": state.line, "applied": state.applied, "known": state.known, "refused": state.refused}
        print_json({**counts, "rejected": None if rejected is None else str(rejected)})
        return
    where = "" if rejected is None else f", see {rejected}"
    print_lines(
        f"{count(state.line, 'lines')}: {count(state.applied, 'events')} applied, {number(state.known)} known before,"
        f" {number(state.refused)} refused{where}"
    )


def _conflict(name: str, resume: Path | None, rejected: Path) -> str | None:
    """Return which two of the files are the same: writing one would destroy the other."""
    written = [("--rejected", rejected)]
    if resume is not None:
        draft = draft_of(resume)
        written += [("--resume-file", resume), (f"--resume-file (first written as {draft})", draft)]
    for option, path in written:
        if _is_input(path, name):
            return f"{option} names the input; name another file."
    if any(_are_one(rejected, path) for _, path in written[1:]):
        return "--rejected and --resume-file name one file; name two."
    return None


def _is_input(path: Path, name: str) -> bool:
    if name != STANDARD_INPUT:
        return _are_one(path, Path(name))
    if sys.stdin is None or not path.is_file():  # a terminal or a device may be both
        return False
    return os.path.samestat(path.stat(), os.fstat(sys.stdin.fileno()))


def _are_one(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _concurrency(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CONCURRENCY:
        raise ArgumentTypeError(f"a number from 1 to {MAX_CONCURRENCY}")
    return int(text)
