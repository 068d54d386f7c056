"""Fixtures that every test room shares."""

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs once on asyncio and once on trio."""
    backend = request.param
    assert isinstance(backend, str)
    return backend
