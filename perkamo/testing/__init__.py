"""The pytest plugin: fixtures over the sandbox, for tests of applications that use this library.

It is found by its entry point; nothing of it runs for a test that asks for none of the fixtures.

    def test_a_purchase_earns_points(perkamo_sandbox, perkamo_client):
        perkamo_client.emit("customer_123", "purchase.completed", {"amount": 12900})

        perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123", context={"amount": 12900})

``@pytest.mark.perkamo(program=…, now=…)`` on a test, a class or a module gives the sandbox another program and a time
at which its clock stands still. Of several marks, the closest that names an argument decides about it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from perkamo import AsyncPerkamoClient, PerkamoClient
    from perkamo.sandbox import Sandbox


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "perkamo(program=None, now=None): the program and the frozen time of perkamo_sandbox in this test"
    )


@pytest.fixture(scope="session")
def _perkamo_sandbox() -> "Iterator[Sandbox]":  # pyright: ignore[reportUnusedFunction] - pytest finds it by its name
    """One for each process, so that the workers of xdist share nothing."""
    from perkamo.sandbox import Sandbox  # noqa: PLC0415 - loaded by those who ask for it

    sandbox = Sandbox().start()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def perkamo_sandbox(request: pytest.FixtureRequest, _perkamo_sandbox: "Sandbox") -> "Iterator[Sandbox]":
    """A small Perkamo on a free port of this machine, as new for each test.

    A fault that was armed and never fired fails a test that passes otherwise.
    """
    from perkamo.testing.mark import renew  # noqa: PLC0415 - loaded by those who ask for it

    renew(_perkamo_sandbox, request.node)
    failed_before = request.session.testsfailed
    yield _perkamo_sandbox
    unfired = "; ".join(_perkamo_sandbox.faults.unfired)
    if unfired and request.session.testsfailed == failed_before:
        pytest.fail(f"armed faults never fired: {unfired}", pytrace=False)


@pytest.fixture
def perkamo_client(perkamo_sandbox: "Sandbox") -> "Iterator[PerkamoClient]":
    """A client of ``perkamo_sandbox`` that tries again as usual, without the random waits. It is closed for you."""
    from perkamo.testing.clients import sync_client  # noqa: PLC0415 - loaded by those who ask for it

    with sync_client(perkamo_sandbox) as client:
        yield client


@pytest.fixture
def async_perkamo_client(perkamo_sandbox: "Sandbox") -> "Iterator[AsyncPerkamoClient]":
    """An async client of ``perkamo_sandbox`` that tries again as usual, without the random waits.

    It is closed for you, and serves any event loop: of pytest-asyncio, anyio or trio, of a test client, of your own.
    """
    from perkamo.testing.clients import async_client  # noqa: PLC0415 - loaded by those who ask for it

    with async_client(perkamo_sandbox) as client:
        yield client
