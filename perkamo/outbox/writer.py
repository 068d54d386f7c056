"""One thread that commits for everybody who waits.

A commit costs one sync of the disk, whether it carries one event or hundreds: what arrives while a sync runs shares the
next one. Whoever asked is answered only after that sync. Asking takes no lock that could be held up: it appends to a
queue and wakes the thread, in whatever thread, greenlet or event loop it is done.
"""

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Final, Generic, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel

from perkamo.outbox.errors import PerkamoOutboxError, PerkamoOutboxFullError, PerkamoOutboxStorageError
from perkamo.runtime.event_loop import InLoop, Wakeup, caller_into_loop
from perkamo.runtime.forks import ForkGuard, notice_fork
from perkamo.runtime.threads import start_thread

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at what other processes did, while somebody watches."""
_LOOK_EVERY_UNWATCHED: Final = 1.0
_EXIT_SECONDS: Final = 2.0
_LOGGER: Final = logging.getLogger("perkamo.outbox")


class _Closable(Protocol):
    def close(self, seconds: float) -> None: ...


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

_in_writer: ContextVar[bool] = ContextVar("perkamo_in_writer", default=False)
"""Whether the code that asks runs in the thread of a writer, as a finalizer may. A sync call carries its context."""


class Source(Protocol[T_co]):
    """What the thread writes to."""

    @property
    def most_bytes(self) -> int:
        """How many bytes one transaction should write at most."""
        ...

    def transaction(self) -> AbstractContextManager[T_co]:
        """Make what is done inside durable at its end, or none of it."""
        ...

    def has_changed(self) -> bool:
        """Return whether others have written since the last look."""
        ...

    def close(self) -> None:
        """Let go of everything; it is opened again when it is used again."""
        ...


class Job(Generic[T]):
    """Something to do, and its result. It is either begun by the thread or withdrawn by whoever asked."""

    __slots__ = ("_action", "_claim", "error", "in_loop", "notify", "value", "weight")

    def __init__(
        self, action: Callable[[T], object], weight: int, notify: Callable[[], object], in_loop: InLoop | None = None
    ) -> None:
        """Prepare the job.

        Args:
            action: What to do; it is done again if the transaction that it shared failed.
            weight: About how many bytes it writes.
            notify: Called once, when the result is final.
            in_loop: Calls ``notify`` in an event loop; without it, the thread does.
        """
        self.weight: int = weight
        self.notify: Callable[[], object] = notify
        self.in_loop: InLoop | None = in_loop
        self.value: object = None
        self.error: Exception | None = None
        self._action = action
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """Begin or withdraw the job; says whether nobody did before."""
        return self._claim.acquire(blocking=False)

    def run(self, transaction: T) -> None:
        """Do it inside the transaction; a refusal of the outbox's own concerns this job alone."""
        self.error = None
        try:
            self.value = self._action(transaction)
        except PerkamoOutboxError as error:
            self.error = error


