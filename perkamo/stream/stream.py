"""The customer stream: live customer state as an iterator that reconnects, resumes and notices silence.

Preview: the service's stream is announced; its path, parameters and event names are unpublished. ``sse`` parses events,
``reconnect`` decides how long to wait, and ``subscription`` makes one connection.
"""

import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeAlias, get_args

import anyio
import httpx
from attrs import frozen

from perkamo.decoding.answers import decode_update
from perkamo.encoding.serializable import Serializable
from perkamo.errors import PerkamoClosedError, PerkamoConfigurationError, PerkamoError, PerkamoStreamError
from perkamo.models import Customer, ResponseMeta
from perkamo.request.classify import Failure, Head
from perkamo.request.observation import Observation
from perkamo.request.options import check_type
from perkamo.runtime.unclosed import warn_unclosed
from perkamo.stream.failures import TOKEN_STATUSES, failed_permanently, gave_up, not_a_customer, status_of
from perkamo.stream.reconnect import HEALTHY_SECONDS, Backoff, ReconnectPolicy
from perkamo.stream.sse import EventStreamDecoder, ServerSentEvent
from perkamo.stream.subscription import NoMoreEvents, StreamConnection, Subscription

StreamState: TypeAlias = Literal["connecting", "open", "waiting", "closed"]
"""The state of a stream; it is ``waiting`` before the first connection and between two connections."""

BadData: TypeAlias = Literal["raise", "skip"]
"""What happens to an event whose data is not a valid customer."""

logger: logging.Logger = logging.getLogger("perkamo")


@frozen
class CustomerUpdate(Serializable):
    """One update of a customer.

    Attributes:
        customer: The customer after the update.
        event: The event's name as it came, ``"message"`` if it had none (names are unpublished).
        id: Where to resume after this update; ``""`` if the service does not send ids.
    """

    customer: Customer
    event: str
    id: str


