"""The sandbox inside the process: an httpx transport without a socket, on asyncio and trio."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import anyio
import httpx
from attrs import frozen

from perkamo.sandbox.messages import Reply, Request, Response
from perkamo.sandbox.server import SANDBOX_HEADER


class SandboxTransport(httpx.AsyncBaseTransport):
    """Serves an ``httpx.AsyncClient`` from a sandbox.

    Args:
        answer: The sandbox's own ``answer``.
    """

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, and fail as a socket would where a fault says so."""
        body = await request.aread()
        headers = tuple((name.lower().decode(), value.decode("latin-1")) for name, value in request.headers.raw)
        reply = self._answer(Request(request.method, request.url.raw_path.decode(), headers, body))
        await _wait(reply.delay, request)
        if reply.end == "reset":
            raise httpx.ReadError("the sandbox reset the connection", request=request)
        if reply.response is None:
            raise httpx.RemoteProtocolError("the sandbox closed the connection without an answer", request=request)
        head = [*reply.response.headers, SANDBOX_HEADER]
        if isinstance(reply.response, Response):
            head.append(("content-length", str(len(reply.response.body))))
        return httpx.Response(reply.response.status, headers=head, stream=_Body(reply), request=request)


@frozen
class _Body(httpx.AsyncByteStream):
    """The body of an answer, cut where a fault says so."""

    reply: Reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.reply.keep
        async for chunk in self._chunks():
            yield chunk[:left]
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    raise httpx.RemoteProtocolError("the sandbox closed the connection within the answer")

    async def _chunks(self) -> AsyncIterator[bytes]:
        response = self.reply.response
        if isinstance(response, Response):
            yield response.body
        elif response is not None:
            chunks = response.chunks()
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await chunks.aclose()


async def _wait(delay: float, request: httpx.Request) -> None:
    """Wait as a slow service makes wait, and time out as a socket would."""
    if not delay:
        return
    timeouts = cast("Mapping[str, float | None]", request.extensions.get("timeout", {}))  # as httpx documents it
    limit = timeouts.get("read")
    if limit is not None and limit < delay:
        await anyio.sleep(limit)
        raise httpx.ReadTimeout("the sandbox answers too late", request=request)
    await anyio.sleep(delay)
