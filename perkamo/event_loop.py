"""From any thread into an event loop of asyncio or trio."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

InLoop: TypeAlias = Callable[[Callable[[], object]], None]
"""Calls a function soon, in the event loop that it was made in. Once that loop has ended, it does nothing."""


def caller_into_loop() -> InLoop:
    """Return what calls functions in the event loop that is running now, from whatever thread."""
    soon = _call_soon()

    def call(function: Callable[[], object]) -> None:
        try:
            soon(function)
        except RuntimeError:  # no suppress(): the outbox comes here with every put
            return

    return call


def _call_soon() -> Callable[[Callable[[], object]], object]:
    try:
        return asyncio.get_running_loop().call_soon_threadsafe  # also where trio is a guest in it, and may be touched
    except RuntimeError:
        from trio.lowlevel import current_trio_token  # noqa: PLC0415 - loaded already where it runs, needed nowhere else

        return current_trio_token().run_sync_soon