class Writer(Generic[T]):
    """The thread. It starts with the first job, and again after it was closed, or in a forked child."""

    def __init__(self, source: Source[T]) -> None:
        """Prepare; nothing runs before the first job."""
        self._source = source
        self._guard = ForkGuard(in_child=self._begin)
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._jobs: deque[Job[T]] = deque()
        self._watchers: set[Callable[[], None]] = set()
        self._awake = threading.Lock()
        self._starting = threading.Lock()
        self._ended = threading.Event()
        self._closers: list[Callable[[], object]] = []
        self._is_running = False
        self._is_closing = False

    async def do(self, action: Callable[[T], R], weight: int = 0, *, in_company: bool = False) -> R:
        """Do something in a transaction and wait until it is durable, in whatever event loop this is.

        Cancelled before it was begun, it is never done; cancelled later, it is.

        Args:
            action: What to do; it is done again if the transaction that it shared failed.
            weight: About how many bytes it writes.
            in_company: Begin a turn of the event loop later: what is asked for meanwhile shares its sync of the disk.

        Raises:
            PerkamoOutboxError: It was not done, or the error's ``outcome`` is ``"unknown"``.
        """
        _refuse_in_writer()
        done = anyio.Event()
        job = Job(action, weight, done.set, caller_into_loop())
        self._submit(job, at_once=not in_company)
        try:
            if in_company:
                await anyio.lowlevel.checkpoint()
                self._wake()
            await done.wait()
        except BaseException:
            job.claim()
            raise
        if job.error is not None:
            raise job.error
        return cast("R", job.value)

    @contextmanager
    def watch(self) -> Generator[Wakeup]:
        """Return what is woken by each change, of this process or another, for as long as the block lasts."""
        notice_fork()
        wakeup = Wakeup()
        self._watchers.add(wakeup.notify)
        try:
            yield wakeup
        finally:
            self._watchers.discard(wakeup.notify)

    def notify(self) -> None:
        """Wake those who watch."""
        for notify in tuple(self._watchers):
            notify()

    async def aclose(self) -> None:
        """Finish what was asked for and let go of everything."""
        _refuse_in_writer()
        done = anyio.Event()
        in_loop = caller_into_loop()
        with anyio.CancelScope(shield=True):
            if self._close(lambda: in_loop(done.set)):
                await done.wait()

    def close(self, seconds: float) -> None:
        """The same for the interpreter's exit, which waits no longer than this many seconds."""
        if self._close(lambda: None):
            self._ended.wait(seconds)

    def _submit(self, job: Job[T], *, at_once: bool = True) -> None:
        notice_fork()
        self._jobs.append(job)
        if not self._is_running:
            with self._starting:
                if not self._is_running:
                    self._start()
        if at_once:
            self._wake()

    def _start(self) -> None:
        self._ended.clear()
        self._is_running = True
        try:
            start_thread(self._run, "perkamo-outbox")
        except (RuntimeError, MemoryError) as error:
            self._is_running = False
            for job in self._take(None):
                job.error = PerkamoOutboxStorageError(
                    f"The outbox's thread can't be started: {error}. Nothing was kept; try again.", retryable=True
                )
                _notify([job])

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is awake
            self._awake.release()

    def _close(self, notify: Callable[[], object]) -> bool:
        """Ask the thread to end, and tell whether there is one."""
        notice_fork()
        with self._starting:
            if not self._is_running:
                return False
            self._closers.append(notify)
            self._is_closing = True
        self._wake()
        return True

    def _run(self) -> None:
        _in_writer.set(True)
        while True:
            seconds = LOOK_EVERY if self._watchers else _LOOK_EVERY_UNWATCHED
            was_woken = self._awake.acquire(timeout=0 if self._jobs else seconds)
            if self._jobs:
                self._work()
            elif self._is_closing:
                if self._end():
                    return  # whatever the flags say: another thread may have begun by now
            elif not was_woken:
                self._look()

    def _work(self) -> None:
        jobs: list[Job[T]] = []
        try:
            with self._source.transaction() as transaction:
                room = self._source.most_bytes
                while more := self._take(room):  # what arrives while these are done shares their sync, too
                    jobs += more
                    room -= sum(job.weight for job in more)
                    for job in more:
                        job.run(transaction)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it, and the thread continues
            jobs = jobs or self._take(None)
            if len(jobs) > 1 and isinstance(error, PerkamoOutboxFullError):
                self._work_alone(jobs)  # what is too big for the disk must not keep out what is not
                return
            for job in jobs:
                job.error = error
        _notify(jobs)

    def _work_alone(self, jobs: list[Job[T]]) -> None:
        for job in jobs:
            try:
                with self._source.transaction() as transaction:
                    job.run(transaction)
            except Exception as error:  # noqa: BLE001 - as above
                job.error = error
            _notify([job])

    def _take(self, most_bytes: int | None) -> list[Job[T]]:
        jobs: list[Job[T]] = []
        while self._jobs and (most_bytes is None or most_bytes > 0):
            job = self._jobs.popleft()
            if job.claim():
                jobs.append(job)
                most_bytes = None if most_bytes is None else most_bytes - job.weight
        return jobs

    def _look(self) -> None:
        try:
            has_changed = self._source.has_changed()
        except Exception:  # noqa: BLE001 - whoever watches will meet it and tell it; the thread continues
            has_changed = True
        if has_changed:
            self.notify()

    def _end(self) -> bool:
        """Let go of everything, and tell whether nothing was asked for meanwhile, so that this thread is to end."""
        try:
            self._source.close()
        except Exception as error:  # noqa: BLE001 - whoever waits for the end must not hang
            _LOGGER.error("The outbox was not closed cleanly: %s", error)  # noqa: TRY400 - it says it all
        with self._starting:
            self._is_running = False  # before the look: who asks after it starts another thread
            if self._jobs:
                self._is_running = True
                return False
            self._is_closing = False
            closers, self._closers = self._closers, []
            self._ended.set()
        for notify in closers:
            notify()
        return True


def _refuse_in_writer() -> None:
    """Raise instead of waiting for the thread that waits for this."""
    if _in_writer.get():
        raise PerkamoOutboxError(
            "The outbox was called by a finalizer that Python runs in the outbox's own thread. Nothing was kept; call "
            "it from the program itself."
        )


def _notify(jobs: Iterable[Job[T]]) -> None:
    """Tell that the results are final, with one call into each event loop: each such call wakes it, at a price."""
    by_loop: dict[InLoop | None, list[Callable[[], object]]] = {}
    for job in jobs:
        by_loop.setdefault(job.in_loop, []).append(job.notify)
    for in_loop, notifies in by_loop.items():
        if in_loop is None:
            _call_all(notifies)
        else:
            in_loop(partial(_call_all, notifies))


def _call_all(functions: Iterable[Callable[[], object]]) -> None:
    for function in functions:
        function()


_writers: "weakref.WeakSet[_Closable]" = weakref.WeakSet()


def _close_writers() -> None:
    for writer in list(_writers):
        writer.close(_EXIT_SECONDS)


atexit.register(_close_writers)
