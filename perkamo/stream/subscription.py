"""One connection of a stream: the request, what its answer means, and the bytes that follow."""

import re
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from weakref import WeakMethod

import anyio
import httpx
from attrs import evolve, field, frozen

from perkamo.clock import Clock
from perkamo.errors import PerkamoClosedError, PerkamoError, PerkamoStreamError
from perkamo.event_loop import InLoop, caller_into_loop
from perkamo.models import ResponseMeta
from perkamo.redaction import clean, current_call
from perkamo.request.attempt import USER_AGENT, strip_traceback
from perkamo.request.body import read_bounded
from perkamo.request.classify import REQUEST_ID_HEADERS, Failure, Reply, classify_failure, classify_response
from perkamo.request.endpoints import Call
from perkamo.stream.token import TokenSource

CONTENT_TYPE: Final = "text/event-stream"
RETRIED_STATUSES: Final = frozenset({408, 429, *range(500, 600)})
TOKEN_STATUSES: Final = frozenset({401, 403})
HEAD_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0
MAX_ID_BYTES: Final = 4096
"""A longer Last-Event-ID would be refused with the whole request by most servers, on every reconnection."""

_STEP: Final = 65_536
_SENDABLE = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


class NoMoreEvents:
    """The service answered 204: there is nothing to subscribe to, now or later."""


class CloseNotifier:
    """Tells the streams of one client, each in its own event loop, that the client was closed. Use from any thread."""

    def __init__(self) -> None:
        self._streams: dict[WeakMethod[Callable[[], None]], InLoop] = {}

    def await_it(self, method: Callable[[], None]) -> None:
        """Have a stream's method called, in the loop that is running now; the stream is not kept alive for it."""
        self._streams[WeakMethod(method, lambda gone: self._streams.pop(gone, None))] = caller_into_loop()

    def say(self) -> None:
        """Call every method that is still there."""
        for reference, in_loop in list(self._streams.items()):
            method = reference()
            if method is not None:
                in_loop(method)


@frozen
class StreamOrigin:
    """Where the streams of one client come from.

    Attributes:
        base_url: Where the service is.
        path: The stream's path, with ``{user_id}`` in it.
        client: Returns the HTTP client to send with: the caller's, or one of the stream's own, because streams hold
            their connections and would leave none to the calls.
        client_is_external: Whether it is the caller's.
        is_closed: Tells whether the Perkamo client was closed.
        close_notifier: Tells it to those who wait.
    """

    base_url: str
    path: str
    client: Callable[[], httpx.AsyncClient]
    client_is_external: bool
    is_closed: Callable[[], bool]
    close_notifier: CloseNotifier = field(factory=CloseNotifier)


