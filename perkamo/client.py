"""The async client: the whole surface of the Perkamo API, one short coroutine per call."""

import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Self

import httpx

from perkamo.decoding.answers import AnswerT, decode, decode_any, decode_batch
from perkamo.encoding.encode import JSONInput
from perkamo.encoding.ids import create_transaction_id
from perkamo.events import Context, Event, Traits
from perkamo.hooks import Hook
from perkamo.models import (
    ApiResponse,
    BatchIngestResponse,
    BrowserToken,
    Customer,
    EventIngestResponse,
    IdentifyResponse,
    Program,
    ProgramEvent,
)
from perkamo.request import endpoints
from perkamo.request.attempt import Sender
from perkamo.request.credentials import ApiKey, Key, check_base_url, wrap_secret
from perkamo.request.endpoints import STREAM_PATH, Call
from perkamo.request.exchange import Exchange
from perkamo.request.options import client_maker, copied
from perkamo.request.retry import RetryPolicy
from perkamo.runtime.unclosed import warn_unclosed
from perkamo.stream.reconnect import DEFAULT_RECONNECT, ReconnectPolicy
from perkamo.stream.stream import BadData, CustomerStream, StreamState
from perkamo.stream.subscription import StreamOrigin, Subscription
from perkamo.stream.token import StreamToken, TokenSource
from perkamo.transport.proxy import hide_proxy


