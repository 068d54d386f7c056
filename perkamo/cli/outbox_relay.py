"""``perkamo outbox relay``: delivers waiting events, and serves pages about it for probes and scrapers."""

from argparse import Namespace
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from perkamo.cli import stdio
from perkamo.cli.listening import listening
from perkamo.cli.output import print_lines
from perkamo.cli.relay_pages import HAS_PROMETHEUS, MISSING, RelayPages
from perkamo.cli.running import client_of_environment, on_sigterm_in_loop, run_async, shown_log
from perkamo.cli.stdio import OutputError, print_stderr
from perkamo.errors import PerkamoError
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.postgres.outbox import PostgresOutbox
from perkamo.outbox.relay import Relay

if TYPE_CHECKING:
    from perkamo.cli.relay_metrics import RelayMetrics


def relay_until_stopped(args: Namespace, open_outbox: Callable[[], Outbox | PostgresOutbox]) -> None:
    """Deliver waiting events until Ctrl-C or SIGTERM, or with ``--until-empty`` until no event waits.

    Args:
        args: What was typed.
        open_outbox: Opens the outbox, once there is a client.
    """
    try:
        with shown_log("outbox"):  # why events wait, and which are refused
            run_async(partial(_relay, args, open_outbox))
    except KeyboardInterrupt:
        _say(args, "Stopped. What waits is kept.")


async def _relay(args: Namespace, open_outbox: Callable[[], Outbox | PostgresOutbox]) -> None:
    relays: list[Relay] = []  # the one that runs

    def trouble() -> PerkamoError | None:
        return relays[0].trouble if relays else None

    figures = _figures(trouble) if args.listen else None
    hooks = [] if figures is None else [figures]
    async with client_of_environment(args, hooks) as client, open_outbox() as outbox:
        if args.rebind:
            rebound = await outbox.rebind(client)
            _say(args, f"Events that belong to this key now: {rebound:,}.")
        if args.until_empty:
            await outbox.drain(client)
            return
        stop = anyio.Event()
        with on_sigterm_in_loop(stop.set):
            pages = RelayPages(outbox.stats, trouble, args.fail_if_older, figures)
            async with _listening(args, pages), outbox.relay(client, grace=args.grace) as relay:
                relays.append(relay)
                _say(args, "Delivering until Ctrl-C.")
                await stop.wait()
        _say(args, "Stopped. What waits is kept.")


def _figures(trouble: Callable[[], PerkamoError | None]) -> "RelayMetrics | None":
    if not HAS_PROMETHEUS:
        print_stderr(f"perkamo outbox: {MISSING}")
        return None
    from perkamo.cli.relay_metrics import RelayMetrics  # noqa: PLC0415 - the extra may be missing

    return RelayMetrics(trouble)


@asynccontextmanager
async def _listening(args: Namespace, pages: RelayPages) -> AsyncGenerator[None]:
    """Serve the pages while the block lasts, if that was asked for."""
    if args.listen is None:
        yield
        return
    host, port = args.listen
    async with listening(host, port, pages.pages) as bound:
        shown = f"[{host}]" if ":" in host else host
        _say(args, f"Health and metrics: http://{shown}:{bound}/healthz and /metrics.")
        yield


def _say(args: Namespace, line: str) -> None:
    """Print a line for people, at once; if it can't be written, the work continues."""
    if not args.json:
        try:
            print_lines(line)
            stdio.flush()
        except OutputError as error:
            stdio.drop_output()
            print_stderr(f"perkamo outbox: cannot write: {error}")
