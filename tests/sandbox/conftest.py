"""A running sandbox for the tests of its fronts."""

from collections.abc import Iterator

import pytest

from perkamo.sandbox import Sandbox
from tests.sandbox.browser import Browser, chromium
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


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a process that ask for it."""
    with chromium(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def browser(window: Browser) -> Browser:
    """Its window, on an empty page, of the size of a second screen, with nothing in its console."""
    window.open("about:blank")
    window.color_scheme("light")
    window.size(1440, 1000)
    window.complaints()
    return window
