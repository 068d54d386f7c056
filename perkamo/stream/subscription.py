"""One connection of a stream: the request, the classification of its answer, and the bytes that follow."""

import logging
import re
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final
from weakref import WeakMethod

import anyio
import httpx
from attrs import field, frozen

from perkamo.errors import PerkamoClosedError, PerkamoError, PerkamoStreamError
from perkamo.hooks import Hooks
from perkamo.models import ResponseMeta
from perkamo.redaction import clean, current_call
from perkamo.request.attempt import USER_AGENT, heeds_target, read_answer
from perkamo.request.body import Inflater, content_coding
from perkamo.request.classify import (
    REQUEST_ID_HEADERS,
    Attempt,
    Failure,
    Head,
    Reply,
    classify_failure,
    classify_response,
    logger,
)
from perkamo.request.endpoints import Call, customer_stream
from perkamo.request.exchange import Exchange
from perkamo.request.failures import Problem, problem_of, result_of
from perkamo.request.observation import Observation
from perkamo.request.options import check_timeout
from perkamo.request.outgoing import Addresses, SentPath
from perkamo.request.retry import RetryQuota
from perkamo.runtime.clock import Clock
from perkamo.runtime.event_loop import InLoop, caller_into_loop
from perkamo.stream.token import Bearer, TokenSource

CONTENT_TYPE: Final = "text/event-stream"
HEAD_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0
MAX_ID_BYTES: Final = 4096
"""Most servers would refuse a request with a longer Last-Event-ID, on every reconnection."""

_NO_HEADERS: Final[Mapping[str, str]] = {}
_SENDABLE = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


@frozen
class NoMoreEvents:
    """The service answered 204: there is nothing to subscribe to, now or later.

    Attributes:
        head: The answer.
    """

    head: Head


class CloseNotifier:
    """Notifies the streams of one client, each in its own event loop, that the client was closed. It is thread-safe."""

    def __init__(self) -> None:
        self._streams: dict[WeakMethod[Callable[[], None]], InLoop] = {}

    def await_it(self, method: Callable[[], None]) -> None:
        """Register a stream's method, to be called in the current event loop; the stream is not kept alive."""
        self._streams[WeakMethod(method, lambda gone: self._streams.pop(gone, None))] = caller_into_loop()

    def say(self) -> None:
        """Call every method whose stream still exists."""
        for reference, in_loop in list(self._streams.items()):
            method = reference()
            if method is not None:
                in_loop(method)


@frozen
class StreamOrigin:
    """The settings that all streams of one client share.

    Attributes:
        base_url: The URL of the service.
        path: The stream's path, with ``{user_id}`` in it.
        client: Returns the HTTP client to send with: the caller's, or one for streams only, because streams keep their
            connections and would leave none for calls.
        client_is_external: Whether it is the caller's.
        is_closed: Returns whether the Perkamo client was closed.
        hooks: The hooks that are notified of connections.
        server: Host and port of the service, for the hooks.
        quota: The retry quota of the client's calls. Streams report it to hooks, and take nothing from it.
        close_notifier: Notifies streams that wait when the client is closed.
    """

    base_url: str
    path: str
    client: Callable[[], httpx.AsyncClient]
    client_is_external: bool
    is_closed: Callable[[], bool]
    hooks: Hooks
    server: tuple[str, int]
    quota: RetryQuota
    close_notifier: CloseNotifier = field(factory=CloseNotifier)

    @classmethod
    def of(cls, exchange: Exchange, path: str, client: Callable[[], httpx.AsyncClient]) -> "StreamOrigin":
        """Return the settings of the client that sends its calls by ``exchange``."""
        sender = exchange.sender
        return cls(
            base_url=sender.base_url,
            path=path,
            client=client,
            client_is_external=not sender.owned,
            is_closed=lambda: sender.client.is_closed,
            hooks=exchange.hooks,
            server=sender.server,
            quota=exchange.quota,
        )


