"""The customer stream of the sandbox: an update after every change, heartbeats, and resuming from a bounded history.

All of it is assumed: the service's stream is announced; its path, events and ids are unpublished.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Final

import anyio

from perkamo.sandbox.ledger import CustomerChange, LedgerCleared
from perkamo.sandbox.messages import JsonObject, Request, Response, StreamingResponse, dump, with_headers
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.routes import find
from perkamo.sandbox.space import Space
from perkamo.sandbox.tokens import TokenError
from perkamo.signing import API_KEY_HEADER

ROUTE: Final = "/v1/client/customer/{user_id}/stream"
EVENT_NAME: Final = "customer.updated"
MAX_HISTORY: Final = 1000
_BEAT: Final = b": heartbeat\n\n"
_LONGEST_ID: Final = 15
_SCHEME: Final = "bearer "


class CustomerStreams:
    """Answers stream requests, and sends changes to open streams.

    A new stream begins with the current customer. A stream that resumes gets the updates that it missed, or the current
    customer if these are no longer known. A reset of the sandbox ends all streams.

    Args:
        space: The Space with the customers and tokens.
        lock: The lock of the whole sandbox.
        time: The sandbox's time in Unix seconds.

    Attributes:
        heartbeat: Seconds of real time without an update after which a comment is sent.
        retry_ms: The reconnection time that each stream sends first; None for none.
    """

    def __init__(self, space: Space, lock: ProcessLock, time: Callable[[], float]) -> None:
        self.heartbeat: float = 15.0
        self.retry_ms: int | None = 100
        self._space = space
        self._lock = lock
        self._time = time
        self._history: deque[CustomerChange] = deque(maxlen=MAX_HISTORY)
        self._serial = 0
        self._reset = 0
        self._wakeups: set[_Wakeup] = set()

    @property
    def open(self) -> int:
        """How many streams are open now."""
        with self._lock:
            return len(self._wakeups)

    def changed(self, change: CustomerChange | LedgerCleared) -> None:
        """Record a change, as a listener of the ledger: in any thread, with the sandbox locked."""
        if isinstance(change, CustomerChange):
            self._history.append(change)
            self._serial = change.serial
        else:
            self._history.clear()
            self._serial = 0
            self._reset += 1
        for wakeup in tuple(self._wakeups):
            wakeup.notify()

    def answer(self, request: Request) -> Response | StreamingResponse | None:
        """Answer a request for a stream, with the sandbox locked; return None for any other request."""
        place = find(request.path)
        if request.method != "GET" or place.template != ROUTE:
            return None
        status, problem = self._problem(request, place.user_id)
        headers = self._space.common_headers()
        if status:
            return with_headers(self._space.error(status, problem), headers)
        user_id = place.user_id or ""
        after = self._resume_after(request.header("last-event-id"))
        begin = b"" if self.retry_ms is None else f"retry: {self.retry_ms}\n\n".encode()
        if after is None:
            begin += self._snapshot(user_id)
            after = self._serial
        body = _StreamBody(self, user_id, after, self._reset, begin)
        kind = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
        return StreamingResponse(200, (*kind, *headers), body.chunks)

    def _problem(self, request: Request, user_id: str | None) -> tuple[int, str]:
        """Return the status and the message that refuse a request; 0 if it is allowed."""
        if request.header(API_KEY_HEADER) is not None:
            return (
                400,
                f"{API_KEY_HEADER} does not belong on a browser-safe route: a server key must never be sent there",
            )
        if user_id is None:
            return 400, "the user id in the path is not percent-encoded UTF-8"
        authorization = request.header("authorization") or ""
        if not authorization.lower().startswith(_SCHEME):
            return 401, "A stream needs authorization: Bearer and a stream token"
        try:
            token = self._space.tokens.check(authorization[len(_SCHEME) :], "stream", self._time())
        except TokenError as error:
            return 401, str(error)
        return (0, "") if token.user_id == user_id else (403, "The token was made for another customer")

    def _resume_after(self, last_event_id: str | None) -> int | None:
        """Return the serial to continue from; None if it is unknown or no longer known."""
        text = last_event_id or ""
        if not (text.isascii() and text.isdigit()) or len(text) > _LONGEST_ID:
            return None
        after = int(text)
        return after if after <= self._serial and self._reaches_back(after) else None

    def _reaches_back(self, after: int) -> bool:
        return after == self._serial or (bool(self._history) and self._history[0].serial <= after + 1)

    def _snapshot(self, user_id: str) -> bytes:
        return _event(self._serial, self._space.show_customer(self._space.ledger.customer_json(user_id)))

    def since(self, user_id: str, after: int, reset: int) -> tuple[bytes, int] | None:
        """Return the events of a customer after a serial, and the serial reached; None after a reset."""
        with self._lock:
            if reset != self._reset:
                return None
            if not self._reaches_back(after):
                return self._snapshot(user_id), self._serial
            missed: list[bytes] = []
            for change in reversed(self._history):
                if change.serial <= after:
                    break
                if change.user_id == user_id:
                    missed.append(_event(change.serial, self._space.show_customer(change.customer)))
            return b"".join(reversed(missed)), self._serial

    def watch(self, wakeup: "_Wakeup") -> None:
        """Notify this wakeup after each change."""
        with self._lock:
            self._wakeups.add(wakeup)

    def forget(self, wakeup: "_Wakeup") -> None:
        """Stop notifying this wakeup."""
        with self._lock:
            self._wakeups.discard(wakeup)


class _StreamBody:
    """The body of one stream."""

    def __init__(self, streams: CustomerStreams, user_id: str, after: int, reset: int, begin: bytes) -> None:
        self._streams = streams
        self._user_id = user_id
        self._after = after
        self._reset = reset
        self._begin = begin

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Send events as they happen, and comments in between."""
        wakeup = _Wakeup()
        self._streams.watch(wakeup)
        try:
            if self._begin:
                yield self._begin
            while True:
                wakeup.clear()
                found = self._streams.since(self._user_id, self._after, self._reset)
                if found is None:
                    return
                events, self._after = found
                if not events:
                    with anyio.move_on_after(self._streams.heartbeat) as silence:
                        await wakeup.rung()
                    events = _BEAT if silence.cancelled_caught else b""
                if events:
                    yield events
        finally:
            self._streams.forget(wakeup)


class _Wakeup:
    """Wakes a stream on its own event loop, of asyncio or trio, from any thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._soon = _soon()

    def clear(self) -> None:
        """Begin to wait for the next notification."""
        self._event = anyio.Event()

    async def rung(self) -> None:
        """Wait until it is notified."""
        await self._event.wait()

    def notify(self) -> None:
        """Wake the stream, from any thread."""
        with suppress(RuntimeError):  # its loop has ended, and with it the stream
            self._soon(self._strike)

    def _strike(self) -> None:
        self._event.set()


def _soon() -> Callable[[Callable[[], None]], object]:
    """Return a function that runs another one soon in the current event loop; it may be called from any thread."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio  # noqa: PLC0415 - imported already if it runs

        return trio.lowlevel.current_trio_token().run_sync_soon


def _event(serial: int, customer: JsonObject) -> bytes:
    return f"id: {serial}\nevent: {EVENT_NAME}\ndata: ".encode() + dump(customer) + b"\n\n"
