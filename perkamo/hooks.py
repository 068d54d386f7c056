"""Hooks watch calls and their attempts, deliveries of an outbox, and the state of delivery.

A hook gets frozen values that contain no id, no key and no value of an event. It is called in the event loop, between
two steps of a call, and must return at once. An error that it raises is logged and changes nothing.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, TypeVar, cast

from attrs import frozen

T = TypeVar("T")

CallOutcome: TypeAlias = Literal["succeeded", "not_sent", "rejected", "unknown", "failed", "cancelled"]
"""The outcome of a call or an attempt.

``"not_sent"``, ``"rejected"`` and ``"unknown"`` are the ``outcome`` of a write's error. ``"failed"`` is the outcome of
a read that failed, and of any call that raised an error of another library.
"""

_SENDABLE: Final = frozenset({"traceparent", "tracestate"})
_MAX_TRACE_CONTEXT: Final = 512
_LOGGER: Final = logging.getLogger("perkamo")


@frozen
class CallStart:
    """A call that begins, or a stream that connects.

    Attributes:
        number: Identifies the call within this process.
        method: The HTTP method.
        endpoint: The path without ids, such as ``/v1/customer/{user_id}``.
        server_address: The host of the service.
        server_port: Its port.
        request_bytes: The bytes of the body.
    """

    number: int
    method: str
    endpoint: str
    server_address: str
    server_port: int
    request_bytes: int


@frozen
class AttemptStart:
    """A request of a call that is about to be made.

    Attributes:
        call: The call.
        attempt: The number of the attempt, from 1.
    """

    call: CallStart
    attempt: int


@frozen
class AttemptEnd:
    """A request of a call, answered or not.

    Attributes:
        call: The call.
        attempt: The number of the attempt, from 1.
        outcome: The outcome of this call so far; ``"unknown"`` if an earlier attempt may have been applied.
        status: The status of the answer, or None if there was no answer.
        error: The name of the error's class, or None after a success.
        seconds: How long it took.
        request_id: The request id to quote to Perkamo's support, or None.
        response_bytes: The bytes of the answer's body, or None if it could not be used or is a stream.
        wait: Seconds until the next attempt; None if no attempt follows.
    """

    call: CallStart
    attempt: int
    outcome: CallOutcome
    status: int | None
    error: str | None
    seconds: float
    request_id: str | None
    response_bytes: int | None
    wait: float | None


@frozen
class CallEnd:
    """A call that has ended. The call of a stream ends when the stream is open, or when it is given up.

    Attributes:
        call: The call.
        attempts: How many requests it took.
        outcome: Its outcome.
        status: The status of the last answer, or None if there was no answer.
        error: The name of the error's class, or None after a success.
        seconds: How long it took, waits included.
        request_id: The request id of the last answer, or None.
        retry_quota: The tokens that the client has left for retries; a retry costs 5 or 10.
    """

    call: CallStart
    attempts: int
    outcome: CallOutcome
    status: int | None
    error: str | None
    seconds: float
    request_id: str | None
    retry_quota: int


@frozen
class DeliveryStart:
    """Events of an outbox that are about to be sent together.

    Attributes:
        number: Identifies the delivery within this process.
        events: How many events there are.
        bytes: The bytes of their bodies.
        trace_contexts: The trace contexts in which they were put, each once.
    """

    number: int
    events: int
    bytes: int
    trace_contexts: tuple[str, ...] = ()


@frozen
class Delivery:
    """The outcome of events of an outbox that were sent together.

    Attributes:
        start: The delivery.
        delivered: How many the service has confirmed.
        dead: How many were refused, and are dead letters now.
        later: How many are still waiting.
        error: The name of the error's class because of which events are still waiting, or None.
        seconds: How long it took.
    """

    start: DeliveryStart
    delivered: int
    dead: int
    later: int
    error: str | None
    seconds: float


@frozen
class DeliveryState:
    """The state of an outbox and its relay. It is reported after a change, at most once a second, and every 5 seconds.

    Attributes:
        space: The name of the relay's Space; ``""`` if it has none.
        accepted: Events that were ever put.
        delivered: Events that the service has confirmed.
        waiting: Events that wait.
        dead: Dead letters.
        missing: Events that were deleted from outside the outbox.
        oldest_put_at: When the oldest waiting event was put, as Unix seconds; None if no event waits.
        paused: The name of the error's class because of which all events wait, or None.
        paused_seconds: Seconds until the relay tries again.
    """

    space: str
    accepted: int
    delivered: int
    waiting: int
    dead: int
    missing: int
    oldest_put_at: float | None
    paused: str | None
    paused_seconds: float


class Hook:
    """The base class of hooks. A subclass overrides the methods that it needs.

    Give it to ``AsyncPerkamoClient(hooks=[…])``. Relays with this client notify it of their deliveries, too.
    """

    def on_call_start(self, call: CallStart) -> None:
        """Called before a call's first attempt."""

    def on_attempt_start(self, attempt: AttemptStart) -> Mapping[str, str] | None:
        """Called before an attempt is made, in the task that makes it.

        Returns:
            Headers to add, or None; only ``traceparent`` and ``tracestate`` are sent.
        """

    def on_attempt(self, attempt: AttemptEnd) -> None:
        """Called after an attempt was made, in the same task as ``on_attempt_start``."""

    def on_call_end(self, call: CallEnd) -> None:
        """Called at a call's end, whether it succeeded, failed or was cancelled."""

    def on_put(self) -> str | None:
        """Called when an event is put into an outbox, if the hook is installed for the whole process.

        Returns:
            The trace context of the code that puts the event, as a ``traceparent``, or None. It is kept with the event.
        """

    def on_delivery_start(self, delivery: DeliveryStart) -> None:
        """Called before events of an outbox are sent."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Called when the outcome of these events is known, in the same task as ``on_delivery_start``."""

    def on_state(self, state: DeliveryState) -> None:
        """Called by each relay with the state of its delivery."""


