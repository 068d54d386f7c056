"""Hooks that a caller's own client has."""

from collections.abc import Awaitable, Callable

import httpx

from perkamo import RetryPolicy

QUICK = RetryPolicy(base_delay=0, max_delay=0)
Hook = Callable[..., Awaitable[None]]


def with_hook(hook: Hook, kind: str = "response") -> httpx.AsyncClient:
    """Make a client with one hook."""
    return httpx.AsyncClient(trust_env=False, event_hooks={kind: [hook]})
