"""The sandbox inside the process: an httpx transport without a socket, on asyncio and trio."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import NoReturn, cast

import anyio
import httpx

from perkamo.sandbox.messages import Instruction, Request, Response, StreamingResponse
from perkamo.sandbox.server import SANDBOX_HEADER


class SandboxTransport(httpx.AsyncBaseTransport):
    """Serves an ``httpx.AsyncClient`` from a sandbox.

    Args:
        answer: The sandbox's own ``answer``.
    """

    def __init__(self, answer: Callable[[Request], Instruction]) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, or fail as a socket would if a fault is armed."""
        body = await request.aread()
        headers = tuple((name.lower().decode(), value.decode("latin-1")) for name, value in request.headers.raw)
        instruction = self._answer(Request(request.method, request.url.raw_path.decode(), headers, body))
        await _wait(instruction.delay, request)
        if instruction.end == "reset":
            raise httpx.ReadError("the sandbox reset the connection", request=request)
        if instruction.response is None:
            raise httpx.RemoteProtocolError("the sandbox closed the connection without an answer", request=request)
        head = [*instruction.response.headers, SANDBOX_HEADER]
        if isinstance(instruction.response, Response):
            head.append(("content-length", str(len(instruction.response.body))))
        return httpx.Response(
            instruction.response.status,
            headers=head,
            stream=_AnswerStream(instruction.response, instruction),
            request=request,
        )


class _AnswerStream(httpx.AsyncByteStream):
    """The body of an answer, cut if a fault says so."""

    def __init__(self, response: Response | StreamingResponse, instruction: Instruction) -> None:
        # One generator, which httpx closes by aclose(): trio does not clean up generators that are left behind.
        self._pieces = _pieces(response, instruction)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        await self._pieces.aclose()


async def _pieces(response: Response | StreamingResponse, instruction: Instruction) -> AsyncGenerator[bytes, None]:
    keep = instruction.keep
    if isinstance(response, Response):
        yield response.body[:keep]
        if keep is not None and keep < len(response.body):
            await _end(instruction)
        return
    async with aclosing(response.chunks()) as chunks:
        async for chunk in chunks:
            yield chunk[:keep]
            if keep is not None:
                keep -= len(chunk)
                if keep <= 0:
                    await _end(instruction)


async def _end(instruction: Instruction) -> NoReturn:
    """End within an answer, as the fault says."""
    if instruction.end == "stall":
        await anyio.sleep_forever()
    raise httpx.RemoteProtocolError("the sandbox closed the connection within the answer")


async def _wait(delay: float, request: httpx.Request) -> None:
    """Wait as for a slow service, and time out as a socket would."""
    if not delay:
        return
    timeouts = cast("Mapping[str, float | None]", request.extensions.get("timeout", {}))  # as httpx documents it
    limit = timeouts.get("read")
    if limit is not None and limit < delay:
        await anyio.sleep(limit)
        raise httpx.ReadTimeout("the sandbox answers too late", request=request)
    await anyio.sleep(delay)
