"""Single events over other wires than plain HTTP on warm connections: rows 17 to 21."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from benchmarks.bare import has, httpx_post
from benchmarks.request import BODY, PATH
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, Way, in_flight, interleave
from benchmarks.server import CHUNKED_PREFIX, ONCE_PREFIX, CannedServer
from benchmarks.single import emit_of

_IN_FLIGHT: Final = (1, 16)
_OF: Final = " in flight / bare `httpx.AsyncClient.post`"


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure TLS, chunked answers, uvloop, a proxy, and connections that serve one call each."""
    rows = [*_tls(effort), *_uvloop(server, effort)]
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        both = _Both(runner, stack, effort)
        ways = both.ways("chunked", server.url + CHUNKED_PREFIX)
        ways |= both.ways(
            "proxy",
            "http://perkamo.test",
            ours={"proxy": server.url, "allow_insecure_http": True},
            bare={"proxy": server.url},
        )
        ways |= both.ways("once", server.url + ONCE_PREFIX)
        series = interleave(ways, effort, server)
    for count, target, stretch in ((1, None, None), (16, 0.14, 0.11)):
        what = f"chunked answers: `emit`, {count}{_OF}"
        rows.append(
            ratio_row("18", what, series, f"chunked {count}", f"httpx chunked {count}", target=target, stretch=stretch)
        )
    for count in _IN_FLIGHT:
        what = f"through an HTTP proxy, plain: `emit`, {count}{_OF}"
        rows.append(ratio_row("20", what, series, f"proxy {count}", f"httpx proxy {count}"))
    for count in _IN_FLIGHT:
        what = f"a fresh connection for each call: `emit`, {count}{_OF}"
        rows.append(ratio_row("21", what, series, f"once {count}", f"httpx once {count}"))
    return rows


def _tls(effort: Effort) -> list[Row]:
    what = f"TLS: `emit`, {{}}{_OF}"
    targets = {1: (0.3, 0.23), 16: (0.15, 0.11)}
    if not has("trustme"):
        return [Row("17", what.format(1), absolute="trustme is not installed")]
    with ExitStack() as stack:
        certificate = stack.enter_context(_certificate())
        server = stack.enter_context(CannedServer(certificate))
        runner = stack.enter_context(asyncio.Runner())
        series = interleave(_Both(runner, stack, effort).ways("tls", server.url), effort, server)
    return [
        ratio_row("17", what.format(count), series, f"tls {count}", f"httpx tls {count}", target=target, stretch=best)
        for count, (target, best) in targets.items()
    ]


@contextmanager
def _certificate() -> Iterator[Path]:
    """Make a certificate for localhost that the clients of this process trust."""
    authority = import_module("trustme").CA()
    own = authority.issue_cert("localhost")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "localhost.pem")
        path.write_bytes(own.private_key_and_cert_chain_pem.bytes() + authority.cert_pem.bytes())
        before = os.environ.get("SSL_CERT_FILE", "")
        os.environ["SSL_CERT_FILE"] = str(path)
        try:
            yield path
        finally:
            os.environ["SSL_CERT_FILE"] = before  # empty is as good as none


def _uvloop(server: CannedServer, effort: Effort) -> list[Row]:
    what = f"uvloop under both: `emit`, {{}}{_OF}"
    if not has("uvloop"):
        return [Row("19", what.format(1), absolute="uvloop is not installed")]
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop))
        series = interleave(_Both(runner, stack, effort).ways("uvloop", server.url), effort, server)
    return [
        ratio_row("19", what.format(count), series, f"uvloop {count}", f"httpx uvloop {count}") for count in _IN_FLIGHT
    ]


@frozen
class _Both:
    """Makes ways of ours and of bare httpx."""

    runner: asyncio.Runner
    stack: ExitStack
    effort: Effort

    def ways(
        self, name: str, url: str, ours: Mapping[str, Any] | None = None, bare: Mapping[str, Any] | None = None
    ) -> dict[str, Way]:
        """Make four: ours and bare, with 1 and 16 in flight, each over a client of its own with these options."""
        ways: dict[str, Way] = {}
        often = self.effort.times(320)
        for count in _IN_FLIGHT:
            emit = emit_of(self.runner, self.stack, url, **(ours or {}))
            post = httpx_post(self.runner, self.stack, url, PATH, BODY, **(bare or {}))
            ways[f"{name} {count}"] = in_flight(self.runner, emit, count, often)
            ways[f"httpx {name} {count}"] = in_flight(self.runner, post, count, often)
        return ways