class AsyncPerkamoClient:
    """Sends trusted events to Perkamo and reads the results, from asyncio or trio.

    One client serves any number of tasks. It may be built anywhere, also before the event loop runs.

    Example:
        >>> async with AsyncPerkamoClient() as perkamo:
        ...     result = await perkamo.emit("customer_123", "purchase.completed", {"amount": 12900})
    """

    def __init__(
        self,
        api_key: ApiKey | None = None,
        *,
        base_url: str | None = None,
        timeout: float | None = 30.0,
        retry: RetryPolicy = RetryPolicy(),
        http_client: httpx.AsyncClient | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int | None = None,
        allow_insecure_http: bool = False,
        stream_path: str = STREAM_PATH,
        hooks: Iterable[Hook] = (),
    ) -> None:
        """Set up a client; nothing is sent and no connection is made.

        Args:
            api_key: The server key as text, or a function, sync or async, that is asked for it before every attempt,
                so that keys can rotate. From ``PERKAMO_SECRET_KEY`` when not given (published name), which is read at
                the first call at the latest: a client can be built without a key.
            base_url: Where the API is; a path prefix is kept out of the signature. From ``PERKAMO_BASE_URL`` when not
                given (assumed name), else the hosted API (published).
            timeout: Seconds for a whole call: waits, retries and the answer's body included. None means no limit.
            retry: How often and for how long a call is tried.
            http_client: Your own ``httpx.AsyncClient`` to send with. It is never closed here, its redirects are not
                followed, and its default headers, cookies and parameters are not sent. Its connection pool is
                httpx's own, which can lose connections when calls are cancelled, unless it has a ``Transport``:
                ``httpx.AsyncClient(transport=perkamo.Transport(…))``.
            proxy: The URL of an HTTP proxy, or of a SOCKS5 proxy with the extra ``socks``; from the environment
                (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``) when not given.
            ssl_context: What the service must prove and what proves us, for a private CA or a client certificate;
                what httpx trusts when not given.
            max_connections: The most connections at a time, 1 or more; 100 when not given. Further calls wait.
            allow_insecure_http: Let plain http go to other hosts than loopback.
            stream_path: Where customer streams are, with ``{user_id}`` as a segment (assumed: it is unpublished).
            hooks: What is notified of calls, their attempts, and the deliveries of relays with this client.

        Raises:
            PerkamoConfigurationError: A value can't work.
        """
        api_key = key = wrap_secret(api_key, Key)
        proxy = hide_proxy(proxy)
        key.check()
        url = check_base_url(base_url, allow_insecure_http=allow_insecure_http)
        make = client_maker(http_client, url, proxy=proxy, ssl_context=ssl_context, max_connections=max_connections)
        sender = Sender(key=key, base_url=url, client=make(), owned=http_client is None)
        self._exchange = Exchange.of(sender, timeout=timeout, retry=retry, hooks=hooks)
        self._owns_connections = http_client is None
        self._streams = StreamOrigin.of(self._exchange, endpoints.check_stream_path(stream_path), make)

    async def identify(self, user_id: str, traits: Traits | None = None) -> IdentifyResponse:
        """Create or update a customer's trusted traits: ``POST /v1/identify`` (published; its answer is not).

        Args:
            user_id: The application's own id of the customer, 1 to 256 characters.
            traits: Non-secret facts that the application may share, such as those of ``TraitsDict``. ``OMIT`` leaves a
                property out.

        Returns:
            The answer, as ``.raw``.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoError: The call failed; ``.outcome`` says whether it may have been applied.
        """
        return await self._fetch(IdentifyResponse, endpoints.identify(user_id, traits), empty=b"{}")

    async def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Send one activity event: ``POST /v1/events`` (published).

        Args:
            user_id: The application's own id of the customer, 1 to 256 characters.
            event: The event key, such as ``purchase.completed``, 1 to 128 characters.
            context: Business facts, such as the order's id, amount and currency. ``OMIT`` leaves a property out.
            transaction_id: 1 to 256 characters; the service applies it once. Give the business's own id, such as the
                order's, so that your own retries earn once too; without one, ``tx_<uuid4>`` is made.
            occurred_at: When it happened: a datetime with a zone, or ISO 8601 text with one; now when not given.

        Returns:
            What the event did. Look at ``.accepted``: after a retry, an event may read as ``duplicate``.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoError: The call failed; ``.outcome`` says whether it may have been applied.
        """
        transaction_id = create_transaction_id() if transaction_id is None else transaction_id
        return await self.emit_event(Event(user_id, event, transaction_id, context, occurred_at))

    async def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Send one event that was built before: ``POST /v1/events`` (published).

        Args:
            event: The event, or a mapping with its field names (``EventDict``); without a transaction id,
                ``tx_<uuid4>`` is made.

        Returns:
            What the event did.

        Raises:
            PerkamoError: The call failed; ``.outcome`` says whether it may have been applied.
        """
        call = endpoints.emit(event)
        reply = await self._exchange.send(call)
        return decode(EventIngestResponse, reply.body, reply.meta, call.label, "unknown", secrets=reply.secrets)

    async def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
        """Send up to 100 events in one request: ``POST /v1/events:batch`` (published). It is not atomic.

        Args:
            events: 1 to 100 events (published is the most, the least is ours), or mappings with their field names
                (``EventDict``). Each needs a transaction id of its own.

        Returns:
            For each event, in the same order, its result, or an ``EventFailure`` that says why there is none. Look at
            ``.accepted`` of each, or let ``.raise_for_failures()`` raise for the first failure.

        Raises:
            PerkamoValidationError: An event can't be sent (``.path`` begins with ``events[i]``), or there are none or
                more than 100; nothing was sent.
            PerkamoError: The call failed; ``.outcome`` says whether some may have been applied.
        """
        call, count = endpoints.batch(events)
        reply = await self._exchange.send(call)
        return decode_batch(reply.body, reply.meta, call.label, count, reply.secrets)

    async def customer(self, user_id: str) -> Customer:
        """Read a customer: ``GET /v1/customer/{user_id}`` (published; some fields for an earlier version).

        Args:
            user_id: The application's own id of the customer, 1 to 256 characters. ``.`` and ``..`` are refused,
                because servers and proxies read them as directions in a path.

        Returns:
            The customer. One that nothing was ever sent for reads as empty (assumed).

        Raises:
            PerkamoValidationError: It is not a customer's id; nothing was sent.
            PerkamoError: The call failed.
        """
        return await self._fetch(Customer, endpoints.customer(user_id))

    async def program(self) -> Program:
        """Read the Space's active program: ``GET /v1/program`` (published).

        Returns:
            The blueprint's earning rules, and everything else in ``.raw``.

        Raises:
            PerkamoError: The call failed.
        """
        return await self._fetch(Program, Call("GET", "/v1/program", "GET /v1/program"))

    async def event_catalog(self) -> tuple[ProgramEvent, ...]:
        """Read which events earn: the earning rules of ``program()``; empty where there are none (published).

        Returns:
            One entry for each earning rule.

        Raises:
            PerkamoError: The call failed.
        """
        return (await self.program()).blueprint.earning_rules

    async def create_browser_token(
        self, browser_key: str, user_id: str, *, ttl_seconds: int | None = None
    ) -> BrowserToken:
        """Get a short-lived token for one customer's browser: ``POST /v1/browser-tokens`` (published).

        Args:
            browser_key: The public browser key, ``pk_…``; ``PERKAMO_BROWSER_KEY`` by convention.
            user_id: The customer that the application has authenticated itself.
            ttl_seconds: How long the token is good, 1 to 1800 seconds; the service decides when not given.

        Returns:
            The token, to be handed to that customer's browser only.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoError: The call failed.
        """
        return await self._fetch(BrowserToken, endpoints.browser_token(browser_key, user_id, ttl_seconds, purpose=None))

    async def create_stream_token(
        self, browser_key: str, user_id: str, *, ttl_seconds: int | None = 120
    ) -> BrowserToken:
        """Get a short-lived token for one customer's stream: ``POST /v1/browser-tokens`` (published; preview).

        Args:
            browser_key: The public browser key, ``pk_…``; ``PERKAMO_BROWSER_KEY`` by convention.
            user_id: The customer that the application has authenticated itself.
            ttl_seconds: How long the token is good, 1 to 1800 seconds; the service decides when None.

        Returns:
            The token, to be handed to that customer's browser or to ``subscribe_customer`` only.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoError: The call failed.
        """
        call = endpoints.browser_token(browser_key, user_id, ttl_seconds, purpose="stream")
        return await self._fetch(BrowserToken, call)

    def subscribe_customer(
        self,
        user_id: str,
        stream_token: StreamToken,
        *,
        last_event_id: str | None = None,
        idle_timeout: float | None = 60.0,
        reconnect: ReconnectPolicy = DEFAULT_RECONNECT,
        bad_data: BadData = "raise",
        on_state: Callable[[StreamState], None] | None = None,
    ) -> CustomerStream:
        """Subscribe to a customer's live state (preview: path, parameters and event names are unpublished).

        Nothing is sent before the first update is asked for.

        Args:
            user_id: The application's own id of the customer, 1 to 256 characters.
            stream_token: The token of ``create_stream_token`` or its text; or a function, sync or async, that returns
                one and is asked before each connection, because tokens live for minutes only:
                ``lambda: client.create_stream_token(browser_key, user_id)``. The server key is never sent.
            last_event_id: Where to resume: the ``id`` of an earlier update.
            idle_timeout: Seconds without a byte after which the connection counts as lost; None for no limit.
            reconnect: How a lost connection is made again.
            bad_data: ``"raise"`` where an event is not a customer, or ``"skip"`` it with a warning in the log.
            on_state: Called with each new state, in the event loop: ``"connecting"``, ``"open"``, ``"waiting"`` between
                two connections, ``"closed"``. It must return at once.

        Returns:
            The stream, to be used with 'async with' and iterated.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoConfigurationError: An option's value can't work.
        """
        stream_token = token = wrap_secret(stream_token, TokenSource)
        return CustomerStream(
            Subscription.of(self._streams, self._exchange.clock, user_id, token, idle_timeout),
            reconnect=reconnect,
            last_event_id=endpoints.check_last_event_id(last_event_id),
            bad_data=bad_data,
            on_state=on_state,
        )

    async def request(self, method: str, path: str, json: JSONInput = None) -> ApiResponse:
        """Call an endpoint that has no method here: signed, tried again and bounded like all others.

        Args:
            method: ``GET``, ``POST``, ``PUT``, ``PATCH`` or ``DELETE``. Every method but GET is signed (published for
                POST). A failed call is made again, so a write should carry a transaction id or be safe to repeat.
            path: From ``/v1/`` on, percent-encoded; only a GET may have a query.
            json: The body, or None for no body.

        Returns:
            The parsed JSON as ``.raw``.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoError: The call failed; ``.outcome`` says whether it may have been applied.
        """
        call = endpoints.other(method, path, json)
        del path, json  # they may hold an id, and errors lead into this frame
        reply = await self._exchange.send(call)
        return decode_any(reply.body, reply.meta, call.label, call.unread_outcome, secrets=reply.secrets)

    async def space_fingerprint(self) -> str:
        """Return a hash that tells this client's service and key from all others, and tells nobody the key.

        For keeping apart what belongs to different Spaces, as the outbox does. Nothing is sent.

        Returns:
            64 hexadecimal digits.

        Raises:
            PerkamoConfigurationError: The key's supplier failed.
        """
        return await self._exchange.sender.fingerprint()

    def with_options(
        self, *, timeout: float | EllipsisType | None = ..., retry: RetryPolicy | EllipsisType = ...
    ) -> Self:
        """Return a view of this client with other limits; it shares connections, key and retry quota.

        Args:
            timeout: Seconds for a whole call, or None for no limit; as before when not given.
            retry: How often and for how long a call is tried; as before when not given.

        Returns:
            A client of the same class, with all that a subclass has added. It needs no closing and ends with this one.

        Raises:
            PerkamoConfigurationError: A value can't work.
        """
        return copied(
            self, _exchange=self._exchange.with_options(timeout=timeout, retry=retry), _owns_connections=False
        )

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at its end."""
        return self._exchange.sender.base_url

    async def aclose(self) -> None:
        """Close the connections, and end the streams with ``PerkamoClosedError``. Doing it twice is fine.

        A client of your own, given as ``http_client``, stays open, and so do streams over it.
        """
        if self._owns_connections:
            try:
                await self._exchange.sender.client.aclose()
            finally:
                self._streams.close_notifier.say()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        """Complain about a client that was used and never closed, and name the remedy."""
        self._complain(self, "use it with 'async with', or call 'await client.aclose()'")

    def __repr__(self) -> str:
        where = self._exchange.sender.base_url if hasattr(self, "_exchange") else "not built"
        return f"<{type(self).__name__} {where}>"

    def __reduce__(self) -> str:
        raise TypeError("a client cannot be pickled or copied: build one where it is needed, or use with_options()")

    async def _fetch(self, model: type[AnswerT], call: Call, *, empty: bytes = b"") -> AnswerT:
        reply = await self._exchange.send(call)
        return decode(model, reply.body or empty, reply.meta, call.label, call.unread_outcome, secrets=reply.secrets)

    def _complain(self, owner: object, remedy: str, warn: Callable[..., None] = warn_unclosed) -> None:
        warn(owner, remedy, lambda: getattr(self, "_owns_connections", False) and self._exchange.sender.left_open())
