"""TLS over a socket, or over another TLS stream, as through a proxy."""

import errno
import os
import ssl
from contextlib import suppress
from functools import cache
from typing import Final

import httpx

from perkamo.transport.deadlines import FOREVER
from perkamo.transport.sockets import Stream, reason

_CHUNK: Final = 65536


class TLSSetupError(httpx.ConnectError):
    """TLS can't be set up on this machine; the next attempt would fail in the same way."""


@cache
def shared_context() -> ssl.SSLContext:
    """Return the TLS context that all clients of this process share: making one takes longer than many calls.

    Raises:
        TLSSetupError: It can't be made; the text names the environment variable that is wrong.
    """
    if _lacks_directory():
        raise TLSSetupError("the directory that SSL_CERT_DIR names does not exist")
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        problem = reason(error)
    else:
        return context
    raise TLSSetupError(f"{_culprit()} can't be used ({problem})")


def _lacks_directory() -> bool:
    """Return whether SSL_CERT_DIR is used and is not a directory: Python then trusts nobody, without an error."""
    named = "" if os.environ.get("SSL_CERT_FILE") else os.environ.get("SSL_CERT_DIR", "")
    return bool(named) and not any(map(os.path.isdir, named.split(os.pathsep)))


def _culprit() -> str:
    """Name the wrong setting: httpx reads the certificates first, then Python opens the key log."""
    file = os.environ.get("SSL_CERT_FILE")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError:
        return "the file that SSL_CERT_FILE names"
    except TypeError:  # it does not exist
        pass
    return "the file that SSLKEYLOGFILE names" if os.environ.get("SSLKEYLOGFILE") else "the file of certificates"


class TLSStream:
    """TLS over another stream, with the same methods.

    It is closed without TLS's ``close_notify``, which would need waiting: HTTP itself says where an answer ends.

    Args:
        below: The stream that carries it. It is closed with this object.
        context: The certificates that are trusted, and our own, if any.
        host: The name or address that the peer's certificate must be for.
    """

    __slots__ = ("_ahead", "_below", "_from_peer", "_tls", "_to_peer")

    def __init__(self, below: Stream, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._ahead = b""
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        # As httpx does, whoever made the context: it may offer h2, which we would not understand.
        context.set_alpn_protocols(["http/1.1"])
        self._tls = context.wrap_bio(self._from_peer, self._to_peer, server_hostname=host)

    async def handshake(self) -> None:
        """Begin TLS.

        Raises:
            ssl.SSLError: The peer can't be trusted, or does not speak TLS.
            OSError: The connection is broken.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(FOREVER)
                await self._fill(FOREVER)
            except ssl.SSLError:
                with suppress(OSError):
                    await self._flush(FOREVER)  # so that an alert tells the peer why
                raise
            else:
                await self._flush(FOREVER)
                return

    def put(self, data: bytes) -> None:
        """Take bytes that are to be sent."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
            return self._below.put(self._to_peer.read())
        except ssl.SSLError as error:
            problem = reason(error)
            del data, rest  # the error leads into this frame
        raise OSError(errno.EPIPE, problem)

    async def send(self, deadline: float) -> bool:
        """Send what was put; return False if the peer answers or closes the connection before all was sent."""
        while not await self._below.send(deadline):
            if not self._take_in() or self._look_ahead():
                return False
        return True

    async def receive(self, limit: int, deadline: float) -> bytes:
        """Wait for bytes; return empty bytes when the peer has ended the connection."""
        while True:
            if self._ahead:
                data, self._ahead = self._ahead, b""
                return data
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                await self._flush(deadline)
                await self._fill(deadline)
            except ssl.SSLZeroReturnError:
                return b""

    def receive_now(self, limit: int) -> bytes:
        """Return the bytes that have arrived, without waiting; empty bytes when the peer has ended the connection."""
        while not self._look_ahead():
            if not self._take_in():
                return b""
        data, self._ahead = self._ahead[:limit], self._ahead[limit:]
        return data

    def is_idle(self) -> bool:
        """Return whether the peer has neither sent anything more nor ended the connection."""
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
        """Close at once; a call that is waiting gets an OSError."""
        self._below.close()

    def _look_ahead(self) -> bool:
        """Return whether there is something to receive: bytes, the end, or an error."""
        try:
            self._ahead = self._ahead or self._tls.read(_CHUNK)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True

    def _take_in(self) -> bool:
        data = self._below.receive_now(_CHUNK)
        self._from_peer.write(data)
        return bool(data)

    async def _flush(self, deadline: float) -> None:
        self._below.put(self._to_peer.read())
        while not await self._below.send(deadline):
            if not self._take_in():
                raise OSError(errno.ECONNRESET, "the connection was closed")

    async def _fill(self, deadline: float) -> None:
        data = await self._below.receive(_CHUNK, deadline)
        if data:
            self._from_peer.write(data)
        else:
            self._from_peer.write_eof()
