"""Fixtures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.outbox.sqlite.box import Box
from tests.outbox.sqlite.files import Other


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An empty outbox."""
    box = Box(tmp_path / "outbox")
    yield box
    box.database.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Other]]:
    """Start other processes, and leave none behind."""
    others: list[Other] = []

    def start() -> Other:
        others.append(Other(tmp_path / "outbox"))
        return others[-1]

    yield start
    for other in others:
        other.kill()
