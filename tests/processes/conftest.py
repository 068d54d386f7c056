"""Fixtures of the tests that start processes."""

from collections.abc import Iterator

import pytest

from tests.faults.rawserver import RawServer
from tests.processes.lines import Echo


@pytest.fixture
def echo() -> Echo:
    """What the line server does."""
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[str]:
    """Where a server listens that echoes lines."""
    with RawServer(echo) as server:
        yield server.base_url.rpartition(":")[2]
