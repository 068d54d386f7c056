"""Everything at once: four processes put and relay, and at seeded moments whatever can happen to them happens.

They are killed, stopped and terminated; their clocks are set, their descriptors and their disk run out; their directory
is copied, emptied, and damaged while nobody runs; the service fails 18 of 100 requests and is broken by one event of
each kind. Everything that was acknowledged counts once, or is said to be missing where it was destroyed from outside.

``PERKAMO_SIEGE_SECONDS=3600`` besieges for an hour, ``PERKAMO_SIEGE_SEED`` chooses the moments.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import evolve, frozen

from perkamo import AsyncPerkamoClient, Event, Outbox, OutboxStats
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.disks import fill, small_disk
from tests.outbox.service import (
    CLOSE,
    HANG,
    LOST,
    POISONS,
    WAITING_POISONS,
    Answer,
    Sent,
    Service,
    running_service,
)

SEED = int(os.environ.get("PERKAMO_SIEGE_SEED", "1"))
SCRIPT = Path(__file__).with_name("sieging.py")
ROOT = Path(__file__).parent.parent.parent
WORKERS = 4
ON_THEIR_WAY = 2 * WORKERS * 100
"""Of so many events nobody may have noted yet that they were delivered when all workers are killed."""
FAULTS = [503, 500, 429, CLOSE, LOST, HANG]


class Fortress:
    """The besieged directory, its processes and its service."""

    def __init__(self, path: Path, service: Service, chance: random.Random, *, disk_is_small: bool) -> None:
        """Start the process that forks workers, and four of them."""
        self.path = path
        self.disk = path / "disk"
        self.disk_is_small = disk_is_small
        self.directory = self.disk / "outbox"
        self.service = service
        self.chance = chance
        self.ledger = path / "ledger"
        self.ends = path / "ends"
        self.ledger.touch()
        self.ends.touch()
        self.living: dict[str, int] = {}
        self.terminated: list[str] = []
        self.done: Counter[str] = Counter()
        self._numbers = 0
        arguments = [str(one) for one in (self.directory, service.url, self.ledger, self.ends)]
        self._forker = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(SCRIPT), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(WORKERS):
            self.start()

    def fork(self, what: str, name: str) -> int:
        """Start a process of the script's."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(f"{what} {name}\n")
        self._forker.stdin.flush()
        return int(self._forker.stdout.readline())

    def start(self) -> None:
        """Start a worker."""
        name = f"worker-{self._numbers}"
        self._numbers += 1
        self.living[name] = self.fork("work", name)

    def any(self) -> str:
        """Choose a worker."""
        return self.chance.choice(sorted(self.living))

    def end(self, name: str, how: signal.Signals) -> None:
        """End a worker and wait until it is gone."""
        pid = self.living.pop(name)
        os.kill(pid, how)
        wait_for(lambda: gone(pid), f"{name} ends after {how.name}")

    # What happens

    def kill(self) -> None:
        """The memory killer, or a power cut of one process."""
        self.end(self.any(), signal.SIGKILL)
        self.start()

    def terminate(self) -> None:
        """A deploy."""
        name = self.any()
        self.end(name, signal.SIGTERM)
        self.terminated.append(name)
        self.start()

    def stop(self) -> None:
        """A debugger, a frozen container."""
        pid = self.living[self.any()]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 0.8))
        os.kill(pid, signal.SIGCONT)

    def set_clock(self) -> None:
        """Somebody sets the clock."""
        os.kill(self.living[self.any()], signal.SIGUSR1)

    def starve(self) -> None:
        """No descriptors for a moment."""
        os.kill(self.living[self.any()], signal.SIGUSR2)

    def fill_disk(self) -> None:
        """Another program fills the disk, and gives it back."""
        hog = fill(self.disk)
        time.sleep(self.chance.uniform(0.1, 0.5))
        hog.unlink()

    def copy(self) -> None:
        """A backup is made in use, and somebody delivers from it."""
        place = self.path / f"copy-{self._numbers}-{self.done.total()}"
        with suppress(OSError, shutil.Error):
            shutil.copytree(self.directory, place)
        if place.exists():
            self.fork("drain", str(place))

    def empty(self) -> None:
        """A cleaner takes away some files, or all."""
        files = sorted(self.directory.iterdir())
        taken = files if self.chance.random() < 0.5 else [one for one in files if self.chance.random() < 0.5]
        for one in taken:
            one.unlink(missing_ok=True)
        self.wait_until_all_put()

    def damage(self) -> None:
        """All are killed, and something damages the files while nobody runs."""
        for name in sorted(self.living):
            self.end(name, signal.SIGKILL)
        for path in sorted(self.directory.glob("outbox-*")):
            how = self.chance.randrange(4)
            if how == 0:
                path.unlink()
            elif how == 1 and path.stat().st_size:
                os.truncate(path, self.chance.randrange(path.stat().st_size))
            elif how == 2:
                with path.open("r+b") as stream:
                    stream.seek(self.chance.randrange(1 + path.stat().st_size))
                    stream.write(self.chance.randbytes(5000))
        for _ in range(WORKERS):
            self.start()

    def wait_until_all_put(self) -> None:
        """Wait until every worker has noticed what was done, which it does with its next put at the latest."""
        before = Counter(line.rpartition("-")[0] for line in self.ledger.read_text().split())

        def all_have() -> bool:
            now = Counter(line.rpartition("-")[0] for line in self.ledger.read_text().split())
            return all(now[name] > before[name] + 1 for name in self.living)

        wait_for(all_have, "every worker puts")

    def close(self) -> None:
        """Leave no process behind."""
        for pid in self.living.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._forker.communicate()


