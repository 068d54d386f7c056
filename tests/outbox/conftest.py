"""Fixtures of the outbox's tests: a sandbox, a client of it, an outbox, and a service that answers as a test likes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perkamo.outbox.outbox import Outbox
from tests.batching.conftest import client, sandbox
from tests.outbox.service import Service, running_service

__all__ = ["client", "sandbox"]


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox."""
    async with Outbox(tmp_path / "outbox") as outbox:
        yield outbox


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that accepts everything, until a test says otherwise."""
    with running_service() as service:
        yield service
