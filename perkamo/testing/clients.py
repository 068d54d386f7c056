"""Clients of a sandbox that a test does not have to set up or close, in any event loop."""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001
# This module uses private attributes of clients, so that clients need no public names for tests alone.

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from perkamo.client import AsyncPerkamoClient
from perkamo.request.retry import RetryPolicy
from perkamo.sandbox import Sandbox
from perkamo.sync.portal import run
from perkamo.sync_client import PerkamoClient
from perkamo.transport.transport import Transport

QUICK: Final = RetryPolicy(base_delay=0, max_delay=0)
"""The default number of attempts, without random waits. A wait that Retry-After asks for is kept."""

LATE: Final = RetryPolicy(attempts=2, base_delay=0, max_delay=0, attempt_timeout=0.4)
"""The same for a run in which an answer never comes: otherwise it would take as long as the usual deadline."""


@contextmanager
def sync_client(sandbox: Sandbox, *, late: bool = False) -> Generator[PerkamoClient, None, None]:
    """Yield a client of a sandbox."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=LATE if late else QUICK) as client:
        _set_clock(client._async, sandbox)
        yield client


@contextmanager
def async_client(sandbox: Sandbox, *, late: bool = False) -> Generator[AsyncPerkamoClient, None, None]:
    """Yield an async client of a sandbox; at the end it is closed from outside its event loops."""
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=LATE if late else QUICK)
    _set_clock(client, sandbox)
    try:
        yield client
    finally:
        _close(client)


def _set_clock(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """Sign by the sandbox's stopped clock from the first call on: otherwise that call would be refused once."""
    if sandbox.clock.frozen:
        client._exchange.sender.wall_time = sandbox.clock.time


def _close(client: AsyncPerkamoClient) -> None:
    """Close a client whose event loops are stopped, have ended, or run in other threads.

    A loop that is stopped between two tests would keep the sockets of all earlier tests, until no socket is left.
    """
    transport = client._exchange.sender.client._transport
    assert isinstance(transport, Transport)  # these clients have no other transport
    run(client.aclose)  # first, so that a call that loses its socket finds the client closed and does not retry
    for loop, pool in tuple(transport._pools.items()):
        if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_running():
            loop.call_soon_threadsafe(pool.close)
        else:
            pool.close_sockets()
