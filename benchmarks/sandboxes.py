"""What users' tests pay: the pytest plugin's import, the sandbox's start, its reset, and a call; milliseconds."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks.bare import closed_later
from benchmarks.request import CONTEXT, NAME, USER
from benchmarks.results import Row
from benchmarks.rounds import Effort, Way, in_flight, interleave
from benchmarks.server import CannedServer
from perkamo import AsyncPerkamoClient
from perkamo.sandbox import Sandbox

_PLUGIN: Final = """
import time, pytest
begin = time.process_time()
import perkamo.testing
print(time.process_time() - begin)
"""
"""pytest is loaded before, as it is when it looks for plugins."""


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure how long the plugin's import, a start, a reset after twenty events, and one emit take."""
    del server
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox())
        runner = stack.enter_context(asyncio.Runner())
        client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url)
        closed_later(runner, stack, client.aclose)
        call = in_flight(runner, lambda: client.emit(USER, NAME, CONTEXT), 1, effort.times(400), time.perf_counter)
        ways = {
            "plugin": _import_plugin,
            "start": _timed(lambda: Sandbox().start(), after=Sandbox.stop),
            "reset": _timed(sandbox.reset, before=lambda: [runner.run(_emit(client)) for _ in range(20)]),
            "call": call,
        }
        series = interleave(ways, effort)
    rows = (
        ("plugin", "processor: the pytest plugin is imported, beside pytest", 20.0),
        ("start", "wall: a sandbox starts, after import", 100.0),
        ("reset", "wall: a sandbox is reset after 20 events", 5.0),
        ("call", "wall: `emit` to a sandbox in this process", 1.5),
    )
    return [
        Row(
            "-",
            what,
            median(series.seconds[name]) * 1e3,
            " ms",
            target=target,
            samples=[seconds * 1e3 for seconds in series.seconds[name]],
        )
        for name, what, target in rows
    ]


def _import_plugin() -> float:
    return float(subprocess.run([sys.executable, "-c", _PLUGIN], check=True, capture_output=True, text=True).stdout)


async def _emit(client: AsyncPerkamoClient) -> None:
    await client.emit(USER, NAME, CONTEXT)


def _timed(
    operation: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[Sandbox], object] | None = None,
) -> Way:
    def way() -> float:
        before()
        begin = time.perf_counter()
        result = operation()
        seconds = time.perf_counter() - begin
        if after is not None and isinstance(result, Sandbox):
            after(result)
        return seconds

    return way
