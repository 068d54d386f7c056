"""How long the full page of the sandbox takes to its first view, and to a search; wall time in a real Chromium."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.results import Row
from benchmarks.rounds import Effort
from benchmarks.server import CannedServer
from perkamo.sandbox import Sandbox
from tests.sandbox.browser import Browser, chromium, missing
from tests.sandbox.crowd import fill

_UNTIL: Final = """
return new Promise((resolve) => {
  const look = setInterval(() => {
    if (document.querySelectorAll('#events li').length < arguments[0]) return;
    clearInterval(look);
    requestAnimationFrame(() => resolve(performance.now()));
  }, 2);
});
"""
"""Milliseconds from the navigation to a drawn frame with so many events in it."""

ROWS: Final = (
    ("wall: the page's first view, 100,000 events and 10,000 customers", "", 200, 1000.0),
    ("wall: the same with a text filter that looks through all of them", "?text=%22n%22:7,", 1, None),
)


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure from the navigation to the drawn list."""
    del server
    if missing():
        return [Row("-", what, absolute=missing()) for what, *_ in ROWS]
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox())
        fill(sandbox, effort.times(100_000))
        browser = stack.enter_context(chromium(Path(stack.enter_context(TemporaryDirectory()))))
        browser.size(1440, 1000)
        return [
            Row("-", what, median(samples), " ms", target=target, samples=samples)
            for what, query, count, target in ROWS
            for samples in [[_view(browser, sandbox, query, count) for _ in range(effort.rounds)]]
        ]


def _view(browser: Browser, sandbox: Sandbox, query: str, count: int) -> float:
    browser.open("about:blank")
    browser.open(f"{sandbox.base_url}/{query}")
    shown = browser.run(_UNTIL, count)
    assert isinstance(shown, int | float)
    return float(shown)
