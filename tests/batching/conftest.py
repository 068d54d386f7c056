"""Fixtures of those tests that deliver events: a sandbox, and a client of it that is closed at the end."""

from collections.abc import AsyncIterator, Iterator

import pytest

from perkamo.client import AsyncPerkamoClient
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
