"""Single events: rows 1 to 5 and 8, and the floor."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.bare import aiohttp_post, closed_later, has, httpx_post, socket_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, TRANSACTION, USER
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Operation, Way, in_flight, interleave
from benchmarks.server import SLOW_PREFIX, SLOW_SECONDS, CannedServer
from perkamo import AsyncPerkamoClient

_PATH: Final = "/v1/events"
_MANY: Final = 64
_BURST: Final = 256


def emit_of(runner: asyncio.Runner, stack: ExitStack, url: str) -> Operation:
    """Make a client of ours and return its whole ``emit``."""
    client = AsyncPerkamoClient(API_KEY, base_url=url)
    closed_later(runner, stack, client.aclose)
    return lambda: client.emit(USER, NAME, CONTEXT, transaction_id=TRANSACTION)


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure rows 1 to 5 and 8."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        rows = _processor_rows(runner, stack, server, effort)
        rows.append(_after_burst(runner, server, effort))
        rows.append(_slow_server(runner, stack, server, effort))
    return rows


def _processor_rows(runner: asyncio.Runner, stack: ExitStack, server: CannedServer, effort: Effort) -> list[Row]:
    def way(make: Callable[[], Operation], tasks: int, operations: int) -> Way:
        return in_flight(runner, make(), tasks, effort.times(operations))

    def ours() -> Operation:
        return emit_of(runner, stack, server.url)

    def bare() -> Operation:
        return httpx_post(runner, stack, server.url, _PATH, BODY)

    ways = {
        "emit 1": way(ours, 1, 400),
        "emit 16": way(ours, 16, 480),
        "emit 64": way(ours, _MANY, 640),
        "emit 256": way(ours, _BURST, 1024),
        "httpx 1": way(bare, 1, 400),
        "httpx 16": way(bare, 16, 480),
        "socket 1": way(lambda: socket_post(stack, server.url, _PATH, BODY), 1, 400),
        "socket 16": way(lambda: socket_post(stack, server.url, _PATH, BODY), 16, 480),
    }
    if has("aiohttp"):
        ways["aiohttp 16"] = way(lambda: aiohttp_post(runner, stack, server.url, _PATH, BODY), 16, 480)
    series = interleave(ways, effort, server)
    what = "`emit`, {} in flight / bare `httpx.AsyncClient.post`"
    flat = "`emit`, {} in flight / 1 in flight"
    rows = [
        ratio_row("1", what.format(1), series, "emit 1", "httpx 1", target=0.75, stretch=0.55),
        ratio_row("2", what.format(16), series, "emit 16", "httpx 16", target=0.35, stretch=0.25),
        ratio_row("3", flat.format(_MANY), series, "emit 64", "emit 1", target=1.05, stretch=0.95),
        ratio_row("3", flat.format(_BURST), series, "emit 256", "emit 1", target=1.25, stretch=1.05),
        ratio_row("-", "raw socket, 1 in flight / bare `httpx.AsyncClient.post`", series, "socket 1", "httpx 1"),
        ratio_row("-", "raw socket, 16 in flight / bare `httpx.AsyncClient.post`", series, "socket 16", "httpx 16"),
    ]
    eight = "`emit` / bare aiohttp post, 16 in flight"
    if has("aiohttp"):
        return [*rows, ratio_row("8", eight, series, "emit 16", "aiohttp 16", target=4.0, stretch=3.0)]
    return [*rows, Row("8", eight, target=4.0, stretch=3.0, absolute="aiohttp is not installed")]


def _after_burst(runner: asyncio.Runner, server: CannedServer, effort: Effort) -> Row:
    """Compare one client's calls, one after the other, before and after many at once; these three can't be shuffled."""
    pairs: list[tuple[float, float]] = []
    for _ in range(effort.rounds):
        with ExitStack() as stack:
            emit = emit_of(runner, stack, server.url)
            one_by_one = in_flight(runner, emit, 1, effort.times(400))
            one_by_one()
            before = one_by_one()
            in_flight(runner, emit, _BURST, _BURST)()
            pairs.append((before, one_by_one()))
    ratios = [after / before for before, after in pairs]
    made_of = " / ".join(
        f"{statistics.median(side) * 1e6:.0f}" for side in ([a for _, a in pairs], [b for b, _ in pairs])
    )
    return Row(
        "4",
        f"`emit`, 1 in flight, after {_BURST} at once / before",
        statistics.median(ratios),
        target=1.1,
        absolute=f"{made_of} µs",
        samples=ratios,
    )


def _slow_server(runner: asyncio.Runner, stack: ExitStack, server: CannedServer, effort: Effort) -> Row:
    """Compare throughput with what the server's own 20 ms allow."""
    url = server.url + SLOW_PREFIX

    def way(operation: Operation, each: int) -> Way:
        return in_flight(runner, operation, _MANY, _MANY * effort.times(each), time.perf_counter)

    ways = {
        "ours": way(emit_of(runner, stack, url), 20),
        "httpx": way(httpx_post(runner, stack, url, _PATH, BODY), 3),
    }
    if has("aiohttp"):
        ways["aiohttp"] = way(aiohttp_post(runner, stack, url, _PATH, BODY), 20)
    series = interleave(ways, effort, server)
    shares = {name: [SLOW_SECONDS / _MANY / cost for cost in costs] for name, costs in series.seconds.items()}
    others = ", ".join(f"{name} {statistics.median(shares[name]):.2f}" for name in ways if name != "ours")
    return Row(
        "5",
        f"wall, server that takes 20 ms: share of the ideal throughput, {_MANY} in flight",
        statistics.median(shares["ours"]),
        unit="",
        target=0.5,
        stretch=0.65,
        at_least=True,
        absolute=f"{1 / statistics.median(series.seconds['ours']):,.0f} requests/s; {others}",
        samples=shares["ours"],
        idle=series.idle["ours"],
    )
