"""What ``perkamo sandbox`` keeps of what comes, and what it plays that was kept."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import define, field

from perkamo.sandbox.recording import Recorder, RecordingError, play, read_recording
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

    def summary(self) -> str:
        """Return what was played, in one line."""
        answers = ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in self.statuses.most_common())
        return f"Replayed {self.statuses.total():,} requests. {answers}".rstrip()

    def _play(self, lines: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        began, first = clock(), None
        for recorded in read_recording(lines):
            first = recorded.time if first is None else first
            due = (recorded.time - first) / self.speed if self.speed else 0.0
            if self.stop.wait(max(began + due - clock(), 0.0)):
                return
            self.statuses[play(self.sandbox, recorded)] += 1
