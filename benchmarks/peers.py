"""Other clients doing the nearest thing, for the reader: row 15."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Final, TypeAlias

from benchmarks.bare import aiohttp_post, closed_later, has, httpx_post, httpx_sync_post
from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, PATH, USER, headers
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Operation, Way, in_flight, in_threads, interleave
from benchmarks.server import CannedServer
from benchmarks.single import emit_of

_PEERS: Final = ("aiohttp", "requests", "openai", "stripe", "posthog", "segment")
_Queue: TypeAlias = tuple[Callable[[], object], Callable[[], object]]


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 15, with those peers that are installed."""
    few = effort.times(200)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def alone(operation: Operation) -> Way:
            return in_flight(runner, operation, 1, few)

        url = server.url
        ways = {
            "httpx": alone(httpx_post(runner, stack, url, PATH, BODY)),
            "perkamo, `emit`": alone(emit_of(runner, stack, url)),
            "httpx, sync, bare": in_threads(httpx_sync_post(stack, url, PATH, BODY), 1, few),
        }
        if has("aiohttp"):
            ways["aiohttp, bare"] = alone(aiohttp_post(runner, stack, url, PATH, BODY))
        if has("requests"):
            ways["requests, sync, bare"] = in_threads(_requests(stack, url), 1, few)
        if has("openai"):
            ways["openai, one completion"] = alone(_openai(runner, stack, url))
        if has("stripe"):
            ways["stripe, one customer, sync"] = in_threads(_stripe(url), 1, few)
        if has("posthog"):
            ways["posthog, queued and flushed, for one event"] = _queued(*_posthog(stack, url), effort.times(500))
        if has("segment.analytics"):
            ways["segment, queued and flushed, for one event"] = _queued(*_segment(stack, url), effort.times(500))
        series = interleave(ways, effort, server)
    missing = ", ".join(name for name in _PEERS if not has(name))
    rows = [
        ratio_row("15", f"{name} / bare `httpx.AsyncClient.post`", series, name, "httpx")
        for name in ways
        if name != "httpx"
    ]
    return [*rows, Row("15", f"not installed: {missing}")] if missing else rows


def _requests(stack: ExitStack, url: str) -> Callable[[], object]:
    session = stack.enter_context(import_module("requests").Session())
    given = headers(PATH, BODY)
    return lambda: session.post(url + PATH, data=BODY, headers=given)


def _openai(runner: asyncio.Runner, stack: ExitStack, url: str) -> Operation:
    client = import_module("openai").AsyncOpenAI(api_key=API_KEY, base_url=f"{url}/v1", max_retries=0)
    closed_later(runner, stack, client.close)
    messages = [{"role": "user", "content": "Greet a customer who has just paid 12900 for order_1092, in one word."}]
    return lambda: client.chat.completions.create(model="gpt-4o-mini", messages=messages)


def _stripe(url: str) -> Callable[[], object]:
    client = import_module("stripe").StripeClient(API_KEY, base_addresses={"api": url}, max_network_retries=0)
    params = {"name": USER, "metadata": {"order_id": "order_1092", "amount": "12900", "currency": "CZK"}}
    return lambda: client.v1.customers.create(params=params)


def _posthog(stack: ExitStack, url: str) -> _Queue:
    client = import_module("posthog").Posthog("benchmark", host=url, flush_interval=0.05)
    stack.callback(client.shutdown)
    return (lambda: client.capture(NAME, distinct_id=USER, properties=dict(CONTEXT))), client.flush


def _segment(stack: ExitStack, url: str) -> _Queue:
    client = import_module("segment.analytics").Client("benchmark", host=url, upload_interval=0.05)
    stack.callback(client.shutdown)
    return (lambda: client.track(USER, NAME, dict(CONTEXT))), client.flush


def _queued(put: Callable[[], object], flush: Callable[[], object], count: int) -> Way:
    """Make a way out of a queue: so many events put, and all of them sent."""

    def many() -> None:
        for _ in range(count):
            put()
        flush()

    work = in_threads(many, 1, 1)
    return lambda: work() / count