class CustomerStream:
    """A customer's updates, as they happen. Made by ``client.subscribe_customer``.

    Iterate it within ``async with``, which always closes it. One task iterates at a time; another task may close it.
    Nothing is read from the service before an update is asked for, and nothing is read ahead.

    Its behavior where the standard leaves a choice:

    - If a connection fails, ends, breaks or stays silent (no byte, not even a comment, for ``idle_timeout``), the
      stream reconnects and resumes by Last-Event-ID. So it does after 408, 425, 429, 5xx, a 409 with Retry-After, and
      retryable errors of the token's supplier. ``ReconnectPolicy`` says when. A delivered update resets the count of
      failed attempts. TLS errors, and errors of your own HTTP client's hooks and transport, are raised.
    - After 401 or 403, the token's supplier is asked once, at once, for a fresh token. A fixed token fails.
    - 204 ends the iteration. Any other status or content type, a redirect (the standard would follow it, but a token
      must not be sent to another host) and an event of more than 1 MiB raise.
    - Each connection asks for a token, because a token is valid for minutes only. No server key is sent.
    - An id that is not valid in a header (spaces around it, control characters, more than 4 KiB) is not sent.
    - Events that the service sends again after a resume are delivered again.
    - A stream that ended, failed or was closed stays closed: iterating it again stops at once.

    Example:
        >>> async with perkamo.subscribe_customer("customer_123", token) as stream:
        ...     async for update in stream:
        ...         print(update.customer.wallets)
    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        reconnect: ReconnectPolicy,
        last_event_id: str,
        bad_data: BadData,
        on_state: Callable[[StreamState], None] | None,
    ) -> None:
        """Check and keep the arguments of ``client.subscribe_customer``; nothing is sent.

        Args:
            subscription: Makes the connections.
            reconnect: When the stream reconnects.
            last_event_id: Where to begin; ``""`` for now.
            bad_data: What happens to an event whose data is not a valid customer.
            on_state: Called with each new state.

        Raises:
            PerkamoConfigurationError: A value can't work.
        """
        if bad_data not in get_args(BadData):
            raise PerkamoConfigurationError("bad_data must be 'raise' or 'skip'.")
        self._subscription = subscription
        self._backoff = Backoff(check_type(reconnect, ReconnectPolicy, "reconnect"))
        self._bad_data = bad_data
        self._on_state = on_state
        self._state: StreamState = "waiting"
        self._last_event_id = last_event_id
        self._decoder = EventStreamDecoder(last_event_id)
        self._events: deque[ServerSentEvent] = deque()
        self._client: httpx.AsyncClient | None = None
        self._connection: StreamConnection | None = None
        self._connecting: Observation | None = None
        self._delivered = False  # by this connection
        self._renewed = False
        self._scope: anyio.CancelScope | None = None
        self._idle: anyio.Event | None = None
        self._ended = False

    @property
    def state(self) -> StreamState:
        """The current state."""
        return self._state

    @property
    def last_event_id(self) -> str:
        """Where another subscription has to resume: after the last update that was delivered."""
        return self._last_event_id

    async def receive(self) -> CustomerUpdate | None:
        """Wait for the next update; connect and reconnect if necessary.

        Returns:
            The update, or None if there are no more.

        Raises:
            PerkamoStreamError: The stream failed permanently or too often in a row, sent an event that is not a valid
                customer, or is being iterated by another task.
            PerkamoError: The token's supplier failed, or the client is closed.
        """
        if self._scope is not None:
            raise PerkamoStreamError(
                "This stream is already being iterated; only one task may do so. Subscribe again for another task."
            )
        await self._check_client()
        if self._ended:
            return None
        self._idle = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                return await self._next()
        except BaseException:
            await self._end()
            raise
        finally:
            self._scope = None
            self._idle.set()
        await self._check_client()
        return None  # another task closed the stream

    async def run(
        self,
        on_customer: Callable[[Customer], Awaitable[None] | None],
        on_error: Callable[[PerkamoError], Awaitable[None] | None] | None = None,
    ) -> None:
        """Call a function for each update until the stream ends, as the JavaScript client does; then close it.

        Args:
            on_customer: Called with the customer of each update, one after the other.
            on_error: Called with the error that ended the stream; without it, the error is raised.

        Raises:
            PerkamoError: Like ``receive``, if there is no ``on_error``.
        """
        async with self:
            while True:
                try:
                    update = await self.receive()
                except PerkamoError as error:
                    if on_error is None:
                        raise
                    await settle(on_error(error))
                    return
                if update is None:
                    return
                await settle(on_customer(update.customer))

    async def aclose(self) -> None:
        """Close the connection at once, in any state; an iteration in another task stops.

        It may be called more than once.
        """
        self._ended = True
        if self._scope is not None and self._idle is not None:
            self._scope.cancel()
            await self._idle.wait()
        await self._end()

    def __aiter__(self) -> AsyncIterator[CustomerUpdate]:
        return self

    async def __anext__(self) -> CustomerUpdate:
        update = await self.receive()
        if update is None:
            raise StopAsyncIteration
        return update

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        """Warn of a stream that was left open, and name the remedy."""
        self._complain(self, "use it with 'async with', or call 'await stream.aclose()'")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}>"

    async def _next(self) -> CustomerUpdate | None:
        try:
            return await self._advance()
        except BaseException as error:
            self._end_connecting(error)
            raise

    async def _advance(self) -> CustomerUpdate | None:
        while True:
            update = self._take()
            if update is not None:
                return update
            if self._connection is not None:
                await self._read(self._connection)
            elif not await self._connect():
                await self._end()
                return None

    def _take(self) -> CustomerUpdate | None:
        """Return the next update from the events that were read together."""
        while self._events:
            event = self._events.popleft()
            update = self._understand(event)
            self._last_event_id = event.id
            if update is not None:
                self._delivered = True
                return update
        self._last_event_id = self._decoder.last_event_id
        return None

    def _understand(self, event: ServerSentEvent) -> CustomerUpdate | None:
        meta = ResponseMeta() if self._connection is None else self._connection.head.meta
        try:
            customer = decode_update(event.data, meta)
        except ValueError as error:
            reason = str(error)
        else:
            return CustomerUpdate(customer=customer, event=event.event, id=event.id)
        if self._bad_data == "raise":
            raise not_a_customer(self._label, reason)
        logger.warning("%s: skipped an event whose data %s", self._label, reason)
        return None

    async def _read(self, connection: StreamConnection) -> None:
        self._decoder.feed(b"")  # raises an error that came after the events that are delivered by now
        failure = self._decode(await connection.read())
        if failure is None:
            return
        healthy = self._subscription.clock.now() - connection.since >= HEALTHY_SECONDS
        failed = not (self._delivered or healthy)
        await self._disconnect()
        await self._pause(failure, failed=failed)

    def _decode(self, chunk: bytes | Failure) -> Failure | None:
        """Decode the events of what was read; return why reading failed, or None."""
        if isinstance(chunk, Failure):
            return chunk
        try:
            self._events.extend(self._decoder.feed(chunk))
        except PerkamoStreamError as error:
            problem = error.with_traceback(None)  # it leads to personal data, as this frame does
        else:
            return None
        del chunk
        raise problem

    async def _connect(self) -> bool:
        """Make one attempt; return False if there is nothing to subscribe to."""
        self._enter("connecting")
        if self._client is None:
            self._subscription.origin.close_notifier.await_it(self._abandon)
            self._client = self._subscription.origin.client()
        if self._connecting is None:
            self._connecting = self._subscription.observe()
        resume = self._decoder.last_event_id
        result = await self._subscription.connect(self._client, resume, self._backoff.failures + 1, self._connecting)
        if not isinstance(result, Failure):
            self._end_attempt(result.head, None)
            self._end_connecting(None)
        if isinstance(result, NoMoreEvents):
            return False
        if isinstance(result, StreamConnection):
            self._connection = result
            self._renewed = False
            self._enter("open")
            return True
        status = status_of(result.error)
        if status in TOKEN_STATUSES and self._subscription.token.renewable and not self._renewed:
            self._renewed = True  # the next attempt asks for a fresh one
            self._end_attempt(result, 0.0)
        elif result.retry:
            await self._pause(result, failed=True)
        else:
            self._end_attempt(result, None)
            self._refuse(result.error)
        return True

    def _refuse(self, error: PerkamoError) -> NoReturn:
        """Raise an error that another attempt would not repair."""
        if isinstance(error, PerkamoConfigurationError):
            raise error
        raise failed_permanently(
            self._label, error, attempts=self._backoff.failures + 1, renewed=self._renewed
        ) from error

    async def _pause(self, failure: Failure, *, failed: bool) -> None:
        """Wait until the next attempt, or give up."""
        clock = self._subscription.clock
        wait, self._backoff = self._backoff.step(clock.randomness(), failure.retry_after, failed=failed)
        if self._connecting is not None:
            self._end_attempt(failure, wait)
        elif wait is not None:
            logger.info("%s: %s; connecting again in %.3f s", self._label, type(failure.error).__name__, wait)
        if wait is None:
            raise gave_up(self._label, failure.error, self._backoff.failures) from failure.error
        self._enter("waiting")
        await clock.sleep(wait)

    def _end_attempt(self, result: Head | Failure, wait: float | None) -> None:
        if self._connecting is not None:
            self._connecting.attempt_ends(result, wait)

    def _end_connecting(self, error: BaseException | None) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.ends(error, self._subscription.origin.quota.tokens)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._delivered = False
        self._backoff = self._backoff.with_retry(self._decoder.retry_ms)
        self._decoder = EventStreamDecoder(self._decoder.last_event_id)
        if connection is not None:
            await connection.aclose()

    async def _end(self) -> None:
        self._ended = True
        await self._disconnect()
        client, self._client = self._client, None
        if client is not None and not self._subscription.origin.client_is_external:
            with anyio.CancelScope(shield=True):
                await client.aclose()
        self._enter("closed")

    async def _check_client(self) -> None:
        if self._client is not None and not self._ended and self._subscription.origin.is_closed():
            await self._end()
            raise PerkamoClosedError(f"{self._label}: the client was closed, and the stream with it.")

    def _abandon(self) -> None:
        """Stop waiting: the client was closed."""
        if self._scope is not None:
            self._scope.cancel()

    def _enter(self, state: StreamState) -> None:
        if state != self._state:
            self._state = state
            if self._on_state is not None:
                self._on_state(state)

    @property
    def _label(self) -> str:
        return self._subscription.call.label

    def _complain(self, owner: object, remedy: str, warn: Callable[..., None] = warn_unclosed) -> None:
        warn(owner, remedy, lambda: getattr(self, "_connection", None) is not None)


async def settle(result: Awaitable[None] | None) -> None:
    """Await the result of a callback, if it was a coroutine function."""
    if inspect.isawaitable(result):
        await result
