"""What grows with the number of calls and of clients: rows 22 and 23."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, in_flight, interleave
from benchmarks.server import CannedServer
from benchmarks.single import emit_of
from perkamo import RetryPolicy

_FEW: Final = 16
_CROWDS: Final = {1000: None, 4000: 1.35}
_MEMORY: Final = """
import asyncio, gc, sys, tracemalloc
import httpx
from benchmarks.request import API_KEY
from perkamo import AsyncPerkamoClient

url, count = sys.argv[1], 100

def ours():
    client = AsyncPerkamoClient(API_KEY, base_url=url)
    return client, lambda: client.emit("u", "e")

def bare():
    client = httpx.AsyncClient()
    return client, lambda: client.post(url + "/v1/events", content=b"{}")

def size():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]

async def main():
    for make in ours, bare:
        client, call = make()
        await call()
        await client.aclose()
        tracemalloc.start()
        before = size()
        clients = [make() for _ in range(count)]
        each = size() - before
        client, call = make()
        await call()
        before = size()
        await asyncio.gather(*(call() for _ in range(count)))
        print(each // count, (size() - before) // (count - 1))
        tracemalloc.stop()
        for one in (client, *(one for one, _ in clients)):
            await one.aclose()

asyncio.run(main())
"""
"""Python's own memory; the sockets' buffers are the system's."""


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure calls in a crowd, and the bytes of an idle connection and of a client."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        # Whoever waits behind 3,900 others on a busy machine may wait longer than an attempt usually does.
        patient = {"timeout": None, "retry": RetryPolicy(attempt_timeout=600)}
        ways = {
            f"emit {count}": in_flight(runner, emit_of(runner, stack, server.url, **patient), count, effort.times(8000))
            for count in (_FEW, *_CROWDS)
        }
        series = interleave(ways, effort, server)
    what = f"`emit`, {{:,}} in flight on 100 connections / {_FEW} in flight"
    rows = [
        ratio_row("22", what.format(count), series, f"emit {count}", f"emit {_FEW}", target=target)
        for count, target in _CROWDS.items()
    ]
    return [*rows, *_memory(server)]


def _memory(server: CannedServer) -> list[Row]:
    run = subprocess.run([sys.executable, "-c", _MEMORY, server.url], check=True, capture_output=True, text=True)
    (client, connection), (bare_client, bare_connection) = (map(int, line.split()) for line in run.stdout.splitlines())
    figures = "{:,} / {:,} bytes"
    return [
        Row(
            "23",
            "memory of an idle connection / of one of bare httpx",
            connection / bare_connection,
            absolute=figures.format(connection, bare_connection),
        ),
        Row(
            "23",
            "memory of a client that has sent nothing / of a bare `httpx.AsyncClient`",
            client / bare_client,
            absolute=figures.format(client, bare_client),
        ),
    ]
