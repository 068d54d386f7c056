# pyright: reportPrivateUsage=false
# A twin and its async class are one thing.
"""The customer stream: live customer state as an iterator that reconnects, resumes and notices silence.

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

    Iterate it within ``with``, which always closes it. One thread iterates at a time; another thread may close it.
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
        self._async = CustomerStream(
            subscription, reconnect=reconnect, last_event_id=last_event_id, bad_data=bad_data, on_state=on_state
        )
        self._owner: object = None  # keeps what it came from, which closes when it is collected

    @property
    def state(self) -> StreamState:
        """The current state."""
        return self._async.state

    @property
    def last_event_id(self) -> str:
        """Where another subscription has to resume: after the last update that was delivered."""
        return self._async.last_event_id

    def receive(self) -> CustomerUpdate | None:
        """Wait for the next update; connect and reconnect if necessary.

        Returns:
            The update, or None if there are no more.

        Raises:
            PerkamoStreamError: The stream failed permanently or too often in a row, sent an event that is not a valid
                customer, or is being iterated by another thread.
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
            PerkamoError: Like ``receive``, if there is no ``on_error``.
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
        """Close the connection at once, in any state; an iteration in another thread stops.

        It may be called more than once.
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
        """Warn of a stream that was left open, and name the remedy."""
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
