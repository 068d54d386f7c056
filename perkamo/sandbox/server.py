"""The sandbox's HTTP server: h11 over a socket, on an event loop in a thread of its own.

Because of its own thread, it serves tests of any kind: synchronous ones, asyncio, trio, and forked children.
"""

import asyncio
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from http.client import responses
from typing import Final

from perkamo.runtime.thread_loop import EventLoop
from perkamo.runtime.threads import Join, start_thread
from perkamo.sandbox.messages import WITHOUT_BODY, Instruction, Request, Response, StreamingResponse
from perkamo.sandbox.process import SandboxError, servers

try:
    import h11
except ModuleNotFoundError:
    raise ModuleNotFoundError('the sandbox needs h11, which is not installed: pip install "perkamo[sandbox]"') from None

MAX_BODY_BYTES: Final = 2_000_000
MAX_HEAD_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0
_MAX_PORT: Final = 65_535
_OF_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the URL to use if it listens on all addresses
SANDBOX_HEADER: Final = ("x-perkamo-sandbox", "1")

_RESET_ON_CLOSE: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Server:
    """Serves ``answer`` on a socket.

    Args:
        answer: Called on the server's thread for each request; it must return at once.
        refuse: Makes the response to an unreadable request, from a status code and a message.
        host: The address to listen on.
        port: The port; 0 for a free one.
    """

    def __init__(
        self, answer: Callable[[Request], Instruction], refuse: Callable[[int, str], Response], *, host: str, port: int
    ) -> None:
        self._answer = answer
        self._refuse = refuse
        self._socket = _listen(host, port)
        self.base_url: str = _url_of(self._socket)
        """The URL to give to a client."""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._connections: dict[asyncio.Task[None], int] = {}
        self._join: Join | None = None
        self._pid = os.getpid()

    def start(self) -> None:
        """Start serving; return when connections are accepted.

        Raises:
            SandboxError: The thread did not start in time.
        """
        servers.add(self)
        self._join = start_thread(self._run, "perkamo-sandbox")
        if not self._ready.wait(START_SECONDS):
            self._socket.close()
            raise SandboxError(f"the sandbox's thread did not start within {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Close the port and every connection. It does nothing in a forked child.

        Raises:
            SandboxError: The thread did not end in time.
        """
        if os.getpid() != self._pid or self._loop is None or self._stop is None or self._join is None:
            return
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        if not self._join(STOP_SECONDS):
            raise SandboxError(f"the sandbox's thread did not end within {STOP_SECONDS:.0f} s")

    def descriptors(self) -> list[int]:
        """Return the file descriptors of the port and of all connections."""
        return [number for number in (self._socket.fileno(), *self._connections.values()) if number >= 0]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_reader(self._socket, self._accept)
        self._ready.set()
        await self._stop.wait()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        # Neither asyncio.start_server nor sock_accept: stopped at the wrong step, both lose a connection that they have
        # accepted and not returned yet, and it stays open.
        with suppress(OSError):  # the peer closed it already, or the process has no free file descriptor
            connection, _ = self._socket.accept()
            connection.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            task = asyncio.ensure_future(self._take(connection))
            self._connections[task] = connection.fileno()
            task.add_done_callback(partial(self._forget, connection))

    def _forget(self, connection: socket.socket, task: "asyncio.Task[None]") -> None:
        self._connections.pop(task, None)
        connection.close()

    async def _take(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=READ_BYTES)
        try:
            await _Connection(reader, writer, self._answer, self._refuse).serve()
        except (OSError, asyncio.CancelledError):
            pass  # the peer closed it, or the server stops: the connection ends here
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class _Connection:
    """One connection, from its first request to its last."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Request], Instruction],
        refuse: Callable[[int, str], Response],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._refuse = refuse
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        name = writer.get_extra_info("peername")
        self._peer = str(name[0])

    async def serve(self) -> None:
        going_on = True
        while going_on:
            try:
                request = await self._read()
            except h11.RemoteProtocolError as error:
                await self._reject(error.error_status_hint, f"the request is not HTTP: {error}")
                return
            if request is None:
                return
            if len(request.body) > MAX_BODY_BYTES:
                await self._reject(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
                return
            going_on = await self._carry_out(self._answer(request), bodyless=request.method == "HEAD")

    async def _read(self) -> Request | None:
        """Return the next request, or None if the peer is done. A body that is too large is cut beyond the limit."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._write(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES and head is not None:
                    return self._request(head, bytes(body))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return self._request(head, bytes(body))
            else:
                return None

    def _request(self, head: h11.Request, body: bytes) -> Request:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        return Request(head.method.decode("ascii"), head.target.decode("latin-1"), headers, body, self._peer)

    async def _carry_out(self, instruction: Instruction, *, bodyless: bool) -> bool:
        """Carry it out; return whether the connection continues."""
        if instruction.delay and not await self._wait(instruction.delay):
            return False
        if instruction.end == "reset":
            self._reset()
            return False
        if instruction.response is None:
            return False
        if isinstance(instruction.response, StreamingResponse):
            await self._stream(instruction.response, instruction)
            return False
        body = b"" if bodyless else instruction.response.body[: instruction.keep]
        end = () if instruction.keep is not None else (h11.EndOfMessage(),)
        length = None if instruction.response.status in WITHOUT_BODY else len(instruction.response.body)
        self._write(_head(instruction.response, length=length), h11.Data(data=body), *end)
        await self._writer.drain()
        if instruction.end == "stall":
            await self._reader.read(1)
        if instruction.keep is not None or self._http.our_state is h11.MUST_CLOSE:
            return False
        self._http.start_next_cycle()
        return True

    async def _wait(self, seconds: float) -> bool:
        """Wait before an answer; return False as soon as the peer has closed the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self._reader.read(READ_BYTES):  # the next request, sent ahead
                    self._http.receive_data(data)
                return False
        return True

    async def _stream(self, response: StreamingResponse, instruction: Instruction) -> None:
        """Send chunks until the body ends, the fault cuts it, or the peer closes the connection."""
        self._write(_head(response, length=None))
        await self._writer.drain()
        pump = asyncio.ensure_future(self._pump(response, instruction))
        gone = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _pump(self, response: StreamingResponse, instruction: Instruction) -> None:
        left = instruction.keep
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                self._write(h11.Data(data=chunk[:left]))
                await self._writer.drain()
                if left is not None:
                    left -= len(chunk)
                    if left <= 0:
                        if instruction.end == "stall":
                            await asyncio.Event().wait()
                        return
        self._write(h11.EndOfMessage())
        await self._writer.drain()

    async def _reject(self, status: int, message: str) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = self._refuse(status, message)
        closing = Response(status, (*response.headers, ("connection", "close")), response.body)
        self._write(_head(closing, length=len(closing.body)), h11.Data(data=closing.body), h11.EndOfMessage())
        await self._writer.drain()
        # Bytes that are still coming are read before closing: unread bytes would turn the close into a reset, and the
        # peer would lose the answer.
        self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await self._reader.read(READ_BYTES):
                    pass

    def _write(self, *events: h11.Event) -> None:
        """Write events in one go, so that head and body travel in one packet."""
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))

    def _reset(self) -> None:
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()


