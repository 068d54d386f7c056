"""The control plane's answers for programs: health, state, requests and fidelity. Long lists come in pages."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import parse_qs

from perkamo.sandbox.checks import CheckError
from perkamo.sandbox.clock import Clock
from perkamo.sandbox.control import Answer
from perkamo.sandbox.faults import Faults
from perkamo.sandbox.fidelity import FIDELITY, fidelity_json
from perkamo.sandbox.ledger import Ledger, SandboxEvent
from perkamo.sandbox.messages import Json, JsonObject, Request, Response, dump, json_response
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.requestlog import RequestLog

PAGE_ITEMS: Final = 1000
"""The most customers, events or requests of one answer."""
PAGE_BYTES: Final = 4_000_000
"""About the most bytes of them; there is always at least one item."""


def inspection_answers(
    ledger: Ledger, log: RequestLog, faults: Faults, clock: Clock, lock: ProcessLock
) -> Mapping[str, Answer]:
    """Return the handlers of ``/_sandbox/health``, ``state``, ``requests`` and ``fidelity``, by method and path.

    ``state`` and ``requests`` answer with one page. ``next`` is the path of the next page, and None on the last one.

    Args:
        ledger: The customers and events.
        log: The requests.
        faults: The armed faults.
        clock: The sandbox's time.
        lock: The lock of the whole sandbox.
    """

    def health(_: Request) -> Response:
        return json_response(200, {"status": "ok", "sandbox": True, "time": clock.now().isoformat()})

    def state(request: Request) -> Response:
        with lock:
            seen, applied = _position(request, "customers"), _position(request, "events")
            customers = _page(enumerate((ledger.customer_json(user_id) for user_id in ledger.user_ids(seen)), seen + 1))
            events = _page((number, _event(event)) for number, event in ledger.events_after(applied))
            upto_customers = customers[-1][0] if customers else seen
            upto_events = events[-1][0] if events else applied
            more = upto_customers < ledger.customer_count or upto_events < ledger.events_applied
            return json_response(
                200,
                {
                    "customers": [customer for _, customer in customers],
                    "events": [event for _, event in events],
                    "faults_unfired": list(faults.unfired),
                    "totals": {"customers": ledger.customer_count, "events": ledger.events_applied},
                    "next": f"{request.path}?customers={upto_customers}&events={upto_events}" if more else None,
                },
            )

    def requests(request: Request) -> Response:
        with lock:
            after = _position(request, "after")
            page = _page((number, record.json()) for number, record in log.after(after))
            more = bool(page) and page[-1][0] < log.total
            return json_response(
                200,
                {
                    "requests": [record for _, record in page],
                    "totals": {"requests": log.total},
                    "next": f"{request.path}?after={page[-1][0]}" if more else None,
                },
            )

    def fidelity(_: Request) -> Response:
        return json_response(200, {"fidelity": [fidelity_json(row) for row in FIDELITY]})

    return {
        "GET /_sandbox/health": health,
        "GET /_sandbox/state": state,
        "GET /_sandbox/requests": requests,
        "GET /_sandbox/fidelity": fidelity,
    }


def _position(request: Request, name: str) -> int:
    """Return where a page begins: after this many items."""
    text = parse_qs(request.target.partition("?")[2]).get(name, ["0"])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise CheckError(f"{name} must be a whole number of 0 or more")
    return int(text)


def _page(items: Iterable[tuple[int, JsonObject]]) -> list[tuple[int, JsonObject]]:
    return list(_until_full(items))


def _until_full(items: Iterable[tuple[int, JsonObject]]) -> Iterator[tuple[int, JsonObject]]:
    size = 0
    for count, (number, item) in enumerate(items, 1):
        size += len(dump(item))
        if count > 1 and size > PAGE_BYTES:
            return
        yield number, item
        if count == PAGE_ITEMS:
            return


def _event(event: SandboxEvent) -> JsonObject:
    delta: Json = {**event.delta}
    return {
        "user_id": event.user_id,
        "event": event.event,
        "transaction_id": event.transaction_id,
        "context": dict(event.context),
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
        "delta": delta,
    }
