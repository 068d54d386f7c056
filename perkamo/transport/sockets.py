"""Sockets for asyncio and trio: sending, receiving, TLS.

Everything that ends a socket is a plain call and no coroutine, so no cancellation can come in between. Waiting for an
answer costs one future on asyncio, as the event loop goes on watching a socket from one answer to the next.
"""

import asyncio
import errno
import os
import socket
import ssl
from contextlib import suppress
from typing import Final, TypeAlias
from weakref import WeakSet, ref

import anyio
import anyio.lowlevel

_CHUNK: Final = 65536
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)


def reason(error: Exception) -> str:
    """Return what an error says, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


_open: Final[WeakSet["PlainSocket"]] = WeakSet()


class PlainSocket:
    """A socket of one event loop.

    Args:
        plain: The socket, not yet connected. It is closed with this object.
    """

    __slots__ = ("__weakref__", "_loop", "_parts", "_socket", "_unsent", "_waiter", "_watched")

    def __init__(self, plain: socket.socket) -> None:
        plain.settimeout(0)
        self._socket = plain
        self._parts: list[bytes] = []
        self._unsent = memoryview(b"")
        # Weak, or a pool would keep alive the loop that it is filed under.
        loop = anyio.lowlevel.current_token().native_token
        self._loop = ref(loop) if isinstance(loop, asyncio.AbstractEventLoop) else None
        self._waiter: asyncio.Future[None] | None = None
        self._watched = False
        _open.add(self)

    async def connect(self, address: tuple[str | int | bytes, ...]) -> None:
        """Connect.

        Raises:
            OSError: It did not work.
        """
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self._socket.connect_ex(address)
        if code in _UNDER_WAY:
            await anyio.wait_writable(self._socket)
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def put(self, data: bytes) -> None:
        """Take bytes that are to be sent; kept here, they stand in no frame that an error's traceback leads into."""
        self._parts.append(data)

    async def send(self) -> bool:
        """Send what was put; return False when the peer speaks or hangs up before everything left.

        Raises:
            OSError: The connection is broken.
        """
        if self._parts:
            self._unsent = memoryview(b"".join((self._unsent, *self._parts)))
            self._parts.clear()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                if await self._peer_speaks_first():
                    return False
            else:
                self._unsent = self._unsent[sent:]
        return True

    async def receive(self, limit: int) -> bytes:
        """Wait for bytes; return none when the peer has ended the connection.

        Raises:
            OSError: The connection is broken, or was closed meanwhile.
        """
        # After a request the answer is never there yet, so waiting comes first and saves a call to the system.
        while True:
            await self._until_readable()
            try:
                return self._socket.recv(limit)
            except (BlockingIOError, InterruptedError):
                continue

    def receive_now(self, limit: int) -> bytes:
        """Return the bytes that are there, without waiting.

        Raises:
            BlockingIOError: There are none.
            OSError: The connection is broken.
        """
        return self._socket.recv(limit)

    def is_idle(self) -> bool:
        """Tell whether the peer has neither sent anything more nor ended the connection; if it has, close it."""
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close at once; a call that waits meanwhile gets an OSError."""
        if self._socket.fileno() < 0:
            return
        self._unwatch()
        if self._waiter is not None and not self._waiter.done() and not self._waiter.get_loop().is_closed():
            self._waiter.set_result(None)
        with suppress(RuntimeError):  # no event loop may run any more, and then nobody waits
            anyio.notify_closing(self._socket)
        self._socket.close()

    def close_inherited(self) -> None:
        """Give up, in a forked child, the copy of a socket that goes on living in the parent."""
        self._watched = False  # the epoll is shared with the parent, for whom the socket must stay watched
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()  # nobody waits and nobody watches, or this would not be garbage

    async def _until_readable(self) -> None:
        loop = None if self._loop is None else self._loop()
        self._check_open()
        if loop is not None and not self._watched:
            try:
                loop.add_reader(self._socket, self._wake)
                self._watched = True
            except NotImplementedError:  # the proactor loop of Windows
                self._loop = loop = None
        if loop is None:
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._socket)
        else:
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._check_open()

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise OSError(errno.EBADF, "the connection was closed")

    def _wake(self) -> None:
        if self._waiter is None:
            self._unwatch()  # nobody reads at present; the bytes can wait in the kernel
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _unwatch(self) -> None:
        if not self._watched:
            return
        self._watched = False
        loop = None if self._loop is None else self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._socket)

    async def _peer_speaks_first(self) -> bool:
        """Wait until there is room to send; return True when the peer sends or hangs up before that."""
        self._unwatch()
        spoke = False

        async def listen() -> None:
            nonlocal spoke
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._socket)
            spoke = True
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_writable(self._socket)
            group.cancel_scope.cancel()
        return spoke


class TLSSocket:
    """TLS over a plain socket, with the same methods.

    It is ended without the parting message of TLS, which would need waiting: HTTP says itself where an answer ends.
    """

    __slots__ = ("_ahead", "_from_peer", "_plain", "_tls", "_to_peer")

    def __init__(self, plain: PlainSocket, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._ahead = b""
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from_peer, self._to_peer, server_hostname=host)

    async def handshake(self) -> None:
        """Begin TLS.

        Raises:
            ssl.SSLError: The peer can't be trusted, or speaks no TLS.
            OSError: The connection is broken.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                with suppress(OSError):
                    await self._flush()  # the peer may be told why
                raise
            else:
                await self._flush()
                return

    def put(self, data: bytes) -> None:
        """Take bytes that are to be sent."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._plain.put(self._to_peer.read())

    async def send(self) -> bool:
        """Send what was put; return False when the peer speaks or hangs up before everything left."""
        while not await self._plain.send():
            if not self._take_in() or self._look_ahead():
                return False
        return True

    async def receive(self, limit: int) -> bytes:
        """Wait for bytes; return none when the peer has ended the connection."""
        while True:
            if self._ahead:
                data, self._ahead = self._ahead, b""
                return data
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    def is_idle(self) -> bool:
        """Tell whether the peer has neither sent anything more nor ended the connection; if it has, close it."""
        while not self._look_ahead():
            try:
                if not self._take_in():
                    return False
            except BlockingIOError:
                return True
            except OSError:
                return False
        return False  # more than a session ticket

    def close(self) -> None:
        """Close at once; a call that waits meanwhile gets an OSError."""
        self._plain.close()

    def _look_ahead(self) -> bool:
        """Tell whether there is something to receive: bytes, the end, or an error."""
        try:
            self._ahead = self._ahead or self._tls.read(_CHUNK)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True

    def _take_in(self) -> bool:
        data = self._plain.receive_now(_CHUNK)
        self._from_peer.write(data)
        return bool(data)

    async def _flush(self) -> None:
        self._plain.put(self._to_peer.read())
        while not await self._plain.send():
            if not self._take_in():
                raise OSError(errno.ECONNRESET, "the connection was closed")

    async def _fill(self) -> None:
        data = await self._plain.receive(_CHUNK)
        if data:
            self._from_peer.write(data)
        else:
            self._from_peer.write_eof()


Stream: TypeAlias = PlainSocket | TLSSocket


def _close_inherited() -> None:
    for one in list(_open):
        one.close_inherited()


if hasattr(os, "register_at_fork"):
    # A child would keep its parent's connections open for as long as it lives.
    os.register_at_fork(after_in_child=_close_inherited)
