"""Batches of 100: row 6."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.bare import closed_later, httpx_post
from benchmarks.request import API_KEY, batch_body, events
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, in_flight, interleave
from benchmarks.server import CannedServer
from perkamo import AsyncPerkamoClient


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 6; with mappings, with events that were built before, and for the reader with 16 in flight."""
    full = events(100)
    count = effort.times(60)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        client = AsyncPerkamoClient(API_KEY, base_url=server.url)
        closed_later(runner, stack, client.aclose)
        bare = httpx_post(runner, stack, server.url, "/v1/events:batch", batch_body(full))
        given = [
            {"user_id": one.user_id, "event": one.event, "transaction_id": one.transaction_id, "context": one.context}
            for one in full
        ]
        ways = {
            "mappings 1": in_flight(runner, lambda: client.batch(given), 1, count),
            "events 1": in_flight(runner, lambda: client.batch(full), 1, count),
            "httpx 1": in_flight(runner, bare, 1, count),
            "mappings 16": in_flight(runner, lambda: client.batch(given), 16, count),
            "httpx 16": in_flight(runner, bare, 16, count),
        }
        series = interleave(ways, effort, server)
    what = "`batch` of 100 {}, {} in flight / bare post of prepared bytes"
    return [
        ratio_row("6", what.format("mappings", 1), series, "mappings 1", "httpx 1", target=1.6, stretch=1.15),
        ratio_row(
            "6", what.format("`Event`s built before", 1), series, "events 1", "httpx 1", target=1.6, stretch=1.15
        ),
        ratio_row("6", what.format("mappings", 16), series, "mappings 16", "httpx 16"),
    ]
