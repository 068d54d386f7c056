"""Batches of 100: row 6."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks.bare import closed_later, httpx_post
from benchmarks.request import API_KEY, batch_body, events
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Operation, in_flight, interleave
from benchmarks.server import CannedServer
from perkamo import AsyncPerkamoClient, Event


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 6: with mappings, and with events that were built before."""
    full = events(100)
    given = [
        {"user_id": one.user_id, "event": one.event, "transaction_id": one.transaction_id, "context": one.context}
        for one in full
    ]
    count = effort.times(60)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def batch(what: Sequence[Event | Mapping[str, object]]) -> Operation:
            client = AsyncPerkamoClient(API_KEY, base_url=server.url)
            closed_later(runner, stack, client.aclose)
            return lambda: client.batch(what)

        def bare() -> Operation:
            return httpx_post(runner, stack, server.url, "/v1/events:batch", batch_body(full))

        # A client for each: stock httpx walks its connections in every call, so that one in flight paid for sixteen.
        ways = {
            "mappings 1": in_flight(runner, batch(given), 1, count),
            "events 1": in_flight(runner, batch(full), 1, count),
            "httpx 1": in_flight(runner, bare(), 1, count),
            "mappings 16": in_flight(runner, batch(given), 16, count),
            "events 16": in_flight(runner, batch(full), 16, count),
            "httpx 16": in_flight(runner, bare(), 16, count),
        }
        series = interleave(ways, effort, server)
    what = "`batch` of 100 {}, {} in flight / bare post of prepared bytes"
    built = "`Event`s built before"
    return [
        ratio_row("6", what.format("mappings", 1), series, "mappings 1", "httpx 1", target=1.7, stretch=1.5),
        ratio_row("6", what.format(built, 1), series, "events 1", "httpx 1", target=1.25, stretch=1.1),
        ratio_row("6", what.format("mappings", 16), series, "mappings 16", "httpx 16", target=1.1, stretch=0.95),
        ratio_row("6", what.format(built, 16), series, "events 16", "httpx 16"),
    ]
