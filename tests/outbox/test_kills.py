"""Promise P1: what put acknowledged is delivered and counts once, though every process is killed again and again.

The judge goes by business ids, not by transaction ids: a client that makes new transaction ids would fool the latter.
With a hundred kills it is a long test, with a thousand one for releases.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from attrs import frozen

from perkamo.client import AsyncPerkamoClient
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.store import OutboxStats
from perkamo.sandbox import Lost, Reset, Sandbox, Status
from perkamo.sandbox.messages import Request, Response

MOST_EVENTS = 90_000  # the sandbox remembers 100,000
SCRIPT = Path(__file__).with_name("killing.py")
POINTS = [
    *("before-insert", "after-insert", "before-commit", "after-commit", "before-record"),
    *("before-lease-commit", "after-lease-commit", "before-send", "after-send", "after-response"),
    *("before-delete-commit", "after-delete-commit", "after-joining", "before-closing", "after-closing"),
    *("in-schema-creation", "before-schema-commit", "after-schema-commit"),
    *("before-carrying-is-done", "after-carrying-is-done"),
]


@frozen
class Verdict:
    """What the judge found.

    Attributes:
        acknowledged: Business ids whose put returned.
        lost: Of these, how many the service never applied.
        twice: How many business ids it applied more than once.
    """

    acknowledged: int
    lost: int
    twice: int


class Field:
    """A sandbox, a directory, and workers that are killed in it."""

    def __init__(self, path: Path, sandbox: Sandbox, puts: int) -> None:
        """Start the process that forks workers."""
        self.sandbox = sandbox
        self.directory = path / "outbox"
        self.ledger = path / "ledger"
        self.ledger.touch()
        self._pids: list[int] = []
        arguments = [self.directory, sandbox.base_url, sandbox.api_key, self.ledger, puts]
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        self._forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, name: str, mutant: str = "-", point: str = "-") -> int:
        """Start a worker and return its pid."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(f"{name} {mutant} {point}\n")
        self._forker.stdin.flush()
        pid = int(self._forker.stdout.readline())
        self._pids.append(pid)
        return pid

    def close(self) -> None:
        """End the process that forks workers, and the workers that a failed test left."""
        for pid in self._pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
        self._forker.communicate()

    def count_the_lost(self) -> tuple[Verdict, OutboxStats]:
        """Deliver what waits with a healthy service, and compare acknowledgements with what was applied."""
        self.sandbox.faults.clear()

        async def drain() -> OutboxStats:
            async with (
                AsyncPerkamoClient(self.sandbox.api_key, base_url=self.sandbox.base_url) as client,
                Outbox(self.directory) as outbox,
            ):
                return await outbox.drain(client)

        stats = anyio.run(drain)
        acknowledged = self.ledger.read_text().split()
        applied = {event.context["business"] for event in self.sandbox.events()}
        return Verdict(len(acknowledged), len(set(acknowledged) - applied), self.applied_twice()), stats

    def applied_twice(self) -> int:
        """Count the business ids that the service applied more than once."""
        applied = Counter(event.context["business"] for event in self.sandbox.events())
        return sum(1 for times in applied.values() if times > 1)


@contextmanager
def killing_field(path: Path, puts: int) -> Iterator[Field]:
    """Open a field and leave no worker behind."""
    with Sandbox() as sandbox:
        field = Field(path, sandbox, puts)
        try:
            yield field
        finally:
            field.close()


def gone(pid: int) -> bool:
    """Tell whether a process has ended; the forker reaps at once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.002)


def wait_until_gone(pid: int) -> None:
    """Wait for a process to end."""
    wait_for(lambda: gone(pid))


def kill_at_random(field: Field, kills: int, mutant: str = "-") -> None:
    """Keep three workers alive; kill each after 0.05 to 0.7 seconds, and start the next."""
    chance = random.Random(4001)
    field.sandbox.faults.rate(0.05, Reset(before="apply"), seed=1)
    field.sandbox.faults.rate(0.05, Status(503), seed=2)
    field.sandbox.faults.rate(0.05, Lost(), seed=3)
    workers: list[tuple[float, int]] = []
    for number in range(kills + 3):
        if len(workers) == 3:
            moment, pid = workers.pop(0)
            time.sleep(max(0.0, moment - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
        if number < kills:
            pid = field.start(f"{mutant}-{number}", mutant)
            workers.append((time.monotonic() + chance.uniform(0.05, 0.7), pid))
            workers.sort()
    for _, pid in workers:
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)


@pytest.mark.parametrize(
    "kills", [25, pytest.param(100, marks=pytest.mark.stress), pytest.param(1000, marks=pytest.mark.release)]
)
def test_nothing_is_lost_and_nothing_counts_twice_through_random_kills(kills: int, tmp_path: Path) -> None:
    """P1, P3: three processes on a bad network, killed at any moment; what was acknowledged counts exactly once."""
    with killing_field(tmp_path, MOST_EVENTS // kills) as field:
        kill_at_random(field, kills)

        verdict, stats = field.count_the_lost()

    assert verdict.acknowledged > kills
    assert (verdict.lost, verdict.twice) == (0, 0)
    assert stats.accepted == stats.delivered >= verdict.acknowledged
    assert (stats.pending, stats.dead, stats.set_aside) == (0, 0, 0)
    assert (stats.missing, stats.files) == (0, 1)


@pytest.mark.parametrize(
    ("mutant", "point", "fault", "harm"),
    [
        ("acknowledge_before_commit", "once-acknowledged", None, "lost"),
        ("delete_before_send", "before-send", None, "lost"),
        ("drop_on_503", "after-delete-commit", Status(503), "lost"),
        ("new_id_on_resend", "-", Lost(), "twice"),
    ],
)
def test_the_judge_catches_planted_bugs(
    mutant: str, point: str, fault: Status | Lost | None, harm: str, tmp_path: Path
) -> None:
    """The same with a bug planted, met at a named point, must find losses or doubles; or its silence means nothing."""
    with killing_field(tmp_path, 30) as field:
        if fault is not None:
            field.sandbox.faults.next("POST /v1/events:batch", fault, times=1)
        pid = field.start(mutant, mutant, point)
        if point == "-":
            wait_for(lambda: field.applied_twice() > 0 and field.ledger.stat().st_size > 0)
            os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)

        verdict, _ = field.count_the_lost()

    assert verdict.acknowledged > 0
    assert getattr(verdict, harm) > 0


@pytest.mark.sample(2)
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_loses_nothing(point: str, tmp_path: Path) -> None:
    """F76: twenty deaths at the same point, each worker taking over what the last one left."""
    with killing_field(tmp_path, 30) as field:
        victim: list[int] = []

        def kill_on_arrival(request: Request) -> Response | None:
            if point == "after-send" and victim and request.path.endswith("events:batch"):
                os.kill(victim[0], signal.SIGKILL)
            return None

        field.sandbox.add_handler(kill_on_arrival)
        for number in range(20):
            # A schema is made once; when that is done, the next ones die in what comes then.
            at = "before-send" if point == "after-schema-commit" and number else point
            pid = field.start(f"{point}-{number}", point=at)
            victim[:] = [pid]
            wait_until_gone(pid)
        victim.clear()

        verdict, stats = field.count_the_lost()

    assert (verdict.lost, verdict.twice) == (0, 0)
    assert stats.accepted == stats.delivered >= verdict.acknowledged
    assert (stats.dead, stats.set_aside, stats.missing, stats.files) == (0, 0, 0, 1)
