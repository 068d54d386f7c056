# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""The sync client: the whole surface of the Perkamo API, one short coroutine per call.

GENERATED from client.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Self

import httpx

from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.encode import JSONInput
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
from perkamo.request.credentials import ApiKey, Key, wrap_secret
from perkamo.request.endpoints import STREAM_PATH
from perkamo.request.options import copied
from perkamo.request.retry import RetryPolicy
from perkamo.stream.reconnect import DEFAULT_RECONNECT, ReconnectPolicy
from perkamo.stream.stream import BadData, StreamState
from perkamo.stream.sync_stream import SyncCustomerStream
from perkamo.stream.token import StreamToken, TokenSource
from perkamo.sync.portal import finalize_soon, run
from perkamo.transport.proxy import hide_proxy


class PerkamoClient:
    """Sends trusted events to Perkamo and reads the results, from synchronous code.

    One client serves any number of threads. It may be built anywhere, also before a fork.

    Example:
        >>> with PerkamoClient() as perkamo:
        ...     result = perkamo.emit("customer_123", "purchase.completed", {"amount": 12900})
    """

    _finalize_soon = staticmethod(finalize_soon)  # at the interpreter's end, a module loses its names

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
        api_key = wrap_secret(api_key, Key)
        proxy = hide_proxy(proxy)
        self._async = AsyncPerkamoClient(
            api_key,
            base_url=base_url,
            timeout=timeout,
            retry=retry,
            http_client=http_client,
            proxy=proxy,
            ssl_context=ssl_context,
            max_connections=max_connections,
            allow_insecure_http=allow_insecure_http,
            stream_path=stream_path,
            hooks=hooks,
        )
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    def identify(self, user_id: str, traits: Traits | None = None) -> IdentifyResponse:
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
        return run(self._async.identify, user_id, traits)

    def emit(
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
        return run(self._async.emit, user_id, event, context, transaction_id=transaction_id, occurred_at=occurred_at)

    def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Send one event that was built before: ``POST /v1/events`` (published).

        Args:
            event: The event, or a mapping with its field names (``EventDict``); without a transaction id,
                ``tx_<uuid4>`` is made.

        Returns:
            What the event did.

        Raises:
            PerkamoError: The call failed; ``.outcome`` says whether it may have been applied.
        """
        return run(self._async.emit_event, event)

    def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
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
        return run(self._async.batch, events)

    def customer(self, user_id: str) -> Customer:
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
        return run(self._async.customer, user_id)

    def program(self) -> Program:
        """Read the Space's active program: ``GET /v1/program`` (published).

        Returns:
            The blueprint's earning rules, and everything else in ``.raw``.

        Raises:
            PerkamoError: The call failed.
        """
        return run(self._async.program)

    def event_catalog(self) -> tuple[ProgramEvent, ...]:
        """Read which events earn: the earning rules of ``program()``; empty where there are none (published).

        Returns:
            One entry for each earning rule.

        Raises:
            PerkamoError: The call failed.
        """
        return run(self._async.event_catalog)

    def create_browser_token(self, browser_key: str, user_id: str, *, ttl_seconds: int | None = None) -> BrowserToken:
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
        return run(self._async.create_browser_token, browser_key, user_id, ttl_seconds=ttl_seconds)

    def create_stream_token(self, browser_key: str, user_id: str, *, ttl_seconds: int | None = 120) -> BrowserToken:
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
        return run(self._async.create_stream_token, browser_key, user_id, ttl_seconds=ttl_seconds)

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
    ) -> SyncCustomerStream:
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
            The stream, to be used with 'with' and iterated.

        Raises:
            PerkamoValidationError: Something can't be sent; nothing was.
            PerkamoConfigurationError: An option's value can't work.
        """
        stream_token = wrap_secret(stream_token, TokenSource)
        return SyncCustomerStream._over(
            self._async.subscribe_customer(
                user_id,
                stream_token,
                last_event_id=last_event_id,
                idle_timeout=idle_timeout,
                reconnect=reconnect,
                bad_data=bad_data,
                on_state=on_state,
            ),
            self,
        )

    def request(self, method: str, path: str, json: JSONInput = None) -> ApiResponse:
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
        return run(self._async.request, method, path, json)

    def space_fingerprint(self) -> str:
        """Return a hash that tells this client's service and key from all others, and tells nobody the key.

        For keeping apart what belongs to different Spaces, as the outbox does. Nothing is sent.

        Returns:
            64 hexadecimal digits.

        Raises:
            PerkamoConfigurationError: The key's supplier failed.
        """
        return run(self._async.space_fingerprint)

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
        return copied(self, _async=self._async.with_options(timeout=timeout, retry=retry), _owner=self)

    @property
    def base_url(self) -> str:
        """Where the API is, without a slash at its end."""
        return self._async.base_url

    def close(self) -> None:
        """Close the connections, and end the streams with ``PerkamoClosedError``. Doing it twice is fine.

        A client of your own, given as ``http_client``, stays open, and so do streams over it.
        """
        run(self._async.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """Complain about a client that was used and never closed, and name the remedy."""
        if hasattr(self, "_async"):  # not when construction failed
            try:
                self._async._complain(self, "use it with 'with', or call 'client.close()'")
            finally:
                self._finalize_soon(self._async.aclose)

    def __repr__(self) -> str:
        if not hasattr(self, "_async"):
            return f"<{type(self).__name__} not built>"
        return repr(self._async).replace(type(self._async).__name__, type(self).__name__, 1)

    def __reduce__(self) -> str:
        return self._async.__reduce__()
