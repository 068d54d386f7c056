"""HTTP/1.1 by h11, for requests and answers that are not plain. Imported when the first of them is met.

No error of h11 is passed on: its text may show headers, and its traceback leads into frames that hold the key.
"""

from collections.abc import Sequence
from typing import Final

import h11
import httpx

from perkamo.transport.head import Head
from perkamo.transport.request import RawHeaders

MAX_HEAD_BYTES: Final = 100 * 1024


class FullExchange:
    """One request and its answer, with all that HTTP/1.1 allows."""

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    def write(self, method: str, target: bytes, headers: RawHeaders, body: Sequence[bytes]) -> bytes | None:
        """Return the bytes of the request; None if it is not valid HTTP: an error would lead into frames with the key.

        Args:
            method: Its method.
            target: Its target, in origin, absolute or authority form.
            headers: Its headers.
            body: The parts of its body.
        """
        try:
            head = h11.Request(method=method, target=target, headers=list(headers))
            events = [head, *map(h11.Data, body), h11.EndOfMessage()]
            return b"".join(self._connection.send(event) or b"" for event in events)
        except h11.LocalProtocolError:
            return None

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer; empty bytes mean that the connection ended."""
        self._connection.receive_data(data)

    def find_head(self) -> Head | None:
        """Return the answer's head, or None if it is not complete yet.

        Raises:
            httpx.RemoteProtocolError: The answer is not valid HTTP.
        """
        while (event := self._next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                version = b"HTTP/" + event.http_version
                return Head(event.status_code, event.reason, event.headers.raw_items(), http_version=version)
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("the server switched to another protocol")
        return None

    def next_part(self) -> bytes | None:
        """Return the next part of the answer's body; None at its end, and empty bytes if more must be fed first.

        Raises:
            httpx.RemoteProtocolError: The answer is not valid HTTP, or is incomplete.
        """
        event = self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        return b"" if event is h11.NEED_DATA else None

    def has_surplus(self) -> bool:
        """Return whether bytes followed the answer."""
        return self._connection.trailing_data != (b"", False)

    def is_done(self) -> bool:
        """Return whether both messages are complete, and neither side wants to end the connection."""
        return self._connection.our_state is self._connection.their_state is h11.DONE

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as error:
            text = str(error)
        raise httpx.RemoteProtocolError(text)
