"""Batcher and outbox: rows 9 to 11."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.bare import closed_later, httpx_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, PATH, USER, events
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Way, in_flight, interleave
from benchmarks.server import CannedServer
from perkamo import AsyncPerkamoClient, Event
from perkamo.batching.batcher import Batcher
from perkamo.outbox.outbox import Outbox

_CALLERS: Final = 256
_PUTTERS: Final = 64


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure rows 9 to 11. The outbox keeps its files where temporary files are: the disk there is part of row 10."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = AsyncPerkamoClient(API_KEY, base_url=server.url)
        closed_later(runner, stack, client.aclose)
        return [
            _batcher(runner, stack, client, server, effort),
            _puts(runner, directory, effort),
            _relay(runner, client, directory, server, effort),
        ]


def _batcher(
    runner: asyncio.Runner, stack: ExitStack, client: AsyncPerkamoClient, server: CannedServer, effort: Effort
) -> Row:
    each = effort.times(20)
    numbers = count()

    async def caller(batcher: Batcher) -> None:
        for _ in range(each):
            await batcher.emit(USER, NAME, CONTEXT, transaction_id=f"order_{next(numbers)}")

    async def together() -> None:
        async with Batcher(client) as batcher, asyncio.TaskGroup() as tasks:
            for _ in range(_CALLERS):
                tasks.create_task(caller(batcher))

    ways = {
        "batcher": _of_many(runner, together, _CALLERS * each),
        "httpx": in_flight(runner, httpx_post(runner, stack, server.url, PATH, BODY), 1, effort.times(300)),
    }
    series = interleave(ways, effort, server)
    what = f"`Batcher.emit`, {_CALLERS} callers, for one event / bare `httpx.AsyncClient.post` of one"
    return ratio_row("9", what, series, "batcher", "httpx", target=0.06, stretch=0.03)


def _puts(runner: asyncio.Runner, directory: Path, effort: Effort) -> Row:
    outbox = Outbox(directory / "puts")
    numbers = count()

    async def put() -> None:
        await outbox.put(Event(USER, NAME, f"order_{next(numbers)}", CONTEXT))

    ways = {
        "one": in_flight(runner, put, 1, effort.times(100), time.perf_counter),
        "many": in_flight(runner, put, _PUTTERS, _PUTTERS * effort.times(40), time.perf_counter),
    }
    series = interleave(ways, effort)
    runner.run(outbox.aclose())
    ratios = series.ratios("one", "many")
    return Row(
        "10",
        f"wall: outbox puts per second, {_PUTTERS} putters / 1, every acknowledgement fsynced",
        median(ratios),
        target=10,
        at_least=True,
        absolute=" / ".join(f"{1 / median(series.seconds[name]):,.0f}" for name in ("many", "one")),
        samples=ratios,
    )


def _relay(
    runner: asyncio.Runner, client: AsyncPerkamoClient, directory: Path, server: CannedServer, effort: Effort
) -> Row:
    full = events(effort.times(4000))
    numbers = count()

    def relay() -> float:
        outbox = Outbox(directory / f"relay {next(numbers)}")

        async def fill() -> None:
            await asyncio.gather(*(outbox.put(event) for event in full))

        async def drain() -> None:
            stats = await outbox.drain(client)
            assert stats.delivered == len(full)

        runner.run(fill())
        cost = _of_many(runner, drain, len(full))()
        runner.run(outbox.aclose())
        return cost

    series = interleave({"relay": relay}, effort, server)
    rates = [1 / seconds for seconds in series.seconds["relay"]]
    return Row(
        "11",
        "outbox relay, events per second of one core",
        median(rates),
        unit="",
        target=30_000,
        stretch=40_000,
        at_least=True,
        absolute=f"{median(series.seconds['relay']) * 1e6:.0f} µs an event",
        samples=rates,
        idle=series.idle["relay"],
    )


def _of_many(runner: asyncio.Runner, work: Callable[[], Awaitable[None]], operations: int) -> Way:
    """Make a way out of one piece of work that makes so many operations."""

    async def whole() -> None:
        await work()

    def way() -> float:
        begin = time.process_time()
        runner.run(whole())
        return (time.process_time() - begin) / operations

    return way
