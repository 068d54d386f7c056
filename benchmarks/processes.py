"""The outbox beside others: rows 24 to 26."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final
from zlib import crc32

from benchmarks.request import BODY
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Series, Way, interleave
from benchmarks.server import CannedServer
from perkamo.outbox.directory import Directory
from perkamo.outbox.sqlite.database import Database
from perkamo.outbox.sqlite.tables import Tables
from perkamo.outbox.store import Settlement

_GROUPS: Final = {4: "24", 8: "25"}
_PUTTERS: Final = 16
_OTHERS: Final = 1_000_000
_HERE: Final = "key:here"
_SIZES: Final = (100,)
_PUTTING: Final = """
import asyncio, sys
from itertools import count
from benchmarks.request import CONTEXT, NAME, USER
from perkamo import Event, Outbox

name, directory, putters = sys.argv[1], sys.argv[2], int(sys.argv[3])
numbers = count()

async def put(outbox, times):
    for _ in range(times):
        await outbox.put(Event(USER, NAME, f"order_{name}_{next(numbers)}", CONTEXT))

async def main():
    outbox = Outbox(directory)
    await put(outbox, 1)
    print("ready", flush=True)
    for line in sys.stdin:
        await asyncio.gather(*(put(outbox, int(line)) for _ in range(putters)))
        print("done", flush=True)

asyncio.run(main())
"""


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure processes that put into one outbox, and an outbox with a million events that are not this client's."""
    del server  # nothing is sent
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return [*_puts(stack, directory, effort), *_behind(stack, directory, effort)]


def _puts(stack: ExitStack, directory: Path, effort: Effort) -> list[Row]:
    ways = {str(size): _group(stack, directory / f"of {size}", size, effort) for size in (1, *_GROUPS)}
    series = interleave(ways, effort)
    return [_puts_row(number, size, series) for size, number in _GROUPS.items()]


def _puts_row(number: str, size: int, series: Series) -> Row:
    ratios = series.ratios("1", str(size))
    return Row(
        number,
        f"wall: puts per second of {size} processes in one outbox, {_PUTTERS} putters each / of 1",
        median(ratios),
        target=1.0,
        at_least=True,
        absolute=" / ".join(f"{1 / median(series.seconds[name]):,.0f}" for name in (str(size), "1")),
        samples=ratios,
    )


def _group(stack: ExitStack, directory: Path, size: int, effort: Effort) -> Way:
    """Start processes that share an outbox; the way lets all of them put, and waits for the last one."""
    each = effort.times(400 // size)
    processes: list[subprocess.Popen[str]] = []

    def wait() -> None:
        for process in processes:
            if process.stdout is None or not process.stdout.readline():
                raise RuntimeError("A process that puts has died.")

    for number in range(size):
        command = [sys.executable, "-c", _PUTTING, str(number), str(directory), str(_PUTTERS)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(stack.enter_context(process))
    wait()

    def way() -> float:
        begin = time.perf_counter()
        for process in processes:
            if process.stdin is not None:
                print(each, file=process.stdin, flush=True)
        wait()
        return (time.perf_counter() - begin) / (each * size * _PUTTERS)

    return way


def _behind(stack: ExitStack, directory: Path, effort: Effort) -> list[Row]:
    others = {"foreign": "key:there", "dead": _HERE}
    ways: dict[str, Way] = {}
    for name in ("alone", *others):
        database = Database(Directory(directory / name))
        stack.callback(database.close)
        if name != "alone":
            with database.transaction() as tables:
                _fill(tables, effort.times(_OTHERS), others[name], is_dead=name == "dead")
        ways[name] = _one_cycle(database, effort.times(20))
    series = interleave(ways, effort)
    what = f"outbox: put, lease and settle 100 events behind {_OTHERS:,} {{}} ones / without"
    return [ratio_row("26", what.format(name), series, name, "alone", target=1.1, stretch=1.0) for name in others]


def _fill(tables: Tables, number: int, space: str, *, is_dead: bool) -> None:
    tables.connection.executemany(
        "INSERT INTO events(transaction_id, space, put_at, reason, checksum, body) VALUES (?, ?, 0, ?, ?, ?)",
        ((f"other_{n}", space, "no" if is_dead else None, crc32(BODY), BODY) for n in range(number)),
    )
    tables.count_rows()


def _one_cycle(database: Database, times: int) -> Way:
    numbers = count()

    def way() -> float:
        begin = time.process_time()
        for _ in range(times):
            with database.transaction() as tables:
                for _ in range(100):
                    tables.put(f"order_{next(numbers)}", _HERE, BODY, 1 << 30)
            with database.transaction() as tables:
                lease = tables.take([_HERE], _SIZES, 1 << 20, 60.0, lambda _: False)
            with database.transaction() as tables:
                tables.settle(lease, Settlement(_HERE, accepted=True, delivered=lease.events))
        return (time.process_time() - begin) / times

    return way
