"""clock: real time where a test tool has stopped Python's clocks, and nobody who reads those past it."""

import importlib
import pkgutil
import re
from pathlib import Path

import anyio
import freezegun.api
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
    "sandbox/faults.py": "chance of a seeded Random that a test gives",
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

    assert found == set(ALLOWED)


LEFT_OUT = ("perkamo.__main__", "perkamo.integrations.django", "perkamo.integrations.celery")
"""What runs a command when it is imported, or wants an application that is set up."""


def test_no_module_has_a_clock_that_freezegun_replaces() -> None:
    """Catches a clock that is bound at import, but to a name of the module, which freezegun looks for by its value."""
    names = [name for _, name, _ in pkgutil.walk_packages(perkamo.__path__, "perkamo.", onerror=lambda _: None)]
    modules = [importlib.import_module(name) for name in names if not name.startswith(LEFT_OUT)]
    running = (freezegun.api.fake_monotonic, freezegun.api.fake_perf_counter)

    with freezegun.freeze_time("2020-01-01"):
        replaced = [(one.__name__, name) for one in modules for name, value in vars(one).items() if value in running]

    assert len(modules) > 100
    assert replaced == []
