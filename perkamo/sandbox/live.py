"""The live updates of the sandbox's page: first the current state, then changes. Their size is limited."""

from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import Final, TypeVar

import anyio
import anyio.lowlevel

from perkamo.sandbox.ledger import CustomerChange, LedgerCleared
from perkamo.sandbox.messages import Json, JsonObject, Request, StreamingResponse, dump
from perkamo.sandbox.shown import (
    MAX_SHOWN,
    Filter,
    Shown,
    customer_row,
    event_row,
    read_filter,
    request_row,
)

INTERVAL_SECONDS: Final = 0.1
HEARTBEAT_SECONDS: Final = 10.0
SEARCH_STEP: Final = 500
"""How many entries are examined before other connections get their turn."""
_BEGIN: Final = b"retry: 1000\n\n"
_BEAT: Final = b": heartbeat\n\n"
_T = TypeVar("_T")


class Live:
    """Serves ``/_sandbox/live``: server-sent events, each an ``update`` with the entries that match the query's filter.

    An open page checks for changes at an interval: even a load test makes ten updates a second at most, and without an
    open page, calls cost nothing more.

    Args:
        shown: The data of the page.
        api_key: The key that a user has to set, shown before the first request.
    """

    def __init__(self, shown: Shown, api_key: str) -> None:
        self._shown = shown
        self._api_key = api_key

    def answer(self, request: Request) -> StreamingResponse:
        """Answer a request for the stream."""
        wanted = read_filter(request)
        kind = (("content-type", "text/event-stream; charset=utf-8"),)
        return StreamingResponse(200, kind, lambda: self._chunks(wanted))

    async def _chunks(self, wanted: Filter) -> AsyncGenerator[bytes, None]:
        news = _News(wanted)
        with self._shown.lock:
            end = self._shown.ledger.listen(news.changed)
        silent_since = anyio.current_time()
        try:
            yield _BEGIN
            while True:
                update = await self._first(news) if news.fresh else self._next(news)
                if update is not None:
                    silent_since = anyio.current_time()
                    yield b"event: update\ndata: " + dump(update) + b"\n\n"
                elif anyio.current_time() - silent_since > HEARTBEAT_SECONDS:
                    silent_since = anyio.current_time()
                    yield _BEAT
                await anyio.sleep(INTERVAL_SECONDS)
        finally:
            with self._shown.lock:
                end()

    async def _first(self, news: "_News") -> JsonObject:
        """Return the newest entries that match the filter."""
        shown, wanted = self._shown, news.wanted
        with shown.lock:
            news.begin()
            state = self._state()
            bound = MAX_SHOWN if wanted.is_empty else None
            entries = [*islice((entry for entry in shown.feed.newest() if entry.kind != "identified"), bound)]
            records = [*islice(shown.log.newest(), bound)]
            user_ids = [*islice(shown.ledger.newest_ids(), bound)]
        found_entries = await _search(entries, wanted.leaves_entry)
        found_records = await _search(records, lambda item: wanted.leaves_request(item[1]))
        found_ids = await _search(user_ids, lambda user_id: self._leaves(wanted, user_id))
        with shown.lock:
            customers: list[Json] = [customer_row(shown.ledger.customer_json(user_id)) for user_id in found_ids]
            update = self._update(state, fresh=True)
            update |= {
                "customers": customers[::-1],
                "events": [event_row(entry) for entry in reversed(found_entries)],
                "requests": [request_row(number, record) for number, record in reversed(found_records)],
                "program": shown.ledger.program.blueprint(),
                "key": self._api_key,
            }
        news.taken(state)
        return update

    def _leaves(self, wanted: Filter, user_id: str) -> bool:
        if wanted.customer not in user_id.casefold():
            return False
        if not wanted.text:
            return True
        with self._shown.lock:
            return wanted.leaves_customer(self._shown.ledger.customer_json(user_id))

    def _next(self, news: "_News") -> JsonObject | None:
        """Return what has changed, or None."""
        shown, wanted = self._shown, news.wanted
        with shown.lock:
            state = self._state()
            if news.fresh or (not news.customers and state == news.state):
                return None
            happened, logged = news.state[0], news.state[1]
            entries = [entry for entry in shown.feed.after(happened) if wanted.leaves_entry(entry)]
            records = [item for item in shown.log.after(logged) if wanted.leaves_request(item[1])]
            customers: list[Json] = [customer_row(customer) for customer in news.customers.values()]
            update = self._update(state, fresh=False)
            update |= {
                "customers": customers,
                "events": [event_row(entry) for entry in entries[-MAX_SHOWN:]],
                "requests": [request_row(number, record) for number, record in records[-MAX_SHOWN:]],
            }
            news.taken(state)
            return update

    def _state(self) -> "_State":
        shown = self._shown
        return (shown.feed.total, shown.log.total, tuple(str(one) for one in shown.armed()), shown.frozen_at())

    def _update(self, state: "_State", *, fresh: bool) -> JsonObject:
        ledger = self._shown.ledger
        return {
            "fresh": fresh,
            "armed": self._shown.armed(),
            "totals": {"customers": ledger.customer_count, "events": ledger.events_applied, "requests": state[1]},
            "frozen": state[3],
        }


_State = tuple[int, int, tuple[str, ...], str | None]


class _News:
    """What was sent to one page, and which customers changed since."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.fresh = True
        self.customers: dict[str, JsonObject] = {}
        self.state: _State = (0, 0, (), None)

    def changed(self, change: CustomerChange | LedgerCleared) -> None:
        """Record a change, as a listener of the ledger: in any thread, with the sandbox locked."""
        if isinstance(change, LedgerCleared):
            self.fresh = True
            return
        if not self.wanted.leaves_customer(change.customer):
            return
        self.customers.pop(change.user_id, None)  # the last one changed comes last
        self.customers[change.user_id] = change.customer
        if len(self.customers) > MAX_SHOWN:
            del self.customers[next(iter(self.customers))]

    def begin(self) -> None:
        """Begin again with the current state."""
        self.fresh = False
        self.customers.clear()

    def taken(self, state: _State) -> None:
        """Record that everything up to this state was sent."""
        self.customers.clear()
        self.state = state


async def _search(items: list[_T], leaves: Callable[[_T], bool]) -> list[_T]:
    """Return the first items that match a filter, and let other connections have their turn meanwhile."""
    found: list[_T] = []
    for number, item in enumerate(items, 1):
        if leaves(item):
            found.append(item)
            if len(found) == MAX_SHOWN:
                break
        if number % SEARCH_STEP == 0:
            await anyio.lowlevel.checkpoint()
    return found