def _head(response: Response | StreamingResponse, *, length: int | None) -> h11.Response:
    sized = () if length is None else (("content-length", str(length)),)
    headers = [(name.encode(), value.encode()) for name, value in (*response.headers, *sized, SANDBOX_HEADER)]
    return h11.Response(
        status_code=response.status, headers=headers, reason=responses.get(response.status, "").encode()
    )


def _url_of(listener: socket.socket) -> str:
    name: tuple[str, int] = listener.getsockname()
    address = _OF_ANY.get(name[0], name[0])
    return f"http://[{address}]:{name[1]}" if ":" in address else f"http://{address}:{name[1]}"


def _listen(host: str, port: int) -> socket.socket:
    """Bind in the caller's thread, so that the caller gets the error of a busy port at once."""
    if type(port) is not int or not 0 <= port <= _MAX_PORT:
        raise SandboxError(f"port must be a whole number from 0 to {_MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise SandboxError(f"the sandbox cannot listen on {host}: {error.strerror}") from error
    # The protocol is given because asyncio sets TCP_NODELAY only then: without it, each call takes about 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's own signature
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SandboxError(
                f"port {port} on {host} is in use: stop what uses it, or choose another port (0 for any free one)"
            ) from error
        raise SandboxError(f"the sandbox cannot listen on {host} port {port}: {error.strerror}") from error
    return listener
