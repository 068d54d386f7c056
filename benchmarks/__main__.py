"""Measures this library side by side with others and prints one Markdown table: ``python -m benchmarks``.

Only the ratios carry over to another machine. Peers come with the extra ``bench``; a row that needs one that is missing
says so.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from attrs import asdict

from benchmarks.results import Row, table
from benchmarks.rounds import Effort
from benchmarks.server import CannedServer

FAMILIES: Final[Mapping[str, Sequence[str]]] = {
    "single": ("1", "2", "3", "4", "5", "8"),
    "batches": ("6",),
    "sync": ("7",),
    "deliveries": ("9", "10", "11"),
    "streams": ("12",),
    "start": ("13", "14"),
    "peers": ("15",),
    "weight": ("16",),
    "wire": ("17", "18", "19", "20", "21"),
    "scale": ("22", "23"),
    "processes": ("24", "25", "26"),
    "postgres": ("27", "28", "29", "30", "31", "32", "33", "34", "35"),
    "pieces": ("-",),
    "sandboxes": ("-",),
    "page": ("-",),
}
"""The modules that measure, and the numbers of the targets that each is about."""

_PACKAGES: Final = (
    *("perkamo", "httpx", "httpcore", "anyio", "attrs", "cattrs", "uvloop"),
    *("aiohttp", "httpx-sse", "openai", "stripe", "posthog", "segment-analytics-python"),
)
_QUICK: Final = Effort(rounds=1, share=0.1)


def main() -> None:
    """Run the benchmarks that were asked for."""
    options = _options()
    effort = _QUICK if options.quick else Effort()
    rows: list[Row] = []
    begin = time.perf_counter()
    with CannedServer() as server:
        for name in options.only or FAMILIES:
            print(f"{time.perf_counter() - begin:4.0f} s  {name}", file=sys.stderr, flush=True)
            rows += _measure(name, server, effort)
    rows.sort(key=lambda row: int(row.number) if row.number.isdecimal() else 99)
    machine = _machine()
    print(f"{'; '.join(f'{name} {value}' for name, value in machine.items())}.\n")
    print(
        f"Medians of {effort.rounds} interleaved rounds; processor time of this process, unless a row says otherwise.\n"
    )
    print(table(rows))
    if options.save:
        found = {"machine": machine, "rounds": effort.rounds, "rows": [asdict(row) for row in rows]}
        options.save.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


class _Options(argparse.Namespace):
    quick: bool
    save: Path | None
    only: list[str] | None


def _options() -> _Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figures of every round as JSON")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="only these rows; may be repeated")
    return parser.parse_args(namespace=_Options())


def _measure(name: str, server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure one family; a module that is not there is a reason to skip, any other error is an error."""
    try:
        rows: Sequence[Row] = import_module(f"benchmarks.{name}").measure(server, effort)
    except ModuleNotFoundError as error:
        return [Row(number, name, absolute=f"there is no module {error.name}") for number in FAMILIES[name]]
    return rows


def _machine() -> dict[str, str]:
    """Say when, on what and with which versions the figures came about."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
