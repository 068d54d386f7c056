"""One thread that owns one file at a time and commits for everybody who waits.

A commit costs one sync of the disk, whether it carries one event or hundreds: what arrives while a sync runs shares the
next one. Whoever asked is answered only after that sync.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import anyio

from perkamo.event_loop import caller_into_loop
from perkamo.outbox.errors import PerkamoOutboxError, PerkamoOutboxFullError
from perkamo.outbox.sqlite.ownership import Counts
from perkamo.outbox.sqlite.spool import SpoolFile

MAX_JOBS_PER_COMMIT: Final = 512
HAND_OVER_AFTER: Final = 2.0
"""Seconds for which a process that relays nothing keeps a file, before others may deliver what is in it."""
LEND_AFTER: Final = 0.25
"""Seconds between two looks at whether another process wants to look into the file that is in use."""
LEND_SECONDS: Final = 1.0
"""The longest that it is waited for."""
LEND_PAUSE: Final = 30.0
"""Seconds without a look, after one that did not come to its end: it may stand still for long."""
_EXIT_SECONDS: Final = 2.0

_LOGGER: Final = logging.getLogger("perkamo.outbox")
_T = TypeVar("_T")


class Work(Protocol):
    """What the writer sees of a job."""

    def run(self, file: SpoolFile) -> None:
        """Do the job inside the open transaction; keep its own refusal for itself."""

    def fail(self, error: BaseException) -> None:
        """Note that nothing of the job was done."""

    def finish(self) -> None:
        """Tell whoever waits. From now on the outcome is final."""


class Job(Generic[_T]):
    """One thing to do in a file, and what came of it."""

    def __init__(self, action: Callable[[SpoolFile], _T], notify: Callable[[], None]) -> None:
        """Prepare the job.

        Args:
            action: What to do; it is done again if the commit that it shared failed.
            notify: Called once from the writer's thread when the outcome is final.
        """
        self._action = action
        self._notify = notify
        self._value: _T | None = None
        self._error: BaseException | None = None

    def run(self, file: SpoolFile) -> None:
        """Do it inside the open transaction; a refusal concerns this job alone."""
        self._error = None
        try:
            self._value = self._action(file)
        except PerkamoOutboxError as error:
            self._error = error

    def fail(self, error: BaseException) -> None:
        """Note that nothing of it was done."""
        self._error = error

    def finish(self) -> None:
        """Tell whoever waits."""
        self._notify()

    def result(self) -> _T:
        """Return what the action returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # finished without an error: the action's own value


async def ask(writer: "Writer", action: Callable[[SpoolFile], _T]) -> _T:
    """Let a writer do something and wait for it, in whatever event loop this is.

    Cancelled before the writer began, the action is never done; cancelled later, it is.
    """
    done = anyio.Event()
    in_loop = caller_into_loop()
    job = Job(action, lambda: in_loop(done.set))
    writer.submit(job)
    try:
        await done.wait()
    except BaseException:
        writer.withdraw(job)
        raise
    return job.result()


class Writer:
    """The thread and its file, which is opened at the first job and again after it was lost or handed over."""

    def __init__(self, open_file: Callable[[int | None], SpoolFile], file: SpoolFile | None = None) -> None:
        """Prepare; nothing runs before the first job.

        Args:
            open_file: Claims and opens a file; not that of the slot it is given, which waits for another to deliver.
            file: A file that is open already.
        """
        self.keepers = 0
        """How many deliver from this writer's file. Without any it is given back again and again, for others to do."""
        self._open_file = open_file
        self._jobs: deque[Work] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._file = file
        self._opened_at = time.monotonic()
        self._look_at = self._opened_at + LEND_AFTER
        self._handed_over: int | None = None
        self._closing = False
        _WRITERS.add(self)

    @property
    def held(self) -> tuple[int, Counts] | None:
        """The slot that is open, and its counts as of the last commit; None while none is."""
        file = self._file
        return None if file is None else (file.slot, file.committed)

    def submit(self, job: Work) -> None:
        """Do the job soon, sharing a commit with others."""
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="perkamo-outbox", daemon=True)
                self._thread.start()
            self._changed.notify()

    def withdraw(self, job: Work) -> None:
        """Take back a job, unless it has begun already."""
        with self._changed, contextlib.suppress(ValueError):
            self._jobs.remove(job)

    def close(self, timeout: float | None = None) -> None:
        """Finish what was submitted, close the file and end the thread. It begins anew with the next job.

        Args:
            timeout: Seconds to wait for that; for ever when None.
        """
        with self._changed:
            thread = self._thread
            if thread is None:
                self._close_file()
                return
            self._closing = True
            self._changed.notify()
        thread.join(timeout)

    def _run(self) -> None:
        while (jobs := self._next_jobs()) is not None:
            if jobs:
                self._commit(jobs)
            if not self.keepers and time.monotonic() - self._opened_at > HAND_OVER_AFTER:
                self._close_file()
            elif time.monotonic() > self._look_at:
                self._lend_if_wanted()

    def _next_jobs(self) -> list[Work] | None:
        """Wait for jobs; an empty list is a chance to look around, None ends the thread."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    self._close_file()
                    self._thread, self._closing = None, False
                    return None
                if not self._changed.wait(None if self._file is None else HAND_OVER_AFTER):
                    if not self._may_hand_over():
                        return []
                    self._close_file()
            return [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_JOBS_PER_COMMIT))]

    def _may_hand_over(self) -> bool:
        return self._file is not None and (not self.keepers or not self._file.committed.pending)

    def _lend_if_wanted(self) -> None:
        """Let another process look into the file, and wait until it has; what is put meanwhile waits, too."""
        began = time.monotonic()
        self._look_at = began + LEND_AFTER
        file = self._file
        if file is None or not file.usable or not file.is_wanted():
            return
        self._close_file()
        self._handed_over = None  # it is wanted back
        while file.is_wanted():
            if time.monotonic() - began > LEND_SECONDS:
                self._look_at = time.monotonic() + LEND_PAUSE
                return
            time.sleep(0.002)

    def _commit(self, jobs: list[Work]) -> None:
        try:
            file = self._usable_file()
            with file.transaction():
                for job in jobs:
                    job.run(file)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it; the thread goes on
            if len(jobs) > 1 and isinstance(error, PerkamoOutboxFullError):
                for job in jobs:  # what is too big for the disk must not keep out what is not, nor what frees space
                    self._commit([job])
                return
            for job in jobs:
                job.fail(error)
        for job in jobs:
            job.finish()

    def _usable_file(self) -> SpoolFile:
        if self._file is None or not self._file.usable:
            self._file = None
            self._file = self._open_file(self._handed_over)
            self._opened_at = time.monotonic()
        return self._file

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        self._handed_over = file.slot if file.committed.pending else None
        try:
            file.close()
        except Exception:
            _LOGGER.exception("A file of the outbox was not closed in good order")  # whoever puts next must not hang


_WRITERS: "weakref.WeakSet[Writer]" = weakref.WeakSet()


def _close_writers() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for writer in list(_WRITERS):
        writer.close(timeout=max(0.0, deadline - time.monotonic()))


def _forget_writers_in_child() -> None:
    # The threads stayed in the parent; a child must not wait for them at its exit.
    _WRITERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writers_in_child)
atexit.register(_close_writers)
