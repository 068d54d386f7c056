"""Single events: rows 1 to 5 and 8, and the floor."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.bare import aiohttp_post, closed_later, has, httpx_post, socket_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, PATH, TRANSACTION, USER
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Operation, Way, in_flight, interleave
from benchmarks.server import SLOW_PREFIX, SLOW_SECONDS, CannedServer
from perkamo import AsyncPerkamoClient

_MANY: Final = 64
_BURST: Final = 256


def emit_of(runner: asyncio.Runner, stack: ExitStack, url: str, **options: Any) -> Operation:
    """Make a client of ours that has these options and return its whole ``emit``."""
    client = AsyncPerkamoClient(API_KEY, base_url=url, **options)
    closed_later(runner, stack, client.aclose)
    return lambda: client.emit(USER, NAME, CONTEXT, transaction_id=TRANSACTION)


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure rows 1 to 5 and 8."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        return [*_processor_rows(runner, stack, server, effort), _slow_server(runner, stack, server, effort)]


def _processor_rows(runner: asyncio.Runner, stack: ExitStack, server: CannedServer, effort: Effort) -> list[Row]:
    def way(make: Callable[[], Operation], tasks: int, operations: int) -> Way:
        return in_flight(runner, make(), tasks, effort.times(operations))

    def ours() -> Operation:
        return emit_of(runner, stack, server.url)

    def bare() -> Operation:
        return httpx_post(runner, stack, server.url, PATH, BODY)

    # A client for each, so that one in flight does not pay for the connections that many have left.
    ways = {
        "emit 1": way(ours, 1, 400),
        "emit 16": way(ours, 16, 480),
        f"emit {_MANY}": way(ours, _MANY, 640),
        f"emit {_BURST}": way(ours, _BURST, 1024),
        "emit after": _after_burst(runner, ours(), effort),
        "httpx 1": way(bare, 1, 400),
        "httpx 16": way(bare, 16, 480),
        "socket 1": way(lambda: socket_post(stack, server.url, PATH, BODY), 1, 400),
        "socket 16": way(lambda: socket_post(stack, server.url, PATH, BODY), 16, 480),
    }
    if has("aiohttp"):
        ways["aiohttp 16"] = way(lambda: aiohttp_post(runner, stack, server.url, PATH, BODY), 16, 480)
    series = interleave(ways, effort, server)
    what = "`emit`, {} in flight / bare `httpx.AsyncClient.post`"
    one = what + ", 1 in flight"  # what stock httpx costs with more varies by five from run to run
    rows = [
        ratio_row("1", what.format(1), series, "emit 1", "httpx 1", target=0.3, stretch=0.2),
        ratio_row("2", what.format(16), series, "emit 16", "httpx 16", target=0.13, stretch=0.1),
        ratio_row("3", one.format(_MANY), series, f"emit {_MANY}", "httpx 1", target=0.315, stretch=0.19),
        ratio_row("3", one.format(_BURST), series, f"emit {_BURST}", "httpx 1", target=0.375, stretch=0.21),
        ratio_row("4", one.format(f"1 (after {_BURST} at once)"), series, "emit after", "httpx 1", target=0.33),
        ratio_row("-", "raw socket, 1 in flight / bare `httpx.AsyncClient.post`", series, "socket 1", "httpx 1"),
        ratio_row("-", "raw socket, 16 in flight / bare `httpx.AsyncClient.post`", series, "socket 16", "httpx 16"),
    ]
    eight = "`emit` / bare aiohttp post, 16 in flight"
    if has("aiohttp"):
        return [*rows, ratio_row("8", eight, series, "emit 16", "aiohttp 16", target=1.4, stretch=1.15)]
    return [*rows, Row("8", eight, target=1.4, stretch=1.15, absolute="aiohttp is not installed")]


def _after_burst(runner: asyncio.Runner, emit: Operation, effort: Effort) -> Way:
    """Make calls one after the other, with the connections that many at once have left."""
    burst = in_flight(runner, emit, _BURST, _BURST)
    one_by_one = in_flight(runner, emit, 1, effort.times(400))

    def way() -> float:
        burst()
        return one_by_one()

    return way


def _slow_server(runner: asyncio.Runner, stack: ExitStack, server: CannedServer, effort: Effort) -> Row:
    """Compare throughput with what the server's own 20 ms allow."""
    url = server.url + SLOW_PREFIX

    def way(operation: Operation, each: int) -> Way:
        return in_flight(runner, operation, _MANY, _MANY * effort.times(each), time.perf_counter)

    ways = {
        "ours": way(emit_of(runner, stack, url), 20),
        "httpx": way(httpx_post(runner, stack, url, PATH, BODY), 3),
    }
    if has("aiohttp"):
        ways["aiohttp"] = way(aiohttp_post(runner, stack, url, PATH, BODY), 20)
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
