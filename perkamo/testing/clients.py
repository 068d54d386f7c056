"""Clients of a sandbox that tests need neither set up nor close, in whatever event loops they are used."""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001
# What a client keeps to itself is reached into here, so that it needs no public ways in that only tests would use.

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
"""As many attempts as by default, without the random waits. A wait that a Retry-After asks for is kept."""

LATE: Final = RetryPolicy(attempts=2, base_delay=0, max_delay=0, attempt_timeout=0.4)
"""The same for a run in which an answer never comes, which else would take as long as the usual deadline."""


@contextmanager
def sync_client(sandbox: Sandbox, *, late: bool = False) -> Generator[PerkamoClient, None, None]:
    """Lend a client of a sandbox."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=LATE if late else QUICK) as client:
        _set_clock(client._async, sandbox)
        yield client


@contextmanager
def async_client(sandbox: Sandbox, *, late: bool = False) -> Generator[AsyncPerkamoClient, None, None]:
    """Lend an async client of a sandbox; at the end it is closed from outside of every event loop."""
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=LATE if late else QUICK)
    _set_clock(client, sandbox)
    try:
        yield client
    finally:
        _close(client)


def _set_clock(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """Sign by a stopped clock from the first call on, which would be refused once otherwise, and be seen twice."""
    if sandbox.clock.frozen:
        client._exchange.sender.wall_time = sandbox.clock.time


def _close(client: AsyncPerkamoClient) -> None:
    """Close a client whose event loops are stopped, or are gone, or run in other threads.

    A loop that is stopped between two tests would hold the sockets of all tests before, until none are left.
    """
    transport = client._exchange.sender.client._transport
    assert isinstance(transport, Transport)  # the client was given no other
    run(client.aclose)  # first, so that a call whose socket goes finds the client closed and does not try again
    for loop, pool in tuple(transport._pools.items()):
        if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_running():
            loop.call_soon_threadsafe(pool.close)
        else:
            pool.close_sockets()
