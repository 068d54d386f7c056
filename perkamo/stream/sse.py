"""Parses bytes into server-sent events, by the WHATWG standard (HTML 9.2): pure and incremental, without I/O.

Only LF, CR and CRLF end a line, also if CRLF is split between two chunks. A CR ends its line at once, so that no event
waits for the byte after it. Text is UTF-8, whatever the content type says. An event that is incomplete when the
connection ends is dropped.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from perkamo.errors import PerkamoStreamError

MAX_EVENT_SIZE: Final = 1_048_576
MAX_RETRY_MS: Final = 86_400_000
"""One day: longer reconnection times, with any number of digits, count as this."""

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset({"data", "event", "id", "retry"})
_UNDECIDED: Final = 6
"""This many bytes of a line decide whether it is a field that is kept: the longest name and its colon."""

_REPLACED: Final = 3
"""An invalid byte becomes U+FFFD, which is three bytes of UTF-8."""

_MOST_DIGITS: Final = 9
_BLOCK_OR_LINE = re.compile(
    r"(?:id: ?([^\n\0 ][^\n\0]*+)\n)?+(?:event: ?([^\n ][^\n]*+)\n)?+data: ?+([^\n]*+)\n\n|([^\n]*+\n)"
)
"""A block as most servers write it, in one step, or one line of any kind."""


class ServerSentEvent(NamedTuple):
    """One event of a stream. It is a named tuple, which takes half the time of a frozen attrs class to make.

    Attributes:
        event: Its type; ``"message"`` if the stream does not name one.
        data: Its data lines, joined by LF.
        id: The current last event id, which may come from an earlier event or connection; ``""`` for none.
    """

    event: str
    data: str
    id: str

    def __repr__(self) -> str:
        """Show the type only, because the data is personal."""
        return f"<ServerSentEvent {self.event!r}>"


_make: Final[Callable[[tuple[str, str, str]], ServerSentEvent]] = partial(tuple[str, str, str].__new__, ServerSentEvent)
"""As ``ServerSentEvent._make``, in three quarters of its time."""


class EventStreamDecoder:
    """Decodes the body of one connection.

    Args:
        last_event_id: The last event id when the connection was made: that of the previous decoder.
        max_event_size: The most bytes that the ``data``, ``event``, ``id`` and ``retry`` lines of one block may have,
            without line ends; None for no limit. Comments and unknown fields take no memory and do not count.

    Attributes:
        last_event_id: The id after the last complete block; the next connection's decoder begins with it.
        retry_ms: The reconnection time that the stream set last, in milliseconds, up to a day; None if it set none.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_event",
        "_id",
        "_limit",
        "_oversized",
        "_partial",
        "_size",
        "last_event_id",
        "retry_ms",
    )

    def __init__(self, last_event_id: str = "", max_event_size: int | None = MAX_EVENT_SIZE) -> None:
        self.last_event_id: str = last_event_id
        self.retry_ms: int | None = None
        self._limit = math.inf if max_event_size is None else max_event_size
        self._oversized = False
        self._at_start = True
        self._after_cr = False
        self._partial = bytearray()
        self._data: list[str] = []
        self._event = ""
        self._id = last_event_id
        self._size = 0  # of the current block; above 0 once a field is kept

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes of the body, split anywhere, and return the events that they complete.

        Args:
            chunk: The bytes.

        Raises:
            PerkamoStreamError: A block is larger than allowed. Complete events before it are returned first; each
                further call raises, even one without bytes.
        """
        if self._oversized:
            raise self._error()
        if self._at_start or self._after_cr or chunk.find(b"\r") >= 0:
            chunk = self._unify(chunk)
        rest = b""
        if self._partial or not chunk.endswith(b"\n"):
            chunk, rest = self._cut(chunk)
        events: list[ServerSentEvent] = []
        if chunk:
            self._read(chunk, events)
        if rest:
            self._hold(rest)
        if self._oversized and not events:
            raise self._error()
        return events

    def _unify(self, chunk: bytes) -> bytes:
        """Strip the connection's byte-order mark, and turn every line end into LF."""
        if self._at_start:
            chunk = bytes(self._partial) + chunk
            self._partial.clear()
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._partial += chunk
                return b""
            self._at_start = False
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _cut(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Prepend what is kept of the first line, and cut off an incomplete line at the end."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            return b"", chunk
        lines = bytes(self._partial) + chunk[:end]
        self._partial.clear()
        return lines, chunk[end:]

    def _read(self, lines: bytes, events: list[ServerSentEvent]) -> None:
        """Take whole lines: by blocks if no block can be too large, otherwise one by one."""
        text = lines.decode("utf-8", "replace")
        if self._size + _REPLACED * len(lines) > self._limit:
            for line in text.split("\n")[:-1]:
                self._take(line, events)
                if self._oversized:
                    return
            return
        rows: list[tuple[str, str, str, str]] = _BLOCK_OR_LINE.findall(text)
        for last_id, event, data, line in rows:
            if line:
                self._take(line[:-1], events)
                continue
            if last_id:
                self._id = last_id
            if self._size:  # the end of a block that began with other lines
                self._event = event or self._event
                self._data.append(data)
                self._end_block(events)
            else:
                self.last_event_id = self._id
                events.append(_make((event or "message", data, self._id)))

    def _take(self, line: str, events: list[ServerSentEvent]) -> None:
        if not line:
            self._end_block(events)
            return
        name, _, value = line.partition(":")
        if name not in _FIELDS:
            return
        self._size += len(line) if line.isascii() else len(line.encode())
        if self._size > self._limit:
            self._oversized = True
            return
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = self._id if "\0" in value else value
        elif value.isascii() and value.isdigit():
            self.retry_ms = _milliseconds(value)

    def _end_block(self, events: list[ServerSentEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            events.append(ServerSentEvent(self._event or "message", "\n".join(self._data), self._id))
            self._data.clear()
        self._event = ""
        self._size = 0

    def _hold(self, rest: bytes) -> None:
        """Keep the beginning of a line. Of a comment or an unknown field, only its kind is kept."""
        partial = self._partial
        partial += rest
        name, colon, _ = partial[:_UNDECIDED].partition(b":")
        if colon and name.decode("latin-1") in _FIELDS:
            self._oversized = self._size + len(partial) > self._limit
        elif colon or len(name) == _UNDECIDED:
            partial[:] = b":"

    def _error(self) -> PerkamoStreamError:
        return PerkamoStreamError(
            f"The stream sent an event larger than {self._limit} bytes and was closed. After reconnecting, the service "
            "would send the same event again."
        )


def _milliseconds(digits: str) -> int:
    significant = digits.lstrip("0")
    if len(significant) > _MOST_DIGITS:  # int() refuses thousands of digits
        return MAX_RETRY_MS
    return min(int(significant or "0"), MAX_RETRY_MS)
