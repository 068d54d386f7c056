"""Recording and replaying of ``perkamo sandbox``."""

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
from attrs import define, field

from perkamo import AsyncPerkamoClient, Outbox, PerkamoError
from perkamo.cli.recorded_lines import UNREADABLE, RecordedLines
from perkamo.cli.text import agree
from perkamo.cli.text import count as counted
from perkamo.outbox.directory import LOCK_PATIENCE, copy_outbox
from perkamo.runtime.clock import Clock
from perkamo.sandbox.recording import Recorder, RecordingError, play, read_recording
from perkamo.sandbox.requestlog import RequestRecord
from perkamo.sandbox.sandbox import Sandbox

_LOOK_EVERY: Final = 0.1
_PATIENCE: Final = 5.0
"""Seconds for a delivery to end after it was stopped."""


@contextmanager
def recording(
    sandbox: Sandbox, file: Path | None, *, pseudonyms: bool, failed: Callable[[OSError], None]
) -> Generator[None]:
    """Record the requests within the block.

    Args:
        sandbox: The sandbox.
        file: The file to append to; None to record nothing.
        pseudonyms: Whether ids are replaced.
        failed: Called once if a request can't be written, as on a full disk. No further request is recorded then.

    Raises:
        OSError: The file can't be opened.
    """
    if file is None:
        yield
        return
    opened = file.open("a", encoding="utf-8")
    recorder, is_broken = Recorder(opened, pseudonyms=pseudonyms), False

    def keep(record: RequestRecord) -> None:
        nonlocal is_broken
        if not is_broken:
            try:
                recorder.write(record)
            except OSError as error:
                is_broken = True
                failed(error)

    end = sandbox.on_request(keep)
    try:
        yield
    finally:
        end()
        try:
            opened.close()
        except OSError:
            if not is_broken:
                raise


@define
class Replay:
    """Replays a recording into a sandbox, in a thread of its own.

    Attributes:
        sandbox: The sandbox.
        speed: How many times faster than it was recorded; 0 for no waits.
        stop: Ends it early when it is set. It is also set if the recording can't be read.
        statuses: How many requests had which answer.
        waiting: How many events of an outbox were not delivered.
        problem: Why it ended early, or None.
    """

    sandbox: Sandbox
    speed: float
    stop: threading.Event
    statuses: "Counter[int | None]" = field(factory=Counter[int | None])
    waiting: int = 0
    problem: str | None = None
    _delivery: threading.Thread | None = None

    def start(self, lines: RecordedLines, done: Callable[[], None]) -> None:
        """Begin to replay a file, which is closed at the end.

        Args:
            lines: The file.
            done: Called at the end, in the thread of the replay.
        """
        self._start(partial(self._play, lines), "the recording can't be read", done)

    def start_outbox(self, directory: Path, space: str | None, done: Callable[[], None]) -> None:
        """Begin to deliver the events of a copy of an outbox. The outbox itself is not changed.

        Args:
            directory: The outbox's directory.
            space: The name of its Space, if it has one.
            done: Called at the end, in the thread of the delivery.
        """
        self._delivery = self._start(partial(self._deliver, directory, space), "the outbox can't be replayed", done)

    def join(self) -> None:
        """After ``stop``, wait for a delivery to end; do not wait for a file, which may never end."""
        if self._delivery is not None:
            self._delivery.join(_PATIENCE)

    def summary(self) -> str:
        """Return what was replayed, in one line."""
        answers = ", ".join(f"{status or 'no answer'}: {times:,}" for status, times in self.statuses.most_common())
        wait = agree(self.waiting, "waits", "wait")
        rest = (
            f" {counted(self.waiting, 'events')} still {wait}: name their Space with --space." if self.waiting else ""
        )
        return f"Replayed {counted(self.statuses.total(), 'requests')}. {answers}".rstrip() + rest

    def _start(self, work: Callable[[], None], problem: str, done: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except TimeoutError:
                self.problem = f"{problem}: another process has held its lock for {LOCK_PATIENCE:g} s; try again."
            except (RecordingError, PerkamoError, OSError, *UNREADABLE) as error:
                self.problem = f"{problem}: {error}"
            if self.problem is not None:
                self.stop.set()
            elif not self.stop.is_set():
                done()

        thread = threading.Thread(target=run, name="perkamo-sandbox-replay", daemon=True)
        thread.start()
        return thread

    def _play(self, lines: RecordedLines) -> None:
        clock = Clock()
        began, first = clock.now(), None
        with lines:
            for recorded in read_recording(lines):
                first = recorded.time if first is None else first
                due = (recorded.time - first) / self.speed if self.speed else 0.0
                if self.stop.wait(max(began + due - clock.now(), 0.0)):
                    return
                self.statuses[play(self.sandbox, recorded)] += 1

    def _deliver(self, directory: Path, space: str | None) -> None:
        with TemporaryDirectory(prefix="perkamo-replay-") as place:
            copy = Path(place, "outbox")
            copy_outbox(directory, copy)
            anyio.run(self._drain, copy, space)

    async def _drain(self, directory: Path, space: str | None) -> None:
        error: PerkamoError | None = None
        with self._counting():
            async with (
                AsyncPerkamoClient(self.sandbox.api_key, base_url=self.sandbox.base_url) as client,
                Outbox(directory, space=space) as outbox,
            ):
                await outbox.rebind(client)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._cancel_at_stop, group.cancel_scope)
                    try:
                        await outbox.drain(client)
                    except PerkamoError as caught:  # not through the group, which would wrap it
                        error = caught
                    group.cancel_scope.cancel()
                self.waiting = (await outbox.stats()).pending
        if error is not None:
            raise error

    async def _cancel_at_stop(self, scope: anyio.CancelScope) -> None:
        while not self.stop.is_set():  # noqa: ASYNC110 - which a thread sets
            await anyio.sleep(_LOOK_EVERY)
        scope.cancel()

    @contextmanager
    def _counting(self) -> Generator[None]:
        def count(record: RequestRecord) -> None:
            self.statuses[record.status] += 1

        end = self.sandbox.on_request(count)
        try:
            yield
        finally:
            end()