@frozen
class Subscription:
    """What each connection of a stream asks for, and how.

    Attributes:
        origin: Where it comes from.
        call: Path and label.
        token: What opens the stream.
        idle_timeout: Seconds without a byte after which a connection counts as lost; None for no limit.
        clock: What limits and waits go by, and where jitter comes from.
    """

    origin: StreamOrigin
    call: Call
    token: TokenSource
    idle_timeout: float | None
    clock: Clock = field(factory=Clock)

    async def connect(
        self, client: httpx.AsyncClient, last_event_id: str, number: int
    ) -> "StreamConnection | Failure | NoMoreEvents":
        """Make one request and look at the head of its answer.

        Args:
            client: What to send with.
            last_event_id: Where to resume; ``""`` for now.
            number: Which attempt in a row this is, from 1.

        Raises:
            PerkamoClosedError: The client was closed.
            PerkamoError: The token's supplier failed for good.
        """
        if self.origin.is_closed():
            raise PerkamoClosedError(f"{self.call.label}: the client is closed.")
        token = current_call.set(self.call.label)
        seconds = HEAD_SECONDS if self.idle_timeout is None else self.idle_timeout
        result: StreamConnection | Failure | NoMoreEvents | None = None
        try:
            with self.clock.limit(seconds):
                result = await self._attempt(client, last_event_id, number, seconds)
        finally:
            current_call.reset(token)
        return self.lost(httpx.ReadTimeout(""), number) if result is None else result

    def lost(self, problem: Exception, number: int) -> Failure:
        """Return what it means that a connection broke, or could not be made."""
        return classify_failure(self.call, problem, number, begun=True)

    async def _attempt(
        self, client: httpx.AsyncClient, last_event_id: str, number: int, seconds: float
    ) -> "StreamConnection | Failure | NoMoreEvents":
        try:
            auth = await self.token.auth()
        except PerkamoError as error:
            if error.retryable:
                return Failure(error, retry=True)
            raise
        try:
            request = self._request(last_event_id, seconds)
            response = await client.send(request, auth=auth, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.StreamError) as error:
            problem = strip_traceback(error)
        else:
            return await self._classify(response, number)
        return self.lost(problem, number)

    def _request(self, last_event_id: str, seconds: float) -> httpx.Request:
        base = httpx.URL(self.origin.base_url)
        url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + self.call.path.encode("ascii"))
        headers: list[tuple[bytes, bytes]] = [
            (b"Host", base.netloc),
            (b"Accept", CONTENT_TYPE.encode()),
            (b"Cache-Control", b"no-cache"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", USER_AGENT.encode()),
        ]
        if not self.origin.client_is_external:  # whose client may speak HTTP/2, which has no such header
            # After its end a connection is of no use to the stream: a kept one would often be dead when it reconnects.
            headers.append((b"Connection", b"close"))
        position = last_event_id.encode()
        if len(position) <= MAX_ID_BYTES and _SENDABLE.fullmatch(position):
            headers.append((b"Last-Event-ID", position))
        # Stock httpx loses a pool's slot when it is cancelled, so a caller's client is let time out by itself first.
        limits = {"connect": seconds, "read": self.idle_timeout, "write": seconds, "pool": seconds}
        return httpx.Request(
            "GET", url, headers=headers, extensions={"timeout": limits} if self.origin.client_is_external else {}
        )

    async def _classify(self, response: httpx.Response, number: int) -> "StreamConnection | Failure | NoMoreEvents":
        """Accept a stream. Of an error the body is read, within bounds; no event comes out of either."""
        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip(" \t").lower()
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        known = encoding in ("identity", "gzip", "x-gzip", "deflate")
        if status == 200 and kind == CONTENT_TYPE and known:
            return StreamConnection(response, self, number, inflate=None if encoding == "identity" else _Inflate())
        data: bytes | ValueError = b""
        try:
            if status >= 300 and kind != CONTENT_TYPE:  # a stream has no end
                data = await read_bounded(response)
        except ValueError as error:
            data = ValueError(str(error))
        except (httpx.HTTPError, httpx.StreamError):
            pass  # the status says enough
        finally:
            await _close(response)
        if status == 204:
            return NoMoreEvents()
        verdict = classify_response(self.call, response, data, number, time.time())
        if isinstance(verdict, Reply):
            return Failure(self._no_stream(status, kind, known=known), retry=False)
        return evolve(verdict, retry=status in RETRIED_STATUSES)

    def _no_stream(self, status: int, kind: str, *, known: bool) -> PerkamoStreamError:
        what = f"has the content type {clean(kind) or 'of nothing'}"
        if status != 200:
            what = f"has the status {status}"
        elif not known:
            what = "is encoded in a way that was not asked for"
        return PerkamoStreamError(
            f"{self.call.label}: the answer {what}, so it is no event stream. Check base_url and stream_path.",
            status=status,
        )


class StreamConnection:
    """An open stream: its head was accepted, its body is to be read.

    Attributes:
        meta: Status and request id of the answer.
        since: When it was opened, by the subscription's clock.
    """

    def __init__(
        self, response: httpx.Response, subscription: Subscription, number: int, inflate: "_Inflate | None"
    ) -> None:
        request_id = next((value for name in REQUEST_ID_HEADERS if (value := response.headers.get(name))), None)
        self.meta: ResponseMeta = ResponseMeta(status=response.status_code, request_id=request_id, attempts=number)
        self.since: float = subscription.clock.now()
        self._subscription = subscription
        self._response = response
        self._chunks = response.aiter_raw()
        self._inflate = inflate

    async def read(self) -> bytes | Failure:
        """Wait for the next bytes of the body, or for the end of the connection.

        A limit counts while this waits, not while the consumer is busy; any byte ends it, also that of a comment.
        """
        result: bytes | Failure | None = None
        with self._subscription.clock.limit(self._subscription.idle_timeout):
            result = await self._read()
        if result is None:
            return self._subscription.lost(httpx.ReadTimeout(""), self.meta.attempts)
        return result

    async def aclose(self) -> None:
        """Close the connection, also within a cancelled scope."""
        await _close(self._response)
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
            async for _ in self._chunks:  # fails at once, which ends the generators inside: trio wants them ended
                pass

    async def _read(self) -> bytes | Failure:
        try:
            while True:
                plain = b"" if self._inflate is None else self._inflate.take()
                if plain:
                    return plain
                raw = await anext(self._chunks, None)
                if raw is None:
                    problem: Exception = httpx.ReadError("the stream was cut off by the service")
                    break
                if self._inflate is None:
                    return raw
                self._inflate.give(raw)
        except (httpx.HTTPError, httpx.StreamError) as error:
            problem = strip_traceback(error)
        except zlib.error:
            problem = httpx.ReadError("the stream is compressed, and broken")
        return self._subscription.lost(problem, self.meta.attempts)


class _Inflate:
    """Decompresses step by step, so that no few bytes can become a memory full of them."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib by their headers
        self._waiting = b""

    def give(self, data: bytes) -> None:
        self._waiting += data

    def take(self) -> bytes:
        plain = self._decoder.decompress(self._waiting, _STEP)
        self._waiting = self._decoder.unconsumed_tail
        return plain


async def _close(response: httpx.Response) -> None:
    with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
        await response.aclose()
