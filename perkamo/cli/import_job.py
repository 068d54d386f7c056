"""One import: it reads lines, sends requests, and records the result of each line in the order of the input."""

import sys
from argparse import Namespace
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Final, cast

import anyio
from attrs import define

from perkamo.batching.bulk import Outcome, emit_many
from perkamo.batching.split import classify_result
from perkamo.cli import import_state
from perkamo.cli.import_input import MAX_LINE, STANDARD_INPUT, Input, InputError, Line
from perkamo.cli.import_state import RejectedLines, State
from perkamo.cli.running import client_of_environment, on_sigterm_in_loop
from perkamo.cli.signals import TerminatedError
from perkamo.cli.stdio import print_stderr
from perkamo.cli.text import count
from perkamo.encoding.ids import transaction_id_of_line
from perkamo.encoding.parse import parse
from perkamo.errors import PerkamoValidationError
from perkamo.events import Event

GRACE: Final = 8.0
"""Seconds after SIGTERM for the requests that are on their way: containers are killed after 10 by default."""
_SAVE_EVERY: Final = 1000


@define
class _Pending:
    """A line without a result so far, or a line without an event."""

    line: Line
    problem: str | None


class Import:
    """One import.

    Args:
        name: The input's name, or ``-``.
        resume: The file that records the progress, or None.
        rejected: The file for refused lines.

    Raises:
        InputError: The resume file is not one of an import.
        OSError: A file can't be read.
    """

    def __init__(self, name: str, resume: Path | None, rejected: Path) -> None:
        self.state: State = State()
        self._name = name
        self._resume = resume
        self._interrupted = import_state.load(resume)
        self._rejected = RejectedLines(rejected, None)
        self._pending: deque[_Pending] = deque()
        self._hash = sha256()
        self._unsaved = 0
        self._stopped = False
        self._show_progress: Callable[[int], None] = _show_nothing

    @property
    def how_to_go_on(self) -> str:
        """The advice when the import stops."""
        if self._resume is None:
            return "Run it again from the start: what was applied before counts once."
        return "Run the same command again to continue."

    async def run(self, args: Namespace) -> None:
        """Read and emit everything that is left.

        Args:
            args: What was typed.

        Raises:
            PerkamoError: The service does not answer, or refuses the key. Accepted events are recorded.
            OSError: A file can't be read or written.
            InputError: The input can't be used.
            TerminatedError: SIGTERM came. The results of the requests that were on their way are recorded.
        """
        with ExitStack() as stack, anyio.CancelScope() as scope:
            source, lines = await self._begin(stack)
            stack.callback(self._rejected.close)
            self._show_progress = _progress_bar(stack, source, self._name)

            def stop() -> None:
                self._stopped = True
                source.stop()
                scope.deadline = anyio.current_time() + GRACE

            async with client_of_environment(args) as client:
                with on_sigterm_in_loop(stop):
                    async for outcome in emit_many(client, self._events(lines), concurrency=args.concurrency):
                        self._note(outcome)
            self._note_problems()
        if self._stopped:
            raise TerminatedError

    def save(self) -> None:
        """Save the progress, if the import has begun.

        Raises:
            OSError: The file can't be written.
        """
        self._unsaved = 0
        if self.state.line and self._resume is not None:
            self.state.rejected_size = self._rejected.save()
            self.state.sha256 = self._hash.hexdigest()
            import_state.save(self._resume, self.state)

    def finish(self) -> Path | None:
        """Remove the resume file at the end of the import. Return the file of refused lines, if there are any.

        Raises:
            OSError: The file can't be removed.
        """
        if self._resume is not None:
            self._resume.unlink(missing_ok=True)
        return self._rejected.path if self.state.refused else None

    async def _begin(self, stack: ExitStack) -> tuple[Input, AsyncGenerator[Line]]:
        """Open the input, and skip the lines that are done, if it is the same input.

        The import begins after that, so an error before leaves the resume file as it is.
        """
        source = Input(self._name, stack)
        lines, done, passed = source.lines(), self._interrupted, sha256()
        if not done.line:
            return source, lines
        async for line in lines:
            if line.number <= done.line:
                passed.update(line.text)
            if line.number >= done.line:
                break
        if passed.hexdigest() == done.sha256:
            print_stderr(f"Continuing after line {done.line:,}.")
            self.state, self._hash = done, passed
            self._rejected = RejectedLines(self._rejected.path, done.rejected_size)
            return source, lines
        if self._name == STANDARD_INPUT:
            raise InputError(f"{self._resume} belongs to another input. Name another one, or remove it.")
        print_stderr(f"{self._resume} belongs to another input. Starting at the first line.")
        source = Input(self._name, stack)
        return source, source.lines()

    async def _events(self, lines: AsyncGenerator[Line]) -> AsyncGenerator[Event]:
        async for line in lines:
            event, problem = _parse(line)
            self._pending.append(_Pending(line, problem))
            if event is not None:
                yield event
            elif len(self._pending) == 1:
                self._note_problems()

    def _note(self, outcome: Outcome) -> None:
        self._note_problems()
        pending = self._pending.popleft()
        if outcome.result is not None:
            self.state.applied += outcome.result.applied
            self.state.known += not outcome.result.applied
        elif outcome.error is not None:
            verdict = classify_result(outcome.error)
            if verdict == "failed":
                raise outcome.error
            if verdict == "accepted":
                self.state.applied += 1
            else:
                pending.problem = str(outcome.error)
        self._note_line(pending)

    def _note_problems(self) -> None:
        """Record the next lines that do not contain an event."""
        while self._pending and self._pending[0].problem is not None:
            self._note_line(self._pending.popleft())

    def _note_line(self, pending: _Pending) -> None:
        if pending.problem is not None:
            self._rejected.add(pending.line, pending.problem)
            self.state.refused += 1
        self._hash.update(pending.line.text)
        self.state.line = pending.line.number
        self._unsaved += 1
        if self._unsaved >= _SAVE_EVERY:
            self.save()
        self._show_progress(self.state.line)


def _parse(line: Line) -> tuple[Event | None, str | None]:
    if not line.is_whole:
        return None, f"is longer than {MAX_LINE} bytes"
    try:
        fields = parse(line.text)
        if not isinstance(fields, dict):
            return None, "is not a JSON object"
        given = cast("dict[str, object]", fields)
        if given.get("transaction_id") is None:
            given["transaction_id"] = transaction_id_of_line(line.text)
        return Event.from_mapping(given), None
    except PerkamoValidationError as error:
        return None, str(error)
    except ValueError as error:
        return None, str(error)


def _show_nothing(_: int) -> None:
    pass


def _progress_bar(stack: ExitStack, source: Input, name: str) -> Callable[[int], None]:
    """Show a progress bar on a terminal, if the extra ``cli`` is installed."""
    if sys.stderr is None or not sys.stderr.isatty():
        return _show_nothing
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import Progress  # noqa: PLC0415
    except ImportError:
        return _show_nothing
    progress = stack.enter_context(Progress(console=Console(stderr=True)))
    task = progress.add_task(Path(name).name, total=source.size)

    def show(line: int) -> None:
        if line % 100 == 0:
            done = line if source.size is None else source.position
            progress.update(task, completed=done, description=count(line, "lines"))

    return show
