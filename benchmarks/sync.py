"""The sync client: row 7."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.bare import httpx_sync_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, PATH, TRANSACTION, USER
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, in_threads, interleave
from benchmarks.server import CannedServer
from perkamo import PerkamoClient

_TARGETS: Final = {1: (0.9, 0.75), 8: (0.5, 0.4), 32: (0.5, 0.4)}


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 7 with 1, 8 and 32 threads."""
    with ExitStack() as stack:

        def ours() -> Callable[[], object]:
            client = stack.enter_context(PerkamoClient(API_KEY, base_url=server.url))
            return lambda: client.emit(USER, NAME, CONTEXT, transaction_id=TRANSACTION)

        def bare() -> Callable[[], object]:
            return httpx_sync_post(stack, server.url, PATH, BODY)

        count = effort.times(480)
        # A client for each, or the call of one thread would pay for the connections of 32.
        ways = {f"emit {threads}": in_threads(ours(), threads, count) for threads in _TARGETS}
        ways |= {f"httpx {threads}": in_threads(bare(), threads, count) for threads in _TARGETS}
        series = interleave(ways, effort, server)
    what = "sync `emit`, threads: {} / bare `httpx.Client.post`"
    return [
        ratio_row(
            "7", what.format(threads), series, f"emit {threads}", f"httpx {threads}", target=target, stretch=stretch
        )
        for threads, (target, stretch) in _TARGETS.items()
    ]
