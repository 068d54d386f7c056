"""Sockets for asyncio and trio: connecting, sending, receiving.

Everything that closes a socket is a plain function, not a coroutine, so no cancellation can interrupt it. Waiting for
an answer costs one future on asyncio: the event loop continues to watch a socket from one answer to the next.
"""

import errno
import os
import re
import socket
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet, ref

import anyio
import anyio.lowlevel

from perkamo.runtime.clock import Clock
from perkamo.transport.deadlines import FOREVER, Deadlines

if TYPE_CHECKING:
    import asyncio

_OPENSSL_MARKS: Final = r"^\[[^\]]*\] |\s*\(_ssl\.c:\d+\)$"


def reason(error: Exception) -> str:
    """Return the text of an error, without its number and without OpenSSL's brackets and source lines."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return re.sub(_OPENSSL_MARKS, "", text)


class Stream(Protocol):
    """What a connection sends and receives on: a socket, or TLS over another stream.

    Every deadline is a time of ``Clock``; after it, ``TimeoutError`` is raised.
    """

    def put(self, data: bytes) -> None:
        """Take bytes that are to be sent. They are kept here, so that no frame of an error's traceback shows them."""

    async def send(self, deadline: float) -> bool:
        """Send what was put; return False if the peer answers or closes the connection before all was sent.

        Raises:
            NothingSentError: The connection is broken, and not a byte was sent.
            OSError: The connection is broken.
        """
        ...

    async def receive(self, limit: int, deadline: float) -> bytes:
        """Wait for bytes; return empty bytes when the peer has ended the connection.

        Raises:
            OSError: The connection is broken, or was closed meanwhile.
        """
        ...

    def receive_now(self, limit: int) -> bytes:
        """Return the bytes that have arrived, without waiting; empty bytes when the peer has ended the connection.

        Raises:
            BlockingIOError: None have arrived.
            OSError: The connection is broken.
        """
        ...

    def is_idle(self) -> bool:
        """Return whether the peer has neither sent anything more nor ended the connection."""
        ...

    def close(self) -> None:
        """Close at once; a call that is waiting gets an OSError."""


class NothingSentError(OSError):
    """The connection was broken before the first byte of what was to be sent."""


_open: Final[WeakSet["PlainSocket"]] = WeakSet()


