"""Fixtures of the delivery tests: a sandbox, a client of it, and an outbox."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perkamo.client import AsyncPerkamoClient
from perkamo.delivery.outbox import Outbox
from perkamo.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A small Perkamo; every armed fault must have fired by the end."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncPerkamoClient]:
    """A client of the sandbox."""
    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        yield client


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An empty outbox."""
    async with Outbox(tmp_path / "outbox") as outbox:
        yield outbox
