"""A server that costs next to nothing: it looks for the end of a request and answers canned bytes, with keep-alive.

It runs in a process of its own and tells its processor time when asked, so that a benchmark can show that the server
was not the limit. A request whose path begins with ``/slow`` is answered after 20 ms, with ``/chunked`` in one chunk,
with ``/once`` for the last time on its connection. A request in absolute form, as a proxy gets it, is answered too.
"""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SLOW_SECONDS: Final = 0.02
SLOWER_PREFIX: Final = "/slower"
SLOWER_SECONDS: Final = 0.1
SLOW_PREFIX: Final = "/slow"
CHUNKED_PREFIX: Final = "/chunked"
ONCE_PREFIX: Final = "/once"

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_END: Final = b"\r\n\r\n"

EVENT_RESULT: Final = {
    "applied": True,
    "duplicate": False,
    "delta": [{"wallet": "points", "amount": 50}],
    "leveled_up": False,
    "unlocked": [{"type": "perk", "key": "welcome_member", "name": "Welcome member"}],
    "wallet_state": {"points": 50},
    "level": {
        "wallet": "points",
        "level": 1,
        "current": 50,
        "nextLevelAt": 100,
        "currentLevelAt": 0,
        "progress": 0.5,
    },
}
_COMPLETION: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1780300800,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Welcome"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41},
}
_STRIPE_CUSTOMER: Final = {
    "id": "cus_1",
    "object": "customer",
    "created": 1780300800,
    "email": None,
    "livemode": False,
    "metadata": {"order_id": "order_1092", "amount": "12900", "currency": "CZK"},
    "name": "customer_123",
    "balance": 0,
    "currency": "czk",
    "delinquent": False,
    "description": None,
    "invoice_prefix": "ABC",
}


@cache
def _answer(path: str, events: int) -> bytes:
    """Return the whole answer for a path: what its endpoint says, and for a batch one result for each event."""
    value: object = EVENT_RESULT
    if "chat/completions" in path:
        value = _COMPLETION
    elif path.endswith("/customers"):
        value = _STRIPE_CUSTOMER
    elif path.endswith("events:batch"):
        value = {"results": [EVENT_RESULT] * events}
    body = json.dumps(value, separators=(",", ":")).encode()
    framing = f"content-length: {len(body)}"
    if path.startswith(CHUNKED_PREFIX):
        framing = "transfer-encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    if path.startswith(ONCE_PREFIX):
        framing += "\r\nconnection: close"
    head = (
        "HTTP/1.1 200 OK\r\n"
        "date: Mon, 01 Jun 2026 10:00:00 GMT\r\n"
        "content-type: application/json\r\n"
        f"{framing}\r\n"
        "x-request-id: req_0123456789\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        while (end := data.find(_END)) >= 0:
            head = data[:end]
            found = _LENGTH.search(head)
            size = end + len(_END) + (int(found[1]) if found else 0)
            if len(data) < size:
                break
            self._reply(head.split(b" ", 2)[1].decode(), data[:size])
            data = data[size:]
        self._data = data

    def _reply(self, path: str, request: bytes) -> None:
        if path == "/busy":
            text = f"{time.process_time():.6f}"
            self._transport.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
            return
        events = request.count(b'"transaction_id"') if path.endswith(":batch") else 1
        if path.startswith(SLOW_PREFIX):
            seconds = SLOWER_SECONDS if path.startswith(SLOWER_PREFIX) else SLOW_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._transport.write, _answer(path, events))
        else:
            self._transport.write(_answer(path, events))
            if path.startswith(ONCE_PREFIX):
                self._transport.close()


async def _serve(certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of standard input is the end of whoever started this process, however it ends.
    await asyncio.to_thread(sys.stdin.read)


class CannedServer:
    """The server in a process of its own, for as long as a block lasts.

    Args:
        certificate: A file with a private key and a certificate for localhost, to speak TLS; None for plain HTTP.

    Attributes:
        url: Where it listens, as a base URL.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self._certificate = certificate

    def __enter__(self) -> Self:
        options = [] if self._certificate is None else [str(self._certificate)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port))
        if self._certificate is not None:
            self.url = f"https://localhost:{port}"
            context = ssl.create_default_context(cafile=self._certificate)
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.communicate()

    def busy(self) -> float:
        """Return the processor time that the server has used, in seconds."""
        self._socket.sendall(b"GET /busy HTTP/1.1\r\n\r\n")
        return float(self._socket.recv(1024).partition(_END)[2])


if __name__ == "__main__":
    asyncio.run(_serve(next(iter(sys.argv[1:]), None)))
