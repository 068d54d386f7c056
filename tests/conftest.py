"""Fixtures that every test room shares."""

from collections.abc import Iterator

import pytest

from perkamo import AsyncPerkamoClient, RetryPolicy
from perkamo.sandbox import Sandbox

QUICK = RetryPolicy(base_delay=0.001, max_delay=0.002)
"""Three attempts as by default, without the waits between them."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs once on asyncio and once on trio."""
    backend = request.param
    assert isinstance(backend, str)
    return backend


@pytest.fixture(scope="session")
def _running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """A small Perkamo on a real socket, as new; a fault that was armed and never fired fails the test."""
    _running_sandbox.reset()
    yield _running_sandbox
    _running_sandbox.faults.assert_all_fired()


@pytest.fixture
def client(sandbox: Sandbox) -> AsyncPerkamoClient:
    """An async client of the sandbox that retries without waiting; the test closes it with ``async with client``."""
    return AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK)
