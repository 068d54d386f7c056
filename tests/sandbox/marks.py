"""What tests of streams and of forks share."""

import os
from collections.abc import AsyncGenerator, Callable

import pytest

from perkamo.sandbox.messages import Handler, Request, StreamingResponse

STREAM = "/v1/client/customer/customer_123/stream"
FORK_WARNING = "ignore:.*multi-threaded, use of fork:DeprecationWarning"
"""From Python 3.12 on; forking with the sandbox's thread running is what these tests are about."""


def forking(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that forks this process."""
    marked: Callable[..., None] = pytest.mark.filterwarnings(FORK_WARNING)(test)
    skipped: Callable[..., None] = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")(marked)
    return skipped


def stream_of(chunks: Callable[[], AsyncGenerator[bytes, None]]) -> Handler:
    """Make a handler that answers the customer stream with these chunks."""

    def handle(request: Request) -> StreamingResponse | None:
        if request.path != STREAM:
            return None
        return StreamingResponse(200, (("content-type", "text/event-stream"),), chunks)

    return handle
