"""A few read-only pages over plain HTTP for probes and scrapers: one GET for each connection."""

from argparse import ArgumentTypeError
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeAlias

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream
from attrs import frozen

from perkamo.runtime.event_loop import DetachedTaskGroup

_READ: Final = 4096
_SECONDS: Final = 10.0
_MAX_CONNECTIONS: Final = 32


@frozen
class Page:
    """An answer.

    Attributes:
        status: The HTTP status.
        content_type: The type of ``body``.
        body: The bytes.
    """

    status: int
    content_type: str
    body: bytes


Pages: TypeAlias = Mapping[str, Callable[[], Awaitable[Page]]]
"""The function that makes the page, for each path."""


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of an option such as ``127.0.0.1:9464`` or ``[::1]:9464``.

    Raises:
        ArgumentTypeError: It is not an address.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ArgumentTypeError(f"{text!r} is not an address; write HOST:PORT, such as 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


@asynccontextmanager
async def listening(host: str, port: int, pages: Pages) -> AsyncGenerator[int]:
    """Serve pages while the block lasts.

    Args:
        host: The address to listen on.
        port: The port; 0 for a free one.
        pages: The pages.

    Yields:
        The port.

    Raises:
        OSError: The address can't be used.
    """
    limit = anyio.CapacityLimiter(_MAX_CONNECTIONS)

    async def handle(stream: SocketStream) -> None:
        async with limit, stream:
            with anyio.move_on_after(_SECONDS):
                await _answer(stream, pages)

    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, DetachedTaskGroup() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        tasks.cancel_scope.cancel()


async def _answer(stream: SocketStream, pages: Pages) -> None:
    try:
        request = await _request(stream)
        page = _text(400, "bad request") if request is None else await _page(request, pages)
        headers = {
            "Content-Type": page.content_type,
            "Content-Length": str(len(page.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\n{lines}\r\n"
        is_head = request is not None and request.method == b"HEAD"
        await stream.send(head.encode("ascii") + (b"" if is_head else page.body))
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the client does not wait any more


async def _request(stream: SocketStream) -> h11.Request | None:
    """Return the head of a request, or None if the bytes are not a request."""
    connection = h11.Connection(h11.SERVER)
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await stream.receive(_READ))
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


async def _page(request: h11.Request, pages: Pages) -> Page:
    if request.method not in {b"GET", b"HEAD"}:
        return _text(405, "only GET is served")
    make = pages.get(request.target.decode("ascii", "replace").partition("?")[0])
    return _text(404, f"there are only {' and '.join(pages)}") if make is None else await make()


def _text(status: int, text: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", f"{text}\n".encode())
