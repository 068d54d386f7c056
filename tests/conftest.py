"""Fixtures that all tests share."""

import gc
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from perkamo import AsyncPerkamoClient, PerkamoError, RetryPolicy
from perkamo.sandbox import Sandbox
from tests.canary import CanaryHandler, find_canary

QUICK = RetryPolicy(base_delay=0.001, max_delay=0.002)
"""Three attempts as by default, without the waits between them."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in the background, and so all processes of the tests would begin.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Containers set it. Each of the many processes that tests start would compile the whole library anew.
    sys.dont_write_bytecode = False

OWN_VARIABLES = ("PERKAMO_TEST_", "PERKAMO_SIEGE_", "PERKAMO_SCREENSHOTS")
"""How the variables begin by which the tests themselves are set; see CONTRIBUTING."""

for name in list(os.environ):
    # A developer's own key, service or width of a terminal is not the tests'.
    if name == "COLUMNS" or (name.startswith("PERKAMO_") and not name.startswith(OWN_VARIABLES)):
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put among the long tests what is slow on trio, most of a sample, and what is for releases; give them time."""
    cases: Counter[str] = Counter()
    for item in items:
        is_slow_twin = item.get_closest_marker("slow_on_each_backend") and "[trio" in item.name
        test = item.nodeid.partition("[")[0]
        sample = item.get_closest_marker("sample")
        is_left_out = sample is not None and cases[test] % sample.args[0] > 0
        cases[test] += 1
        is_for_releases = item.get_closest_marker("release") is not None
        if is_slow_twin or is_left_out or is_for_releases:
            item.add_marker(pytest.mark.stress)
        if item.get_closest_marker("stress") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200 if is_for_releases else 240))


BACKENDS = os.environ.get("PERKAMO_TEST_BACKENDS", "asyncio,trio").split(",")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, bool]]:
    """Every async test runs once on asyncio and once on trio, unless the environment asks for others, as uvloop."""
    backend = request.param
    assert isinstance(backend, str)
    return ("asyncio", {"use_uvloop": True}) if backend == "uvloop" else backend


ROOT = Path(__file__).parent.parent
COMMANDS = tuple(str(ROOT / "tests" / name) for name in ("cli",))
"""Where commands run as processes, whose coverage counts: nothing else executes their modules."""


@pytest.fixture(autouse=True)
def _coverage_of_commands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("cov_source", default=None) and str(request.path).startswith(COMMANDS):
        monkeypatch.setenv("COVERAGE_PROCESS_START", str(ROOT / "pyproject.toml"))
        monkeypatch.setenv("COVERAGE_FILE", str(ROOT / ".coverage"))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keep the garbage collector from running at the bottom of a stack that is used up, where finalizers fail."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def _running_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """A small Perkamo on a real socket, as new; a fault that was armed and never fired fails the test."""
    _running_sandbox.renew()
    yield _running_sandbox
    _running_sandbox.faults.assert_all_fired()


@pytest.fixture
def client(sandbox: Sandbox) -> AsyncPerkamoClient:
    """An async client of the sandbox that retries without waiting; the test closes it with ``async with client``."""
    return AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK)


@pytest.fixture(scope="session", autouse=True)
def _nothing_shows_the_canary() -> Iterator[None]:
    """Search every log record and every error of ours, of the whole session, for key and e-mail."""
    handler = CanaryHandler()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    init = PerkamoError.__init__
    patch = pytest.MonkeyPatch()

    def init_and_look(self: PerkamoError, message: str, **state: object) -> None:
        if find_canary(message):
            handler.seen.append(f"{type(self).__name__}: {message!r}")
        init(self, message, **state)  # type: ignore[arg-type]  # handed on as it came

    patch.setattr(PerkamoError, "__init__", init_and_look)
    yield
    patch.undo()
    root.removeHandler(handler)
    root.setLevel(level)
    assert not handler.seen, f"{len(handler.seen)} places show the canary: {handler.seen[:5]}"
