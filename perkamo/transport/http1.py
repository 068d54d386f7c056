"""HTTP/1.1 over one connection, one exchange at a time: plain ones by the fast path, all others by h11."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import httpx

from perkamo.transport import plain
from perkamo.transport.deadlines import FOREVER, Timeouts
from perkamo.transport.head import Head
from perkamo.transport.proxy import Proxy
from perkamo.transport.request import RawHeaders, raw_headers_of
from perkamo.transport.sockets import NothingSentError, Stream, reason

if TYPE_CHECKING:
    from perkamo.transport.full import FullExchange

Origin: TypeAlias = tuple[bool, str, int]
"""Whether TLS is used, the host in ASCII, the port."""

_CHUNK: Final = 65536
_NO_HTTP: Final = "the request is not valid HTTP"
_KEEP_ALIVE: Final = r"(?i)(?:^|[,;\s])timeout\s*=\s*\"?([0-9]{1,9})(?![0-9])"
_MARGIN: Final = 0.5
"""Seconds by which a connection is given up earlier than the server said, because the server began to count earlier."""


class Exchange:
    """One request and its answer, independent of the connection that carries them.

    Attributes:
        head: The answer's head, once it is complete.
    """

    __slots__ = ("_data", "_full", "_missing", "_part", "_surplus", "head")

    def __init__(self, request: httpx.Request, body: Sequence[bytes], proxy: Proxy | None = None) -> None:
        """Write the request.

        Args:
            request: Its head.
            body: The parts of its body.
            proxy: The proxy that forwards it, or None.

        Raises:
            httpx.LocalProtocolError: The request is not valid HTTP.
        """
        self.head: Head | None = None
        self._full: FullExchange | None = None  # None as long as the short way is good enough
        self._part = b""
        self._missing = 0
        self._surplus = False
        data = self._write(request, body, proxy)
        if data is None:
            del body  # the error leads into this frame
            raise httpx.LocalProtocolError(_NO_HTTP)
        self._data = data

    def put_on(self, stream: Stream) -> None:
        """Give the request to a stream, to be sent."""
        stream.put(self._data)

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer; empty bytes mean that the connection ended.

        Raises:
            httpx.RemoteProtocolError: There is no answer, or its body is incomplete.
        """
        if not data and self.head is None:
            raise httpx.RemoteProtocolError("the server closed the connection without an answer")
        if self._full is not None:
            self._full.feed(data)
        elif self.head is not None:
            self._feed_body(data)
        elif (found := plain.read(data)) is not None:
            self.head, self._part, self._missing = found
        else:
            self._full = _full()
            # h11 must send a request before it reads an answer. Any plain one will do, as their answers read alike.
            self._full.write("GET", b"/", [(b"Host", b"")], ())
            self._full.feed(data)

    def find_head(self) -> Head | None:
        """Return the answer's head, or None if it is not complete yet.

        Raises:
            httpx.RemoteProtocolError: The answer is not valid HTTP.
        """
        if self.head is None and self._full is not None:
            self.head = self._full.find_head()
        return self.head

    def next_part(self) -> bytes | None:
        """Return the next part of the answer's body; None at its end, and empty bytes if more must be fed first.

        Raises:
            httpx.RemoteProtocolError: The answer is not valid HTTP, or is incomplete.
        """
        if self._full is not None:
            return self._full.next_part()
        part, self._part = self._part, b""
        return part if part or self._missing else None

    def take_body(self) -> bytes | None:
        """Return the whole body if it came with the head; None if it must be read in parts."""
        if self._full is not None or self._missing:
            return None
        return self.next_part() or b""

    def has_surplus(self) -> bool:
        """Return whether bytes followed the answer."""
        return self._surplus if self._full is None else self._full.has_surplus()

    def leaves_connection(self) -> bool:
        """Return whether the connection can serve another exchange: both sides said so, and nothing followed."""
        if self.has_surplus():
            return False
        return self._full.is_done() if self._full is not None else self.head is not None and not self._missing

    def keep_alive(self) -> float:
        """Return for how many seconds the server says that it keeps the idle connection, if it says so."""
        said = None if self.head is None else self.head.fields.get("keep-alive")
        found = None if said is None else re.search(_KEEP_ALIVE, said)
        return FOREVER if found is None else max(int(found[1]) - _MARGIN, int(found[1]) / 2)

    def _write(self, request: httpx.Request, body: Sequence[bytes], proxy: Proxy | None) -> bytes | None:
        target: bytes = request.extensions.get("target", request.url.raw_path)
        headers: RawHeaders = raw_headers_of(request)
        if proxy is not None:
            target, headers = proxy.forwarded(request, target)
        data = plain.write(request.method, target, headers, b"".join(body))
        if data is None:
            self._full = _full()
            data = self._full.write(request.method, target, headers, body)
        return data

    def _feed_body(self, data: bytes) -> None:
        if not data:
            raise httpx.RemoteProtocolError("the server closed the connection within the body of its answer")
        self._surplus = len(data) > self._missing
        self._part = data[: self._missing]
        self._missing -= len(self._part)