class PlainSocket:
    """A socket of one event loop.

    Args:
        plain: The socket, not yet connected. It is closed with this object.
        deadlines: Those of the event loop's sockets.
        clock: What deadlines go by.
    """

    __slots__ = (
        *("__weakref__", "_clock", "_deadlines", "_limit", "_loop", "_number", "_process", "_socket", "_untouched"),
        *("_unsent", "_waiter", "_watched"),
    )

    def __init__(self, plain: socket.socket, deadlines: Deadlines, clock: Clock) -> None:
        import asyncio  # noqa: PLC0415 - a program on trio does not need it, and any other has imported it by now

        plain.settimeout(0)
        self._socket = plain
        # The event loop gets the socket's number: not every loop takes socket objects.
        self._number = plain.fileno()
        self._process = os.getpid()
        self._deadlines = deadlines
        self._clock = clock
        self._unsent: bytes | memoryview = b""
        self._untouched = True  # nothing has left of what was put last
        # Weak: otherwise a pool would keep its own loop alive.
        loop = anyio.lowlevel.current_token().native_token
        self._loop = ref(loop) if isinstance(loop, asyncio.AbstractEventLoop) else None
        self._waiter: asyncio.Future[bytes | OSError] | None = None
        self._limit = 0
        self._watched = False
        _open.add(self)

    async def connect(self, address: tuple[str | int | bytes, ...], local_address: str | None = None) -> None:
        """Connect, from a local address if one is given.

        Raises:
            OSError: Connecting failed.
        """
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local_address is not None:
            self._socket.bind((local_address, 0))
        # ``connect``, not ``connect_ex``: test tools that block the network replace ``connect``.
        with suppress(BlockingIOError):
            self._socket.connect(address)
            self._number = self._socket.fileno()  # a test tool may just have replaced the descriptor by its own pipe
            return
        await anyio.wait_writable(self._number)
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def put(self, data: bytes) -> None:
        """Take bytes that are to be sent."""
        if self._unsent:
            self._unsent = b"".join((self._unsent, data))
        else:
            self._unsent = data
            self._untouched = True

    async def send(self, deadline: float) -> bool:
        """Send what was put; return False if the peer answers or closes the connection before all was sent."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                if await self._peer_speaks_first(deadline):
                    return False
            except OSError as error:
                if self._untouched:
                    raise NothingSentError(error.errno, error.strerror) from None
                raise
            else:
                self._untouched = False
                if sent == len(self._unsent):
                    self._unsent = b""
                    break
                self._unsent = memoryview(self._unsent)[sent:]
        return True

    async def receive(self, limit: int, deadline: float) -> bytes:
        """Wait for bytes; return empty bytes when the peer has ended the connection."""
        # Just after a request, the answer has never arrived yet, so waiting comes first and saves a system call.
        loop = self._watch()
        if loop is None:
            with anyio.fail_after(None if deadline == FOREVER else deadline - self._clock.now()):
                return await self._receive(limit)
        if deadline != FOREVER:
            if deadline <= self._clock.now():
                raise TimeoutError  # otherwise a peer that sends byte by byte would be waited for again and again
            self._deadlines.begin(self, deadline)
        self._limit = limit
        self._waiter = loop.create_future()
        try:
            came = await self._waiter
        finally:
            self._waiter = None
            self._deadlines.end(self)
        self._check_open()
        if isinstance(came, OSError):
            raise type(came)(came.errno, came.strerror)
        return came

    def receive_now(self, limit: int) -> bytes:
        """Return the bytes that have arrived, without waiting; empty bytes when the peer has ended the connection."""
        return self._socket.recv(limit)

    def is_idle(self) -> bool:
        """Return whether the peer has neither sent anything more nor ended the connection."""
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def expire(self) -> None:
        """End the wait for bytes, unless they have just arrived."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(TimeoutError())

    def close(self) -> None:
        """Close at once; a call that is waiting gets an OSError."""
        if self._socket.fileno() < 0:
            return
        if self._process != os.getpid():  # the fork called no hook, as uWSGI's
            self.close_inherited()
            return
        loop = None if self._loop is None else self._loop()
        if loop is not None and self._watched and loop.is_running() and not _runs_here(loop):
            # The last reference to a transport may have gone in any thread; an event loop is told in its own.
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(self.close)
                return
        self._unwatch()
        if self._waiter is not None and not self._waiter.done() and not self._waiter.get_loop().is_closed():
            self._waiter.set_result(b"")
        with suppress(RuntimeError):  # the event loop may have ended, and then nobody waits
            anyio.notify_closing(self._number)
        self._socket.close()

    def close_inherited(self) -> None:
        """Close, in a forked child, the copy of a socket that the parent still uses."""
        self._watched = False  # the epoll is shared with the parent, where the socket must stay watched
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()  # nobody waits and no loop watches: otherwise this object would not be garbage

    def _watch(self) -> "asyncio.AbstractEventLoop | None":
        """Let the event loop watch the socket; return the loop, or None if anyio must wait for it."""
        self._check_open()
        loop = None if self._loop is None else self._loop()
        if loop is not None and not self._watched:
            try:
                # In an empty context: otherwise the loop would keep the context of the first call alive.
                Context().run(loop.add_reader, self._number, self._wake)
                self._watched = True
            except NotImplementedError:  # Windows's proactor loop
                self._loop = loop = None
        return loop

    async def _receive(self, limit: int) -> bytes:
        while True:
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._number)
            self._check_open()
            with suppress(BlockingIOError, InterruptedError):
                return self._socket.recv(limit)

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise OSError(errno.EBADF, "the connection was closed")

    def _wake(self) -> None:
        if self._waiter is None:
            self._unwatch()  # nobody reads at present; the bytes can stay in the kernel
        elif not self._waiter.done():
            # Received here and not by the call, which runs one turn of the loop later: in between, the loop would find
            # the socket readable once more, and would end the call's next wait too early.
            try:
                self._waiter.set_result(self._socket.recv(self._limit))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._waiter.set_result(error)

    def _unwatch(self) -> None:
        if not self._watched:
            return
        self._watched = False
        loop = None if self._loop is None else self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._number)

    async def _peer_speaks_first(self, deadline: float) -> bool:
        """Wait until more can be sent; return True if the peer answers or closes the connection before that."""
        self._unwatch()
        spoke = False

        async def listen() -> None:
            nonlocal spoke
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._number)
            spoke = True
            group.cancel_scope.cancel()

        with anyio.fail_after(None if deadline == FOREVER else deadline - self._clock.now()):
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                with suppress(anyio.ClosedResourceError):
                    await anyio.wait_writable(self._number)
                group.cancel_scope.cancel()
        self._check_open()
        return spoke


def _runs_here(loop: "asyncio.AbstractEventLoop") -> bool:
    import asyncio  # noqa: PLC0415 - as above

    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _close_inherited() -> None:
    for one in list(_open):
        one.close_inherited()


if hasattr(os, "register_at_fork"):
    # Otherwise a child would keep its parent's connections open as long as it lives.
    os.register_at_fork(after_in_child=_close_inherited)
