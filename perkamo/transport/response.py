"""The responses that an httpx client gets: the head of an answer, and its body, whole or as it arrives."""

from collections.abc import Mapping
from typing import Any, Self, cast

import anyio
import httpx

from perkamo.transport.deadlines import Timeouts
from perkamo.transport.head import Head, joined
from perkamo.transport.http1 import HTTP1Connection
from perkamo.transport.pool import Pool


class WholeBody(httpx.AsyncByteStream):
    """A body that has arrived already. It may be read any number of times.

    Args:
        data: The body.
    """

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data

    def __aiter__(self) -> "_Once":
        return _Once(self.data)


class _Once:
    """An iterator, because a generator would stay alive if a cancelled call left it."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


class ComingBody(httpx.AsyncByteStream):
    """A body that is still to come. Read to its end, it puts the connection back; otherwise the connection is closed.

    Args:
        pool: The pool of the connection.
        connection: The connection that it comes on.
        timeouts: The time limits of the exchange.
        deadline: When the caller gives the request up.
    """

    __slots__ = ("_deadline", "_held", "_timeouts")

    def __init__(self, pool: Pool, connection: HTTP1Connection, timeouts: Timeouts, deadline: float) -> None:
        # Released at the end: otherwise an answer that somebody keeps would keep an event loop's connections alive.
        self._held: tuple[Pool, HTTP1Connection] | None = (pool, connection)
        self._timeouts = timeouts
        self._deadline = deadline

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._held is None:
            raise StopAsyncIteration
        pool, connection = self._held
        try:
            part = await connection.receive_body(self._timeouts)
        except BaseException as error:
            self._held = None
            pool.drop(connection, failed=is_failure(error, self._deadline))
            raise
        if part is not None:
            return part
        self._held = None
        pool.finish(connection)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end."""
        if self._held is not None:
            (pool, connection), self._held = self._held, None
            pool.drop(connection)


def is_failure(error: BaseException, deadline: float) -> bool:
    """Return whether a request failed, and was not just cancelled by a caller who did not need it any more.

    Args:
        error: The error that ended the request.
        deadline: The ``anyio.current_time`` at which the caller gives the request up: a cancellation after that is a
            timeout.
    """
    if isinstance(error, httpx.TransportError | GeneratorExit):  # at GeneratorExit the event loop may have ended
        return not isinstance(error, GeneratorExit)
    return anyio.current_time() >= deadline


class Response(httpx.Response):
    """An answer whose headers object is built when somebody asks for it.

    Args:
        head: Its head.
        stream: Its body.
    """

    def __init__(self, head: Head, stream: WholeBody | ComingBody) -> None:
        # Not by httpx's own __init__, as in ``Request``.
        self.status_code: int = head.status
        self.stream = stream
        self.extensions: dict[str, Any] = {"http_version": head.http_version, "reason_phrase": head.reason}
        self.history: list[httpx.Response] = []
        self.next_request: httpx.Request | None = None
        self.default_encoding = "utf-8"
        self.is_closed: bool = False
        self.is_stream_consumed = False
        self._request = None
        self._num_bytes_downloaded = 0
        self._head = head
        self._body = stream
        self._headers: httpx.Headers | None = None

    @property
    def headers(self) -> httpx.Headers:
        """The headers."""
        if self._headers is None:
            self._headers = httpx.Headers(list(self._head.headers))
        return self._headers

    @headers.setter
    def headers(self, headers: httpx.Headers) -> None:
        self._headers = headers

    @property
    def fields(self) -> Mapping[str, str]:
        """The headers as they arrived, which nobody can have changed: names in lower case, and values."""
        return self._head.fields if self._headers is None else joined(self._headers.raw)

    async def aclose(self) -> None:
        """Close it, and leave httpx's stream: the two refer to each other, and would wait for the garbage collector."""
        if self.is_closed or not isinstance(self._body, WholeBody):
            await super().aclose()
        else:
            self.is_closed = True  # as httpx does it, without a context for errors of the connection, which is done
            await cast("httpx.AsyncByteStream", self.stream).aclose()
        self.stream = self._body

    @property
    def whole_body(self) -> bytes | None:
        """The body, encoded as it came, if it came with the head; otherwise None."""
        return self._body.data if isinstance(self._body, WholeBody) else None


def fields_of(response: httpx.Response) -> Mapping[str, str]:
    """Return names in lower case and values, joined as httpx joins them; cheaper than asking httpx for each."""
    return response.fields if isinstance(response, Response) else joined(response.headers.raw)
