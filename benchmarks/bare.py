"""Clients without an SDK, each of which posts prepared bytes under prepared headers and reads the answer."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.request import headers
from benchmarks.rounds import Operation


def has(module: str) -> bool:
    """Tell whether a peer is installed; they come with the extra ``bench``."""
    return find_spec(module.partition(".")[0]) is not None


def closed_later(runner: asyncio.Runner, stack: ExitStack, close: Callable[[], Awaitable[object]]) -> None:
    """Close something asynchronously when the stack ends."""

    async def closing() -> None:
        await close()

    stack.callback(lambda: runner.run(closing()))


def httpx_post(runner: asyncio.Runner, stack: ExitStack, url: str, path: str, body: bytes, **options: Any) -> Operation:
    """Post with a stock ``httpx.AsyncClient`` that has these options."""
    client = httpx.AsyncClient(**options)
    closed_later(runner, stack, client.aclose)
    target, given = url + path, headers(path, body)
    return lambda: client.post(target, content=body, headers=given)


def httpx_sync_post(stack: ExitStack, url: str, path: str, body: bytes) -> Callable[[], object]:
    """Post with a stock ``httpx.Client``."""
    client = stack.enter_context(httpx.Client())
    target, given = url + path, headers(path, body)
    return lambda: client.post(target, content=body, headers=given)


def aiohttp_post(runner: asyncio.Runner, stack: ExitStack, url: str, path: str, body: bytes) -> Operation:
    """Post with a stock ``aiohttp.ClientSession``; aiohttp must be installed."""
    aiohttp = import_module("aiohttp")

    async def session() -> Any:
        return aiohttp.ClientSession()

    made = runner.run(session())
    closed_later(runner, stack, made.close)
    target, given = url + path, headers(path, body)

    async def post() -> None:
        async with made.post(target, data=body, headers=given) as response:
            await response.read()

    return post


def socket_post(stack: ExitStack, url: str, path: str, body: bytes) -> Operation:
    """Write to a socket and read from it, without looking at what comes: the floor."""
    where = urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers(path, body).items())
    head = f"POST {path} HTTP/1.1\r\nhost: {where.netloc}\r\n{lines}content-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    idle: list[socket.socket] = []

    def connect() -> socket.socket:
        made = stack.enter_context(socket.create_connection((where.hostname, where.port)))
        made.settimeout(0)
        return made

    async def post() -> None:
        loop = asyncio.get_running_loop()
        connection = idle.pop() if idle else connect()
        await loop.sock_sendall(connection, request)
        await loop.sock_recv(connection, 65_536)
        idle.append(connection)

    return post
