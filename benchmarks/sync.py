"""The sync client: row 7."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.bare import httpx_sync_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, TRANSACTION, USER
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, in_threads, interleave
from benchmarks.server import CannedServer
from perkamo import PerkamoClient

_TARGETS: Final = {1: 1.4, 8: 1.0, 32: 0.8}


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 7 with 1, 8 and 32 threads."""
    with ExitStack() as stack:
        client = stack.enter_context(PerkamoClient(API_KEY, base_url=server.url))
        bare = httpx_sync_post(stack, server.url, "/v1/events", BODY)

        def emit() -> object:
            return client.emit(USER, NAME, CONTEXT, transaction_id=TRANSACTION)

        count = effort.times(480)
        ways = {f"emit {threads}": in_threads(emit, threads, count) for threads in _TARGETS}
        ways |= {f"httpx {threads}": in_threads(bare, threads, count) for threads in _TARGETS}
        series = interleave(ways, effort, server)
    what = "sync `emit`, threads: {} / bare `httpx.Client.post`"
    return [
        ratio_row("7", what.format(threads), series, f"emit {threads}", f"httpx {threads}", target=target)
        for threads, target in _TARGETS.items()
    ]