def _full() -> "FullExchange":
    """Make an exchange by h11, whose import takes a tenth of httpx's time, and which a plain service never needs."""
    from perkamo.transport.full import FullExchange  # noqa: PLC0415 - see above

    return FullExchange()


class HTTP1Connection:
    """One connection to one service.

    Attributes:
        origin: The service that it leads to.
        aged: The time from which it is not used for a further exchange.
        taken_at: When a call took it from the idle ones; 0 if it is new.
        idle_since: When its last exchange ended.
        good_until: The time from which it is not used, if it stays idle until then.
    """

    __slots__ = ("_exchange", "_sent", "_stream", "aged", "good_until", "idle_since", "origin", "taken_at")

    def __init__(self, origin: Origin, stream: Stream, aged: float) -> None:
        self.origin: Origin = origin
        self.aged: float = aged
        self.taken_at: float = 0.0
        self.idle_since: float = 0.0
        self.good_until: float = 0.0
        self._stream = stream
        self._exchange: Exchange | None = None
        self._sent = False

    async def send(self, exchange: Exchange, deadline: float) -> None:
        """Begin an exchange: send its request, until all is sent or the peer answers early.

        Raises:
            NothingSentError: The connection had been used before, and was broken before anything was sent.
            httpx.WriteTimeout: Sending took too long.
            httpx.TransportError: The early answer cannot be used.
        """
        self._exchange = exchange
        self._sent = False
        exchange.put_on(self._stream)
        try:
            while not await self._stream.send(deadline):
                exchange.feed(await self._stream.receive(_CHUNK, deadline))
                if exchange.find_head() is not None:
                    return
        except TimeoutError:
            pass
        except NothingSentError:
            if self.taken_at:
                raise
            return
        except OSError:
            return  # there may be an answer all the same
        else:
            self._sent = True
            return
        raise httpx.WriteTimeout("the server accepted no more of the request in time")

    async def receive_head(self, timeouts: Timeouts) -> Head:
        """Return the head of the answer.

        Raises:
            httpx.TransportError: There is no answer, or it is not valid HTTP.
        """
        exchange = self._under_way()
        while (head := exchange.find_head()) is None:
            exchange.feed(await self._receive(timeouts.until("read")))
        return head

    async def receive_body(self, timeouts: Timeouts) -> bytes | None:
        """Return the next part of the answer's body, or None at its end.

        Raises:
            httpx.TransportError: The body is incomplete, or is not valid HTTP.
        """
        exchange = self._under_way()
        while (part := exchange.next_part()) == b"":
            exchange.feed(await self._receive(timeouts.until("read")))
        return part

    def take_body(self) -> bytes | None:
        """Return the whole body if it came with the head; None if it must be read in parts."""
        return self._under_way().take_body()

    def renew(self) -> float | None:
        """Get ready for the next exchange; return for how long the server waits for it, None if there can't be one.

        There can't be one after surplus bytes, which could be taken for the next answer.
        """
        exchange, self._exchange = self._under_way(), None
        return exchange.keep_alive() if self._sent and exchange.leaves_connection() else None

    def is_idle(self) -> bool:
        """Return whether the peer has neither sent anything after its answer nor ended the connection."""
        return self._stream.is_idle()

    def close(self) -> None:
        """Close at once; an exchange under way ends with an error."""
        self._stream.close()

    def _under_way(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    async def _receive(self, deadline: float) -> bytes:
        try:
            return await self._stream.receive(_CHUNK, deadline)
        except TimeoutError:
            problem: httpx.TransportError = httpx.ReadTimeout("the server did not answer in time")
        except OSError as error:
            problem = httpx.ReadError(reason(error))
        raise problem
