"""HTTP/1.1 over one connection: one exchange at a time, with h11 for the bytes.

Every error is a fresh one of httpx's, raised outside the ``except`` block: h11 shows headers in the texts of its
errors, and their tracebacks lead into frames that hold the API key.
"""

from typing import Final, TypeAlias

import anyio
import h11
import httpx

from perkamo.transport.sockets import Stream, reason

MAX_HEAD_BYTES: Final = 100 * 1024
_CHUNK: Final = 65536
_NO_HTTP: Final = "the request is not valid HTTP"

Origin: TypeAlias = tuple[bool, str, int]
"""Whether TLS is used, the host, the port."""


class HTTP1Connection:
    """One connection to one service.

    Attributes:
        origin: Where it leads.
        idle_since: When its last exchange ended, on the monotonic clock.
    """

    __slots__ = ("_h11", "_head", "_sent", "_stream", "idle_since", "origin")

    def __init__(self, origin: Origin, stream: Stream) -> None:
        self.origin: Origin = origin
        self.idle_since: float = 0.0
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: h11.Response | None = None
        self._sent = False

    async def send(self, request: httpx.Request, seconds: float | None) -> None:
        """Send a request, until it is sent or the peer has answered it already.

        Args:
            request: What to send.
            seconds: How long sending may take, or None.

        Raises:
            httpx.LocalProtocolError: It is no HTTP.
            httpx.WriteTimeout: Sending took longer.
            httpx.TransportError: The answer that came meanwhile is no good.
        """
        self._sent = False
        self._put_head(request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        # Taken whole before it is sent: a generator that is left in the middle would outlive the call.
        async for chunk in request.stream:
            self._put(h11.Data(chunk))
        self._put(h11.EndOfMessage())
        await self._write(seconds)

    async def receive_head(self, seconds: float | None) -> h11.Response:
        """Return the head of the answer.

        Args:
            seconds: How long the peer may be silent, or None.

        Raises:
            httpx.TransportError: There is none, or it is no HTTP.
        """
        while self._head is None:
            event = self._next_event()
            if event is h11.NEED_DATA:
                self._feed(await self._read(seconds))
            else:
                self._take_head(event)
        head, self._head = self._head, None
        return head

    async def receive_body(self, seconds: float | None) -> bytes | None:
        """Return the next part of the answer's body, or None at its end.

        Args:
            seconds: How long the peer may be silent, or None.

        Raises:
            httpx.TransportError: It breaks off, or is no HTTP.
        """
        while True:
            event = self._next_event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if event is not h11.NEED_DATA:
                return None
            self._feed(await self._read(seconds))

    def renew(self) -> bool:
        """Get ready for the next exchange; False when there can't be one, or when bytes came after the answer."""
        whole = self._sent and self._h11.our_state is self._h11.their_state is h11.DONE
        if not whole or self._h11.trailing_data != (b"", False):
            return False
        self._h11.start_next_cycle()
        return True

    def is_idle(self) -> bool:
        """Tell whether the peer has neither sent anything after its answer nor ended the connection."""
        return self._stream.is_idle()

    def close(self) -> None:
        """Close at once; an exchange under way ends with an error."""
        self._stream.close()

    def _put_head(self, request: httpx.Request) -> None:
        target: bytes = request.extensions.get("target", request.url.raw_path)
        try:
            head = h11.Request(method=request.method, target=target, headers=request.headers.raw)
        except h11.LocalProtocolError:
            pass
        else:
            return self._put(head)
        raise httpx.LocalProtocolError(_NO_HTTP)

    def _put(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        try:
            return self._stream.put(self._h11.send(event) or b"")
        except h11.LocalProtocolError:
            del event  # the error leads into this frame
        raise httpx.LocalProtocolError(_NO_HTTP)

    async def _write(self, seconds: float | None) -> None:
        try:
            if seconds is None:
                return await self._write_or_listen()
            with anyio.fail_after(seconds):
                return await self._write_or_listen()
        except TimeoutError:
            pass
        except OSError:
            return None  # there may be an answer all the same
        raise httpx.WriteTimeout("the server took nothing more of the request in time")

    async def _write_or_listen(self) -> None:
        while not await self._stream.send():
            self._feed(await self._stream.receive(_CHUNK))
            while (event := self._next_event()) is not h11.NEED_DATA:
                self._take_head(event)
                if self._head is not None:
                    return
        self._sent = True

    async def _read(self, seconds: float | None) -> bytes:
        try:
            if seconds is None:
                return await self._stream.receive(_CHUNK)
            with anyio.fail_after(seconds):
                return await self._stream.receive(_CHUNK)
        except TimeoutError:
            problem: httpx.TransportError = httpx.ReadTimeout("the server said nothing in time")
        except OSError as error:
            problem = httpx.ReadError(reason(error))
        raise problem

    def _feed(self, data: bytes) -> None:
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise httpx.RemoteProtocolError("the server closed the connection without an answer")
        self._h11.receive_data(data)

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            text = str(error)
        raise httpx.RemoteProtocolError(text)

    def _take_head(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Response):
            self._head = event
        elif not isinstance(event, h11.InformationalResponse):
            raise httpx.RemoteProtocolError("the server changed the protocol unasked")
