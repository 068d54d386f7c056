"""Fixtures of the outbox's tests: a sandbox, a client of it, and an outbox."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perkamo.outbox.outbox import Outbox
from tests.batching.conftest import client, sandbox

__all__ = ["client", "sandbox"]


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox."""
    async with Outbox(tmp_path / "outbox") as outbox:
        yield outbox