class Hooks:
    """The hooks of one client or outbox, and those that are installed for the whole process."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        """Check the hooks.

        Raises:
            TypeError: An element is not a ``Hook``.
        """
        self._own = tuple(hooks)
        for hook in self._own:
            if not isinstance(cast("object", hook), Hook):
                raise TypeError(f"hooks must be an iterable of perkamo.Hook, not of {type(hook).__name__}")

    def __bool__(self) -> bool:
        return bool(self._own or _installed)

    def __iter__(self) -> Iterator[Hook]:
        yield from self._own
        yield from _installed

    def overrides(self, name: str) -> bool:
        """Return whether any hook has a method of its own under this name."""
        return any(getattr(type(hook), name) is not getattr(Hook, name) for hook in self)

    def call_start(self, call: CallStart) -> None:
        """Notify all hooks of a call."""
        for hook in self:
            _tell(hook.on_call_start, call)

    def attempt_start(self, attempt: AttemptStart) -> dict[str, str]:
        """Notify all hooks of an attempt; return the headers that they add."""
        headers: dict[str, str] = {}
        for hook in self:
            headers.update(_sendable(_tell(hook.on_attempt_start, attempt)))
        return headers

    def attempt(self, attempt: AttemptEnd) -> None:
        """Notify all hooks of an attempt's end, the last one first, because each undoes what it began."""
        for hook in reversed(tuple(self)):
            _tell(hook.on_attempt, attempt)

    def call_end(self, call: CallEnd) -> None:
        """Notify all hooks of a call's end, the last one first."""
        for hook in reversed(tuple(self)):
            _tell(hook.on_call_end, call)

    def trace_context(self) -> str | None:
        """Ask the hooks for the trace context of the code that puts an event; None if no hook has a valid one."""
        for hook in self:
            context = _tell(type(hook).on_put, hook)
            if isinstance(context, str) and _is_plain(context):
                return context
        return None

    def delivery_start(self, delivery: DeliveryStart) -> None:
        """Notify all hooks of a delivery."""
        for hook in self:
            _tell(hook.on_delivery_start, delivery)

    def delivery(self, delivery: Delivery) -> None:
        """Notify all hooks of a delivery's end, the last one first."""
        for hook in reversed(tuple(self)):
            _tell(hook.on_delivery, delivery)

    def state(self, state: DeliveryState) -> None:
        """Notify all hooks of the state of delivery."""
        for hook in self:
            _tell(hook.on_state, state)


_installed: tuple[Hook, ...] = ()


def install(hook: Hook) -> None:
    """Let all clients and outboxes of the process notify this hook, too, including those that exist already."""
    global _installed  # noqa: PLW0603 - the list belongs to the process
    if hook not in _installed:
        _installed = (*_installed, hook)


def uninstall(hook: Hook) -> None:
    """Undo ``install``."""
    global _installed  # noqa: PLW0603 - the list belongs to the process
    _installed = tuple(one for one in _installed if one is not hook)


def _tell(method: Callable[[T], object], value: T) -> object:
    try:
        return method(value)
    except Exception:
        name = getattr(method, "__qualname__", type(method).__name__)
        _LOGGER.exception("A hook failed in %s; the call or delivery continues without it", name)
        return None


def _sendable(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {
        name: value
        for name, value in cast("Mapping[object, object]", headers).items()
        if isinstance(name, str) and name in _SENDABLE and isinstance(value, str) and _is_plain(value)
    }


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= _MAX_TRACE_CONTEXT and text.isascii() and text.isprintable()