def gone(pid: int) -> bool:
    """Tell whether a process has ended; the forker reaps at once."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def besiege(fortress: Fortress, seconds: float) -> None:
    """Let things happen, at moments that the seed chooses."""
    fortress.wait_until_all_put()
    weights: dict[Callable[[], None], int] = {
        fortress.kill: 6,
        fortress.terminate: 3,
        fortress.stop: 4,
        fortress.set_clock: 3,
        fortress.starve: 3,
        fortress.fill_disk: 2 if fortress.disk_is_small else 0,
        fortress.copy: 1,
        fortress.empty: 2,
        fortress.damage: 1,
    }
    actions = [action for action, weight in weights.items() if weight]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(fortress.done) < len(actions):
        missed = [action for action in actions if not fortress.done[action.__name__]]
        late = time.monotonic() > deadline - seconds / 3
        [action] = fortress.chance.choices(
            missed if late and missed else actions,
            [weights[action] for action in (missed if late and missed else actions)],
        )
        action()
        fortress.done[action.__name__] += 1
        time.sleep(fortress.chance.uniform(0.02, 0.25))
    for name in sorted(fortress.living):
        fortress.end(name, signal.SIGTERM)
        fortress.terminated.append(name)


async def deliver_the_rest(fortress: Fortress) -> OutboxStats:
    """Drain with a service that works, but for the poison events."""
    async with (
        AsyncPerkamoClient("sk_test_siege", base_url=fortress.service.url, timeout=0.5) as client,
        Outbox(fortress.directory) as outbox,
    ):
        by_clock(outbox, HardlyWaiting())
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(put_now_and_then, outbox)
                await outbox.drain(client)
                tasks.cancel_scope.cancel()
            return await outbox.drain(client)


async def put_now_and_then(outbox: Outbox) -> None:
    """Put an event that passes each second: where nothing passes, no relay can tell poison from an outage."""
    for number in count():
        await outbox.put(Event("customer", "purchase.completed", f"tx-late-{number}", {"business": f"late-{number}"}))
        await anyio.sleep(1)


@frozen
class Outcome:
    """What is known when a siege is over.

    Attributes:
        acknowledged: The business ids of all puts that returned.
        counted: How often the service applied each business id.
        terminated: The workers that were told to end.
        ended: The workers that ended as they should.
        damages: How often the files were damaged while nobody ran.
        stats: What the outbox says in the end.
    """

    acknowledged: AbstractSet[str]
    counted: Mapping[str, int]
    terminated: AbstractSet[str]
    ended: AbstractSet[str]
    damages: int
    stats: OutboxStats

    @property
    def lost(self) -> AbstractSet[str]:
        """What was acknowledged and could be delivered, and was not."""
        return {one for one in self.acknowledged if one not in self.counted and not one.startswith("poison")}


def complaints(outcome: Outcome) -> list[str]:
    """Return what must not be so."""
    stats = outcome.stats
    checks = {
        "a worker did not end": outcome.terminated == outcome.ended,
        "applied twice": all(times == 1 for times in outcome.counted.values()),
        "lost without a word": len(outcome.lost) <= stats.missing,
        "missing, and yet delivered": stats.missing <= len(outcome.lost) + outcome.damages * ON_THEIR_WAY,
        "a poison event passed": not any(one.startswith("poison") for one in outcome.counted),
        "the counts do not add up": stats.accepted == stats.delivered + stats.pending + stats.dead + stats.missing,
        "good events wait": stats.pending <= len(WAITING_POISONS),
        "good events are dead letters": stats.dead <= len(POISONS) - len(WAITING_POISONS),
    }
    return [what for what, is_so in checks.items() if not is_so]


def siege(path: Path, seconds: float, seed: int) -> None:
    """Besiege an outbox, and judge what happened to each event."""
    chance = random.Random(seed)
    faults = random.Random(seed + 1)
    is_besieged = True

    def answer(_: Sequence[Sent], __: str) -> Answer:
        return faults.choice(FAULTS) if is_besieged and faults.random() < 0.18 else None

    with running_service() as service, small_disk(path / "disk", 24) as is_small:
        service.answer, service.hang_seconds, service.retry_after = answer, 0.7, "0"
        service.poison(POISONS)
        fortress = Fortress(path, service, chance, disk_is_small=is_small)
        try:
            besiege(fortress, seconds)
            is_besieged = False
            stats = anyio.run(deliver_the_rest, fortress)
        finally:
            fortress.close()
    outcome = Outcome(
        acknowledged=frozenset(fortress.ledger.read_text().split()),
        counted=service.counted,
        terminated=frozenset(fortress.terminated),
        ended=frozenset(fortress.ends.read_text().split()),
        damages=fortress.done["damage"],
        stats=stats,
    )
    assert complaints(outcome) == [], f"{fortress.done}, {len(outcome.acknowledged)} acknowledged, {stats}"


GOOD = Outcome(
    acknowledged={"worker-1-1", "worker-1-2", "worker-1-3", "poison-400", "poison-502"},
    counted={"worker-1-1": 1, "worker-1-2": 1},
    terminated={"worker-1"},
    ended={"worker-1"},
    damages=1,
    stats=OutboxStats(accepted=5, delivered=2, pending=1, dead=1, missing=1, size=100, files=1, set_aside=0),
)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"ended": set[str]()}, "a worker did not end"),
        ({"counted": {"worker-1-1": 1, "worker-1-2": 2}}, "applied twice"),
        ({"counted": {"worker-1-1": 1}}, "lost without a word"),
        ({"damages": 0, "counted": {f"worker-1-{number}": 1 for number in (1, 2, 3)}}, "missing, and yet delivered"),
        ({"counted": {"worker-1-1": 1, "worker-1-2": 1, "poison-502": 1}}, "a poison event passed"),
        ({"stats": evolve(GOOD.stats, accepted=6)}, "the counts do not add up"),
        ({"stats": evolve(GOOD.stats, accepted=9, pending=5)}, "good events wait"),
        ({"stats": evolve(GOOD.stats, accepted=14, dead=10)}, "good events are dead letters"),
    ],
)
def test_the_judge_notices_each_broken_promise(changes: dict[str, Any], complaint: str | None) -> None:
    """And nothing where all is well; a control of what judges the siege."""
    assert complaints(evolve(GOOD, **changes)) == ([] if complaint is None else [complaint])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.timeout(60 + 5 * int(os.environ.get("PERKAMO_SIEGE_SECONDS", "8")))
def test_a_siege_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """All that was acknowledged counts once or is said to be missing, and every process ends when it is told to."""
    siege(tmp_path, float(os.environ.get("PERKAMO_SIEGE_SECONDS", "8")), SEED)


@pytest.mark.release
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [101, 102])
def test_longer_sieges(seed: int, tmp_path: Path) -> None:
    """The same at other moments."""
    siege(tmp_path, 45.0, seed)
