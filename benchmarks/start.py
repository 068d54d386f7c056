"""Imports and the making of clients, each in a fresh interpreter: rows 13 and 14."""

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from attrs import evolve

from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Way, interleave
from benchmarks.server import CannedServer

_TIMED: Final = """
import pathlib, sys, time
sys.modules["click"] = None  # where it is installed, as with uvicorn, httpx would load the command line of its own
begin = time.process_time()
{}
seconds = time.process_time() - begin
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
print(seconds, *(line.split()[1] for line in lines if line.startswith("VmRSS:")))
"""
_CLIENTS: Final = """
import time
from perkamo import AsyncPerkamoClient
from perkamo.transport.tls import shared_context
for _ in range(2):
    begin = time.process_time()
    client = AsyncPerkamoClient("sk_test_benchmark")
    shared_context()
    print(time.process_time() - begin)
"""
"""The TLS context is made with the first connection; it is counted here, so that putting it off wins nothing."""


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure rows 13 and 14."""
    del server
    return [*_imports(effort), _clients(effort)]


def _imports(effort: Effort) -> list[Row]:
    memory: dict[str, int] = {}

    def way(name: str, statement: str) -> Way:
        def run() -> float:
            seconds, *kilobytes = _python(_TIMED.format(statement)).split()
            if kilobytes:
                memory[name] = int(kilobytes[0])
            return float(seconds)

        return run

    # The first round, which does not count, compiles what is not compiled yet: ours, where it is installed as a link.
    ways = {
        "perkamo": way("perkamo", "import perkamo"),
        "client": way("client", "from perkamo import AsyncPerkamoClient"),
        "httpx": way("httpx", "import httpx"),
    }
    series = interleave(ways, effort)
    client = "`from perkamo import AsyncPerkamoClient` / `import httpx`"
    rows = [
        ratio_row("13", "`import perkamo` / `import httpx`", series, "perkamo", "httpx", target=0.8, stretch=0.5),
        ratio_row("13", client, series, "client", "httpx", target=2.0, stretch=1.7),
    ]
    note = ", ".join(f"{name} {memory[name] / 1024:.0f} MiB" for name in ways if name in memory)
    return [evolve(row, absolute=f"{row.absolute}; {note}") for row in rows]


def _clients(effort: Effort) -> Row:
    pairs = [[float(line) for line in _python(_CLIENTS).split()] for _ in range(effort.rounds)]
    ratios = [second / first for first, second in pairs]
    first, second = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    return Row(
        "14",
        "making the second client / the first, TLS context included",
        statistics.median(ratios),
        target=0.02,
        absolute=f"{second:.2f} / {first:.1f} ms",
        samples=ratios,
    )


def _python(program: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=env).stdout
