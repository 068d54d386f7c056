"""Fixtures."""

from collections.abc import Iterator

import pytest

from perkamo.sync.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    """A portal of the test's own, which has not begun."""
    portal = Portal()
    yield portal
    portal.stop()
