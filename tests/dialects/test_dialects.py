"""The whole surface under every dialect of the sandbox: reads never fail, deliveries settle, nothing is lost."""

import random
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from perkamo.batching import pacing
from perkamo.outbox import settling
from perkamo.sandbox import Sandbox
from perkamo.sandbox.dialect import CHOICES
from tests.dialects.surface import Report, poison, run_async, run_sync

ONE_AT_A_TIME = [{name: way} for name, ways in CHOICES.items() for way in ways]
FAILED_ITEMS = [{"batch.failed_item": way} for way in CHOICES["batch.failed_item"]]
MANY_AT_ONCE = [
    {name: ways[number % len(ways)] for name, ways in CHOICES.items()}
    for number in range(max(map(len, CHOICES.values())))
]
"""Every alternative in one of a few dialects, each of which is otherwise in everything."""


def combination(seed: int) -> dict[str, str]:
    """Choose an alternative for about every third fact."""
    chance = random.Random(seed)
    return {name: chance.choice(ways) for name, ways in CHOICES.items() if chance.random() < 0.35}


@pytest.fixture(autouse=True)
def _without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(settling, "FIRST_WAIT", 0.001)


def run(dialect: Mapping[str, str], backend: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run everything against a sandbox of this dialect; return what went wrong."""
    report = Report(dialect)
    with Sandbox(dialect=dialect) as sandbox:
        poison(sandbox)
        monkeypatch.setenv("PERKAMO_SECRET_KEY", sandbox.api_key)
        monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)
        anyio.run(run_async, sandbox, report, folder, backend=backend)
        run_sync(sandbox, report, folder)
    return report.wrong


@pytest.mark.parametrize("dialect", [{}, *FAILED_ITEMS, *MANY_AT_ONCE], ids=lambda dialect: str(dialect)[:60])
def test_everything_works_in_a_sample_of_dialects(
    dialect: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read fails, all good events count once, and poison ends as a failure; catches a check on an assumption."""
    assert run(dialect, "asyncio", tmp_path, monkeypatch) == []


@pytest.mark.release
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("dialect", ONE_AT_A_TIME, ids=str)
def test_everything_works_in_each_dialect(
    dialect: dict[str, str], backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for each alternative by itself."""
    assert run(dialect, backend, tmp_path, monkeypatch) == []


@pytest.mark.stress
@pytest.mark.parametrize(
    "seed", [seed if seed < 40 else pytest.param(seed, marks=pytest.mark.release) for seed in range(500)]
)
def test_everything_works_in_any_combination(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for five hundred combinations, on both backends in turn."""
    backend = "trio" if seed % 2 else "asyncio"

    assert run(combination(seed), backend, tmp_path, monkeypatch) == []


def test_a_planted_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that says no and counts as delivered is noticed; catches a run that can't fail."""
    monkeypatch.setattr("perkamo.models.EventFailure.accepted", True)

    wrong = run({}, "asyncio", tmp_path, monkeypatch)

    assert any("poison" in one for one in wrong)
    assert any("import: exit code 0" in one for one in wrong)


def test_there_are_at_least_thirty_things_to_choose() -> None:
    """Each with at least one alternative; catches a table that shrinks."""
    assert len(CHOICES) >= 30
    assert len(ONE_AT_A_TIME) >= 80
