"""The pytest plugin: fixtures over the sandbox, for tests of applications that use this library.

pytest finds it by its entry point. It does nothing for a test that does not ask for its fixtures.

    def test_a_purchase_earns_points(perkamo_sandbox, perkamo_client):
        perkamo_client.emit("customer_123", "purchase.completed", {"amount": 12900})

        perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123", context={"amount": 12900})

``@pytest.mark.perkamo(program=…, now=…)`` on a test, a class or a module gives the sandbox another program, and a time
at which its clock is stopped. If several marks name the same argument, the closest one counts.

``@pytest.mark.perkamo_faults`` runs a test once without faults, then once more for each of its requests and each fault.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final, cast

import pytest

if TYPE_CHECKING:
    from perkamo import AsyncPerkamoClient, PerkamoClient
    from perkamo.sandbox import Sandbox

_PASSED: Final = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "perkamo(program=None, now=None): the program and the frozen time of perkamo_sandbox in this test"
    )
    config.addinivalue_line(
        "markers",
        "perkamo_faults(allow=(), depth=1, seed=0, limit=None): run the test once without faults, then once for each "
        "of its requests and each fault; every run must end the same",
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs a single pair of a request and a fault."""
    parser.getgroup("perkamo").addoption(
        "--perkamo-fault",
        action="append",
        default=[],
        metavar="PAIR",
        help="in tests with the mark perkamo_faults, run only this pair of a request and a fault, as failures show it",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Make all runs of a test with the mark."""
    if item.get_closest_marker("perkamo_faults") is None:
        return None
    from perkamo.testing.every_fault import run_all  # noqa: PLC0415 - imported only if it is used

    run_all(cast("pytest.Function", item), nextitem)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Inject the fault into a run of a test with the mark."""
    if item.get_closest_marker("perkamo_faults") is None:
        return (yield)
    from perkamo.testing.every_fault import disturbed  # noqa: PLC0415 - imported only if it is used

    with disturbed(item):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the faults that each test with the mark tried."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    lines = [
        f"{report.nodeid}: {summary}"
        for report in reports
        for name, summary in getattr(report, "user_properties", ())
        if name == "perkamo_faults"
    ]
    if lines:
        terminalreporter.section("perkamo faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record whether the test passed: a fault that never fired fails only a test that passed otherwise."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture(scope="session")
def _perkamo_sandbox() -> "Iterator[Sandbox]":  # pyright: ignore[reportUnusedFunction] - pytest finds it by its name
    """One sandbox for each process, so that the workers of xdist share nothing."""
    from perkamo.sandbox import Sandbox  # noqa: PLC0415 - imported only if it is used

    sandbox = Sandbox().start()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def perkamo_sandbox(request: pytest.FixtureRequest, _perkamo_sandbox: "Sandbox") -> "Iterator[Sandbox]":
    """A local Perkamo service on a free port, reset for each test.

    A fault that was armed and never fired fails a test that passes otherwise.
    """
    from perkamo.testing.mark import renew  # noqa: PLC0415 - imported only if it is used

    renew(_perkamo_sandbox, request.node)
    request.node.stash[_PASSED] = False
    yield _perkamo_sandbox
    if request.node.get_closest_marker("perkamo_faults") is not None:
        from perkamo.testing.every_fault import end_trial  # noqa: PLC0415 - imported only if it is used

        end_trial(request.node, _perkamo_sandbox)
    unfired = "; ".join(_perkamo_sandbox.faults.unfired)
    if unfired and request.node.stash[_PASSED]:
        pytest.fail(f"armed faults never fired: {unfired}", pytrace=False)


@pytest.fixture
def perkamo_env(perkamo_sandbox: "Sandbox", monkeypatch: pytest.MonkeyPatch) -> "Sandbox":
    """``perkamo_sandbox``, with its address and keys in the environment, for code that builds its own client."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", perkamo_sandbox.api_key)
    monkeypatch.setenv("PERKAMO_BROWSER_KEY", perkamo_sandbox.browser_key)
    monkeypatch.setenv("PERKAMO_BASE_URL", perkamo_sandbox.base_url)
    return perkamo_sandbox


@pytest.fixture
def perkamo_client(request: pytest.FixtureRequest, perkamo_sandbox: "Sandbox") -> "Iterator[PerkamoClient]":
    """A client of ``perkamo_sandbox`` that retries as usual, but without random waits. It is closed for you."""
    from perkamo.testing.clients import sync_client  # noqa: PLC0415 - imported only if it is used

    with sync_client(perkamo_sandbox, late=_is_late(request)) as client:
        yield client


@pytest.fixture
def async_perkamo_client(request: pytest.FixtureRequest, perkamo_sandbox: "Sandbox") -> "Iterator[AsyncPerkamoClient]":
    """An async client of ``perkamo_sandbox`` that retries as usual, but without random waits.

    It is closed for you. It works in any event loop: that of pytest-asyncio, anyio or trio, of a test client, your own.
    """
    from perkamo.testing.clients import async_client  # noqa: PLC0415 - imported only if it is used

    with async_client(perkamo_sandbox, late=_is_late(request)) as client:
        yield client


def _is_late(request: pytest.FixtureRequest) -> bool:
    if request.node.get_closest_marker("perkamo_faults") is None:
        return False
    from perkamo.testing.every_fault import is_late  # noqa: PLC0415 - imported only if it is used

    return is_late(request.node)
