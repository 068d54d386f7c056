"""A running sandbox for the tests of its fronts."""

from collections.abc import Iterator

import pytest

from perkamo.sandbox import Sandbox
from tests.sandbox.wire import Sender


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox on a free port, stopped afterwards."""
    sandbox = Sandbox().start()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def wire(sandbox: Sandbox) -> Iterator[Sender]:
    """A keep-alive connection to it, by the standard library alone."""
    wire = Sender(sandbox)
    yield wire
    wire.close()
