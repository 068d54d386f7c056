# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""The customer stream: live customer state as an iterator that reconnects, resumes and watches for silence.

GENERATED from stream/stream.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from perkamo.errors import PerkamoError
from perkamo.models import Customer
from perkamo.stream.reconnect import ReconnectPolicy
from perkamo.stream.stream import BadData, CustomerStream, CustomerUpdate, StreamState
from perkamo.stream.subscription import Subscription
from perkamo.sync.portal import finalize_soon, run


class SyncCustomerStream:
    """A customer's updates, as they happen. Made by ``client.subscribe_customer``.

    Iterate it within ``with``, which closes it however the block is left. One thread iterates at a time; another
    may close it. Nothing is read from the service before an update is asked for, and nothing is read ahead.

    What it does where the standard leaves a choice:

    - A connection that ends, breaks or stays silent (no byte, not even a comment, for ``idle_timeout``) is made again,
      also the first one, and resumed by Last-Event-ID. So are 408, 425, 429, 5xx, a 409 that says when, and retryable
      errors of the token's supplier. ``ReconnectPolicy`` says how; what has been delivered starts the count
      again. TLS that is refused, and errors of your own HTTP client's hooks and transport, raise.
    - 401 and 403 ask the token's supplier for a fresh one, once and at once. A fixed token fails.
    - 204 ends the iteration. Any other status or content type, a redirect (a token must not travel to another place;
      the standard would follow) and an event of more than 1 MiB raise.
    - Each connection asks for a token, since one lives for minutes only, and no server key is sent on any of them.
    - An id that a header can't carry (spaces around it, control characters, more than 4 KiB) is not sent.
    - What the service sends again after a resume is delivered again.
    - A stream that ended, failed or was closed stays so: iterating it again stops at once.

    Example:
        >>> with perkamo.subscribe_customer("customer_123", token) as stream:
        ...     for update in stream:
        ...         print(update.customer.wallets)
    """

    _finalize_soon = staticmethod(finalize_soon)  # at the interpreter's end, a module loses its names

    def __init__(
        self,
        subscription: Subscription,
        *,
        reconnect: ReconnectPolicy,
        last_event_id: str,
        bad_data: BadData,
        on_state: Callable[[StreamState], None] | None,
    ) -> None:
        """Keep what ``client.subscribe_customer`` has checked; nothing is sent.

        Args:
            subscription: What each connection asks for.
            reconnect: How a connection is made again.
            last_event_id: Where to begin; ``""`` for now.
            bad_data: What happens to an event whose data is not a customer.
            on_state: Called with each new state.
        """
        self._async = CustomerStream(
            subscription, reconnect=reconnect, last_event_id=last_event_id, bad_data=bad_data, on_state=on_state
        )
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    @property
    def state(self) -> StreamState:
        """What the stream is doing now."""
        return self._async.state

    @property
    def last_event_id(self) -> str:
        """Where another subscription would have to resume: after the last update that was delivered."""
        return self._async.last_event_id

    def receive(self) -> CustomerUpdate | None:
        """Wait for the next update; connect and reconnect meanwhile where that is due.

        Returns:
            The update, or None when there are no more.

        Raises:
            PerkamoStreamError: The stream failed in a way that reconnecting does not repair, or too often in a row, or
                sent something that is not a customer, or is being iterated already.
            PerkamoError: The token's supplier failed, or the client is closed.
        """
        return run(self._async.receive)

    def run(
        self, on_customer: Callable[[Customer], None], on_error: Callable[[PerkamoError], None] | None = None
    ) -> None:
        """Call a function for each update until the stream ends, as the JavaScript client does; then close it.

        Args:
            on_customer: Called with the customer of each update, one after the other.
            on_error: Called with the error that ended the stream; without it, the error is raised.

        Raises:
            PerkamoError: As ``receive`` does, where there is no ``on_error``.
        """
        with self:
            while True:
                try:
                    update = self.receive()
                except PerkamoError as error:
                    if on_error is None:
                        raise
                    on_error(error)
                    return
                if update is None:
                    return
                on_customer(update.customer)

    def close(self) -> None:
        """Close the connection at once, whatever the stream is doing; an iteration in another thread stops.

        Doing it twice is fine.
        """
        run(self._async.aclose)

    def __iter__(self) -> Iterator[CustomerUpdate]:
        try:
            while (one := self.receive()) is not None:
                yield one
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """Complain about a stream that was left open, and name the remedy."""
        if hasattr(self, "_async"):  # not when construction failed
            try:
                self._async._complain(self, "use it with 'with', or call 'stream.close()'")
            finally:
                self._finalize_soon(self._async.aclose)

    def __repr__(self) -> str:
        if not hasattr(self, "_async"):
            return f"<{type(self).__name__} not built>"
        return repr(self._async).replace(type(self._async).__name__, type(self).__name__, 1)

    @classmethod
    def _over(cls, twin: CustomerStream, owner: object) -> Self:
        made = object.__new__(cls)
        made._async = twin
        made._owner = owner
        return made
