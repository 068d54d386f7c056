"""What the sandbox's page is told while things happen: everything at first, then what is new. Always bounded."""

from collections.abc import AsyncGenerator, Iterable
from itertools import islice
from typing import Final

import anyio

from perkamo.sandbox.clock import Clock, stamp
from perkamo.sandbox.faults import Faults
from perkamo.sandbox.ledger import CustomerChange, Ledger, LedgerCleared, SandboxEvent
from perkamo.sandbox.messages import Json, JsonObject, Request, StreamingResponse, dump
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.requestlog import RequestLog, RequestRecord

MAX_SHOWN: Final = 200
"""How many customers, events and requests one message carries at most: the newest."""
MAX_TEXT: Final = 500
"""How many characters of a context, of traits and of a body are shown."""
INTERVAL_SECONDS: Final = 0.1
HEARTBEAT_SECONDS: Final = 10.0
_BEGIN: Final = b"retry: 1000\n\n"
_BEAT: Final = b": heartbeat\n\n"


class Live:
    """Serves ``/_sandbox/live``: server-sent events, each an ``update``.

    An open page looks for news at an interval: a load test in full swing makes ten updates a second, and calls cost
    nothing more while no page is open.

    Args:
        ledger: The customers and events.
        log: The requests.
        faults: What is armed.
        clock: The sandbox's time.
        lock: The lock of the whole sandbox.
    """

    def __init__(self, ledger: Ledger, log: RequestLog, faults: Faults, clock: Clock, lock: ProcessLock) -> None:
        self._ledger = ledger
        self._log = log
        self._faults = faults
        self._clock = clock
        self._lock = lock

    def answer(self, _: Request) -> StreamingResponse:
        """Answer a request for the stream."""
        return StreamingResponse(200, (("content-type", "text/event-stream; charset=utf-8"),), self._chunks)

    def search(self, text: str) -> JsonObject:
        """Return the newest customers whose id contains a text, in any case of letters, and how many there are."""
        wanted = text.casefold()
        with self._lock:
            newest: list[str] = []
            total = 0
            for user_id in self._ledger.newest_ids():
                if wanted in user_id.casefold():
                    total += 1
                    if total <= MAX_SHOWN:
                        newest.append(user_id)
            return {"customers": self._customers(newest), "total": total}

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        news = _News()
        with self._lock:
            end = self._ledger.listen(news.changed)
        silent_since = anyio.current_time()
        try:
            yield _BEGIN
            while True:
                with self._lock:
                    update = self._update(news)
                if update is not None:
                    silent_since = anyio.current_time()
                    yield b"event: update\ndata: " + dump(update) + b"\n\n"
                elif anyio.current_time() - silent_since > HEARTBEAT_SECONDS:
                    silent_since = anyio.current_time()
                    yield _BEAT
                await anyio.sleep(INTERVAL_SECONDS)
        finally:
            with self._lock:
                end()

    def _update(self, news: "_News") -> JsonObject | None:
        """Return what is new, or None."""
        applied, logged = self._ledger.events_applied, self._log.total
        frozen = stamp(self._clock.time()) if self._clock.frozen else None
        state = (applied, logged, self._faults.armed, frozen)
        if not news.fresh and not news.customers and state == news.state:
            return None
        fresh, (events_before, requests_before) = news.fresh, news.state[:2]
        customers: list[Json] = [_customer(customer) for customer in news.customers.values()]
        update: JsonObject = {
            "fresh": fresh,
            "customers": self._customers(islice(self._ledger.newest_ids(), MAX_SHOWN)) if fresh else customers,
            "events": [_event(event) for event in self._ledger.latest(min(applied - events_before, MAX_SHOWN))],
            "requests": [_request(record) for record in self._log.latest(min(logged - requests_before, MAX_SHOWN))],
            "armed": [{"route": route, "faults": faults} for route, faults in self._faults.armed],
            "totals": {"customers": self._ledger.customer_count, "events": applied, "requests": logged},
            "frozen": frozen,
        }
        if fresh:
            update["program"] = self._ledger.program.blueprint()
        news.taken(state)
        return update

    def _customers(self, newest_first: Iterable[str]) -> list[Json]:
        """Return customers, the newest last."""
        newest: list[Json] = [_customer(self._ledger.customer_json(user_id)) for user_id in newest_first]
        return newest[::-1]


_State = tuple[int, int, tuple[tuple[str, str], ...], str | None]


class _News:
    """What one page was told, and which customers changed since."""

    def __init__(self) -> None:
        self.fresh = True
        self.customers: dict[str, JsonObject] = {}
        self.state: _State = (0, 0, (), None)

    def changed(self, change: CustomerChange | LedgerCleared) -> None:
        """Take note, as a listener of the ledger: in any thread, with the sandbox locked."""
        if isinstance(change, LedgerCleared):
            self.taken((0, 0, (), None))
            self.fresh = True
            return
        self.customers.pop(change.user_id, None)  # the last one changed comes last
        self.customers[change.user_id] = change.customer
        if len(self.customers) > MAX_SHOWN:
            del self.customers[next(iter(self.customers))]

    def taken(self, state: _State) -> None:
        """Everything up to this state has been told."""
        self.fresh = False
        self.customers.clear()
        self.state = state


def _customer(customer: JsonObject) -> JsonObject:
    return {**customer, "traits": _text(customer["traits"])}


def _event(event: SandboxEvent) -> JsonObject:
    return {
        "user_id": event.user_id,
        "event": event.event,
        "context": _text(dict(event.context)),
        "received_at": event.received_at,
        "delta": {**event.delta},
    }


def _request(record: RequestRecord) -> JsonObject:
    return {
        "method": record.method,
        "path": _short(record.path),
        "status": record.status,
        "fault": record.fault,
        "notes": list(record.notes),
        "body": _short(record.body[: MAX_TEXT * 4 + 4].decode(errors="replace")),
        "time": record.time,
    }


def _text(value: Json) -> str:
    return _short(dump(value).decode()) if value else ""


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
