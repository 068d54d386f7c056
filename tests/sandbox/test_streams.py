"""The seam for streaming answers, over a real socket and inside the process."""

import threading
from collections.abc import AsyncGenerator

import anyio
import anyio.to_thread
import httpx
import pytest

from perkamo.sandbox import Sandbox
from tests.sandbox.marks import STREAM, stream_of


def test_a_streaming_answer_arrives_chunk_by_chunk(sandbox: Sandbox) -> None:
    """Expect the second chunk to be made only after the first was read: the seam for the customer stream."""
    gate = threading.Event()
    closed = threading.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await anyio.to_thread.run_sync(gate.wait)
            yield b"second"
        finally:
            closed.set()

    sandbox.add_handler(stream_of(chunks))
    with httpx.Client(trust_env=False) as client, client.stream("GET", sandbox.base_url + STREAM) as answer:
        received = answer.iter_raw()
        assert next(received) == b"first"
        assert not closed.is_set()
        gate.set()
        assert next(received) == b"second"
        assert list(received) == []
    assert closed.wait(5)
    assert sandbox.requests[0].route == "GET /v1/client/customer/{user_id}/stream"


def test_a_stream_ends_when_the_peer_goes(sandbox: Sandbox) -> None:
    """Expect the generator to be closed although it has nothing to send: catches one leaked task per lost client."""
    started, closed = threading.Event(), threading.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            started.set()
            await anyio.sleep(3600)
        finally:
            closed.set()

    sandbox.add_handler(stream_of(chunks))
    with httpx.Client(trust_env=False) as client, client.stream("GET", sandbox.base_url + STREAM) as answer:
        assert next(answer.iter_raw()) == b"first"
        assert started.wait(5)

    assert closed.wait(5)


def test_stopping_ends_streams(sandbox: Sandbox) -> None:
    """Expect open streams to be closed with the sandbox, their generators too."""
    started, closed = threading.Event(), threading.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            started.set()
            await anyio.sleep(3600)
        finally:
            closed.set()

    sandbox.add_handler(stream_of(chunks))
    with httpx.Client(trust_env=False) as client, client.stream("GET", sandbox.base_url + STREAM) as answer:
        received = answer.iter_raw()
        assert next(received) == b"first"
        assert started.wait(5)
        sandbox.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            list(received)
    assert closed.wait(5)
