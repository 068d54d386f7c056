"""From any thread into an event loop of asyncio or trio."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import anyio.lowlevel

InLoop: TypeAlias = Callable[[Callable[[], object]], None]
"""Calls a function soon, in the event loop that it was made in. Once that loop has ended, it does nothing."""


def caller_into_loop() -> InLoop:
    """Return what calls functions in the event loop that is running now, from whatever thread."""
    loop = anyio.lowlevel.current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        soon: Callable[[Callable[[], object]], object] = loop.call_soon_threadsafe
    else:
        from trio.lowlevel import TrioToken  # noqa: PLC0415 - loaded already where it runs, needed nowhere else

        assert isinstance(loop, TrioToken)
        soon = loop.run_sync_soon

    def call(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            soon(function)

    return call
