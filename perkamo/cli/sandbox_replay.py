"""What ``perkamo sandbox`` keeps of what comes, and what it plays that was kept."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory
from typing import IO

import anyio
from attrs import define, field

from perkamo import AsyncPerkamoClient, Outbox, PerkamoError
from perkamo.cli.text import count as counted
from perkamo.sandbox.recording import Recorder, RecordingError, play, read_recording
from perkamo.sandbox.requestlog import RequestRecord
from perkamo.sandbox.sandbox import Sandbox


@contextmanager
def recording(sandbox: Sandbox, file: Path | None, *, pseudonyms: bool) -> Generator[None]:
    """Keep what comes within the block.

    Args:
        sandbox: Where it comes.
        file: Where it goes, after what is there; None to keep nothing.
        pseudonyms: Replace ids.

    Raises:
        OSError: The file can't be written.
    """
    if file is None:
        yield
        return
    with file.open("a", encoding="utf-8") as opened:
        end = sandbox.on_request(Recorder(opened, pseudonyms=pseudonyms).write)
        try:
            yield
        finally:
            end()


@define
class Replay:
    """Plays a recording into a sandbox, in a thread of its own.

    Attributes:
        sandbox: Where to.
        speed: How much faster than it was recorded; 0 without any wait.
        stop: Ends it early, when it is set; it is set where the recording can't be read.
        statuses: How many requests had which answer.
        problem: Why it ended early, or None.
    """

    sandbox: Sandbox
    speed: float
    stop: threading.Event
    statuses: "Counter[int | None]" = field(factory=Counter[int | None])
    problem: str | None = None

    def start(self, lines: IO[str], done: Callable[[], None]) -> None:
        """Begin; ``done`` is called at the end, in that thread."""

        def work() -> None:
            try:
                with lines:
                    self._play(lines)
            except (RecordingError, OSError, UnicodeDecodeError) as error:
                self.problem = f"the recording can't be read: {error}"
                self.stop.set()
            else:
                done()

        threading.Thread(target=work, name="perkamo-sandbox-replay", daemon=True).start()

    def start_outbox(self, directory: Path, space: str | None, done: Callable[[], None]) -> None:
        """Begin to deliver what waits in a copy of an outbox, which itself is not touched.

        Args:
            directory: The outbox's, to which nobody writes meanwhile.
            space: The name that it was given for its Space, if any.
            done: Called at the end, in the thread that delivers.
        """

        def work() -> None:
            try:
                with TemporaryDirectory(prefix="perkamo-replay-") as place:
                    copy = Path(place, "outbox")
                    copytree(directory, copy, ignore=ignore_patterns("*.lock", "process-*"))
                    copy.chmod(0o700)
                    anyio.run(self._deliver, copy, space)
            except (PerkamoError, OSError) as error:
                self.problem = f"the outbox can't be replayed: {error}"
                self.stop.set()
            else:
                done()

        threading.Thread(target=work, name="perkamo-sandbox-replay", daemon=True).start()

    async def _deliver(self, directory: Path, space: str | None) -> None:
        with self._counting():
            async with (
                AsyncPerkamoClient(self.sandbox.api_key, base_url=self.sandbox.base_url) as client,
                Outbox(directory, space=space) as outbox,
            ):
                await outbox.rebind(client)
                await outbox.drain(client)

    @contextmanager
    def _counting(self) -> Generator[None]:
        def count(record: RequestRecord) -> None:
            self.statuses[record.status] += 1

        end = self.sandbox.on_request(count)
        try:
            yield
        finally:
            end()

    def summary(self) -> str:
        """Return what was played, in one line."""
        answers = ", ".join(f"{status or 'no answer'}: {times:,}" for status, times in self.statuses.most_common())
        return f"Replayed {counted(self.statuses.total(), 'requests')}. {answers}".rstrip()

    def _play(self, lines: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        began, first = clock(), None
        for recorded in read_recording(lines):
            first = recorded.time if first is None else first
            due = (recorded.time - first) / self.speed if self.speed else 0.0
            if self.stop.wait(max(began + due - clock(), 0.0)):
                return
            self.statuses[play(self.sandbox, recorded)] += 1
