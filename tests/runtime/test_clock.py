"""clock: real time where a test tool has stopped Python's clocks, and nobody who reads those past it."""

import re
from pathlib import Path

import anyio
import freezegun
import pytest
import time_machine

import perkamo
from perkamo.runtime.clock import Clock

PACKAGE = Path(perkamo.__file__).parent

REPLACED = re.compile(
    r"\btime\.(?:monotonic|perf_counter)(?:_ns)?\b"
    r"|\bfrom time import\b.*\b(?:monotonic|perf_counter)"
    r"|\brandom\.(?:random|uniform)\b"
)
"""Names that tools which freeze time replace, and chance that nobody can be given."""

ALLOWED = {
    "runtime/clock.py": "the one place that reads them",
    "outbox/sqlite/tables.py": "bound at import, where the system has no clock since boot",
    "webhooks/logs.py": "likewise",
    "integrations/opentelemetry/instruments.py": "bound at import",
    "cli/sandbox_replay.py": "bound at import, and paces a command for people to watch",
    "cli/checking/caller.py": "tells people how long an answer took",
    "sandbox/sandbox.py": "bound at import",
    "sandbox/faults.py": "chance of a seeded Random that a test gives",
    "sandbox/trials/every_fault.py": "a program for people to run, which tells how long it took",
}


def test_it_goes_on_where_time_is_frozen() -> None:
    """Under both tools; catches a name of the module, which freezegun replaces."""
    clock = Clock()

    with freezegun.freeze_time("2020-01-01"):
        began = clock.now()
        while clock.now() == began:
            pass
    with time_machine.travel(0, tick=False):
        began = clock.now()
        while clock.now() == began:
            pass

    assert clock.now() > began


@pytest.mark.anyio
async def test_it_waits_and_limits() -> None:
    """A limit ends what takes longer, None never does; catches a scope without a deadline."""
    clock = Clock()

    with clock.limit(0.01) as scope:
        await anyio.sleep_forever()
    with clock.limit(None) as endless:
        await clock.sleep(0.01)

    assert scope.cancelled_caught
    assert not endless.cancelled_caught
    assert 0 <= clock.randomness() < 1


def test_nothing_else_reads_a_clock_that_a_tool_replaces() -> None:
    """Deadlines, idle times and paces go by a Clock; catches one that stands still in somebody's frozen test."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if REPLACED.search(re.sub(r'"""[\s\S]*?"""', "", path.read_text("utf-8")))
    }

    assert {name for name in found if name not in ALLOWED} == set()
