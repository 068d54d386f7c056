"""Faults through the in-process transport: the same errors as from a socket."""

from collections.abc import AsyncGenerator

import anyio
import httpx
import pytest

from perkamo.sandbox import Delay, Fault, Lost, Reset, Sandbox, Truncate
from tests.sandbox.marks import STREAM, stream_of
from tests.sandbox.wire import signed_headers

EMIT = "POST /v1/events"
READ = "GET /v1/customer/{user_id}"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        (Reset(before="apply"), httpx.ReadError, 0),
        (Reset(after="apply"), httpx.ReadError, 1),
        (Lost(), httpx.RemoteProtocolError, 1),
        (Truncate(10), httpx.RemoteProtocolError, 1),
        (Delay(30), httpx.ReadTimeout, 1),
    ],
)
async def test_faults_strike_the_in_process_transport_as_a_socket(
    fault: Fault, error: type[Exception], applied: int
) -> None:
    """Expect the same httpx error that the real socket gives, with the same effect."""
    for in_process in (True, False):
        sandbox = Sandbox()
        raw = b'{"user_id":"a","event":"user.registered","transaction_id":"1"}'
        async with sandbox:
            headers = signed_headers(sandbox.api_key, sandbox.clock.time(), "/v1/events", raw)
            sandbox.faults.next(EMIT, fault)
            transport = sandbox.transport() if in_process else None
            patient = httpx.Timeout(20, read=0.2)  # the first connection on trio imports it, which takes a while
            async with httpx.AsyncClient(transport=transport, timeout=patient, trust_env=False) as client:
                with pytest.raises(error):
                    await client.post(f"{sandbox.base_url}/v1/events", content=raw, headers=headers)
                assert len(sandbox.events()) == applied


@pytest.mark.anyio
async def test_a_short_delay_passes_in_process() -> None:
    """Expect an answer when the client is patient enough, with a limit and without."""
    sandbox = Sandbox()
    async with httpx.AsyncClient(transport=sandbox.transport(), base_url="http://sandbox") as client:
        for timeout in (20, None):
            sandbox.faults.next("GET /v1/program", Delay(0.02))
            began = anyio.current_time()
            answer = await client.get("/v1/program", headers={"x-perkamo-api-key": sandbox.api_key}, timeout=timeout)
            assert answer.status_code == 200
            assert anyio.current_time() - began >= 0.02


@pytest.mark.anyio
async def test_a_truncated_stream_is_cut_in_process() -> None:
    """Expect the same bytes and the same error as over the socket."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"12345"
        yield b"67890"
        await anyio.sleep(3600)

    sandbox = Sandbox()
    sandbox.add_handler(stream_of(chunks))
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Truncate(7))
    answer = await sandbox.transport().handle_async_request(httpx.Request("GET", f"http://sandbox{STREAM}"))
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    received = bytearray()
    with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - it is the reading that fails
        async for chunk in answer.stream:
            received += chunk
    assert received == b"1234567"