@frozen
class Subscription:
    """Makes the connections of one stream.

    Attributes:
        origin: The settings of its client.
        call: Path and label.
        token: The stream token or its supplier.
        idle_timeout: Seconds without a byte after which a connection counts as lost; None for no limit.
        clock: The clock of limits and waits, and the source of jitter.
    """

    origin: StreamOrigin
    call: Call
    token: TokenSource
    idle_timeout: float | None
    clock: Clock = field(factory=Clock)

    @classmethod
    def of(
        cls, origin: StreamOrigin, clock: Clock, user_id: str, token: TokenSource, idle_timeout: object
    ) -> "Subscription":
        """Check what a caller has given, and return the subscription.

        Raises:
            PerkamoValidationError: The id or the token can't be sent.
            PerkamoConfigurationError: The timeout can't work.
        """
        token.check()
        call = customer_stream(user_id, origin.path)
        return cls(origin=origin, call=call, token=token, idle_timeout=check_timeout(idle_timeout), clock=clock)

    def observe(self) -> Observation | None:
        """Return the observation of a connection and its attempts, for hooks and the log; None if nobody watches."""
        origin = self.origin
        if not (origin.hooks or logger.isEnabledFor(logging.INFO)):
            return None
        return Observation(self.call, origin.hooks, self.clock, origin.server)

    async def connect(
        self, client: httpx.AsyncClient, last_event_id: str, number: int, observation: Observation | None
    ) -> "StreamConnection | Failure | NoMoreEvents":
        """Make one request and look at the head of its answer.

        Args:
            client: The HTTP client to send with.
            last_event_id: Where to resume; ``""`` for now.
            number: The number of this attempt in a row, from 1.
            observation: Notifies hooks and the log of it; None if nobody watches.

        Raises:
            PerkamoClosedError: The client was closed.
            PerkamoError: The token's supplier failed permanently.
        """
        if self.origin.is_closed():
            raise PerkamoClosedError(f"{self.call.label}: the client is closed.")
        token = current_call.set(self.call.label)
        seconds = HEAD_SECONDS if self.idle_timeout is None else self.idle_timeout
        result: StreamConnection | Failure | NoMoreEvents | None = None
        try:
            extra = _NO_HEADERS if observation is None else observation.attempt_starts()
            with self.clock.limit(seconds):
                result = await self._attempt(client, last_event_id, number, seconds, extra)
        finally:
            current_call.reset(token)
        return classify_failure(self._made(number), Problem("timeout")) if result is None else result

    def _made(self, number: int, credential: str = "") -> Attempt:
        return Attempt(self.call, number, credential=credential, use="stream", timestamp=time.time())

    async def _attempt(
        self, client: httpx.AsyncClient, last_event_id: str, number: int, seconds: float, extra: Mapping[str, str]
    ) -> "StreamConnection | Failure | NoMoreEvents":
        try:
            bearer = await self.token.auth()
        except PerkamoError as error:
            if error.retryable:
                return Failure(error, retry=True)
            raise
        attempt = self._made(number, bearer.token)
        request, auth = self._request(client, bearer, last_event_id, seconds, extra)
        try:
            response = await client.send(request, auth=auth, stream=True, follow_redirects=False)
        except Exception as error:
            result = result_of(error, request, begun=True, external=self.origin.client_is_external)
            if result is None:
                raise
        else:
            return await self._accept(attempt, response)
        if isinstance(result, Problem):
            return classify_failure(attempt, result)
        return self._refuse(attempt, *result)

    def _request(
        self, client: httpx.AsyncClient, bearer: Bearer, last_event_id: str, seconds: float, extra: Mapping[str, str]
    ) -> tuple[httpx.Request, httpx.Auth]:
        addresses = Addresses(self.origin.base_url)
        url, path = addresses.of(self.call)
        headers: list[tuple[bytes, bytes]] = [
            (b"Host", addresses.host),
            (b"Accept", CONTENT_TYPE.encode()),
            (b"Cache-Control", b"no-cache"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", USER_AGENT.encode()),
            *((name.encode(), value.encode()) for name, value in extra.items()),
        ]
        position = last_event_id.encode()
        if len(position) <= MAX_ID_BYTES and _SENDABLE.fullmatch(position):
            headers.append((b"Last-Event-ID", position))
        if self.origin.client_is_external:
            # Stock httpx loses a pool's slot when it is cancelled, so a caller's client can time out by itself first.
            limits = {"connect": seconds, "read": self.idle_timeout, "write": seconds, "pool": seconds}
            request = httpx.Request("GET", url, headers=headers, extensions={"timeout": limits})
            return request, SentPath(bearer, url.raw_path, path, client)
        # A connection is not reused after a stream: it would often be dead when the stream reconnects. A caller's
        # client may speak HTTP/2, which does not allow this header.
        headers.append((b"Connection", b"close"))
        if heeds_target(client):
            return httpx.Request("GET", url, headers=headers, extensions={"target": path}), bearer
        return httpx.Request("GET", url, headers=headers), SentPath(bearer, url.raw_path, path, client)

    async def _accept(self, attempt: Attempt, response: httpx.Response) -> "StreamConnection | Failure | NoMoreEvents":
        """Accept a stream, or classify another answer. The body of an error is read, within bounds."""
        coding = content_coding(response.headers.get("content-encoding"))
        if response.status_code == 200 and _media_type(response) == CONTENT_TYPE and coding != "unknown":
            return StreamConnection(response, self, attempt, inflater=None if coding is None else Inflater(coding))
        data: bytes | ValueError = b""
        try:
            if response.status_code >= 300 and _media_type(response) != CONTENT_TYPE:  # a stream has no end
                data = await read_answer(response)
        except (httpx.HTTPError, httpx.StreamError):
            pass  # the status is enough
        finally:
            await _close(response)
        return self._refuse(attempt, response, data)

    def _refuse(self, attempt: Attempt, response: httpx.Response, data: bytes | ValueError) -> Failure | NoMoreEvents:
        """Classify an answer that is not a stream."""
        if response.status_code == 204:
            return NoMoreEvents(_head(attempt, response))
        verdict = classify_response(attempt, response, data)
        if isinstance(verdict, Reply):
            return Failure(self._no_stream(response), retry=False)
        return verdict

    def _no_stream(self, response: httpx.Response) -> PerkamoStreamError:
        media_type = clean(_media_type(response))
        what = f"has the content type {media_type}" if media_type else "has no content type"
        if response.status_code != 200:
            what = f"has the status {response.status_code}"
        elif _media_type(response) == CONTENT_TYPE:
            what = "is encoded in a way that was not asked for"
        return PerkamoStreamError(
            f"{self.call.label}: the answer {what}, so it is not an event stream. Check base_url and stream_path.",
            status=response.status_code,
        )


def _head(attempt: Attempt, response: httpx.Response) -> Head:
    request_id = next((value for name in REQUEST_ID_HEADERS if (value := response.headers.get(name))), None)
    meta = ResponseMeta(status=response.status_code, request_id=request_id, attempts=attempt.number)
    return Head(meta, attempt)


def _media_type(response: httpx.Response) -> str:
    header: str = response.headers.get("content-type", "")
    return header.partition(";")[0].strip(" \t").lower()


class StreamConnection:
    """An open stream: its head was accepted, and its body is still to be read.

    Attributes:
        head: The head of the answer.
        since: When it was opened, by the subscription's clock.
    """

    def __init__(
        self, response: httpx.Response, subscription: Subscription, attempt: Attempt, inflater: Inflater | None
    ) -> None:
        self.head: Head = _head(attempt, response)
        self.since: float = subscription.clock.now()
        self._subscription = subscription
        self._attempt = attempt
        self._response = response
        self._chunks = response.aiter_raw()
        self._inflater = inflater

    async def read(self) -> bytes | Failure:
        """Wait for the next bytes of the body, or for the end of the connection.

        The time limit counts only while this waits, not while the consumer is busy. Any byte, even of a comment, resets
        it.
        """
        result: bytes | Problem = Problem("timeout")
        with self._subscription.clock.limit(self._subscription.idle_timeout):
            result = await self._read()
        return classify_failure(self._attempt, result) if isinstance(result, Problem) else result

    async def aclose(self) -> None:
        """Close the connection, also within a cancelled scope."""
        await _close(self._response)
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
            async for _ in self._chunks:  # fails at once and thereby ends the generators inside, as trio requires
                pass

    async def _read(self) -> bytes | Problem:
        try:
            while True:
                plain = b"" if self._inflater is None else self._inflater.take()
                if plain:
                    return plain
                raw = await anext(self._chunks, None)
                if raw is None:
                    return Problem("connection", "the stream was cut off by the service")
                if self._inflater is None:
                    return raw
                self._inflater.give(raw)
        except zlib.error:
            return Problem("connection", "the stream is compressed, and broken")
        except Exception as error:
            problem = problem_of(error, begun=True, external=self._subscription.origin.client_is_external)
            if problem is None:
                raise
        return problem


async def _close(response: httpx.Response) -> None:
    with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
        await response.aclose()
