"""The page's details of one customer, event or request, and its button that sends an event again."""

import json
import secrets
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from perkamo.sandbox.checks import CheckError, read_object
from perkamo.sandbox.feed import FeedEntry
from perkamo.sandbox.messages import Instruction, Json, JsonObject, Request, Response, dump, json_response
from perkamo.sandbox.requestlog import RequestRecord
from perkamo.sandbox.shown import MAX_SHOWN, Shown, event_row, is_about, request_row
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

MAX_BODY: Final = 200_000
"""How many characters of a body are shown."""
MAX_REQUESTS: Final = 50
"""How many requests of a customer are shown."""


def customer_detail(shown: Shown, request: Request) -> Response:
    """Answer with a customer and with their newest events and requests."""
    user_id = parse_qs(request.target.partition("?")[2]).get("id", [""])[0]
    with shown.lock:
        customer = shown.ledger.customer_json(user_id)
        history: list[Json] = [_history_row(entry) for entry in _newest(shown, user_id)]
        requests: list[Json] = []
        for number, record in shown.log.newest():
            if len(requests) < MAX_REQUESTS and is_about(record, user_id):
                requests.append(request_row(number, record))
    if customer["level"] is None and not history and not customer["traits"]:
        raise CheckError("there is no such customer", 404)
    return json_response(200, {"customer": customer, "history": history, "requests": requests})


def event_detail(shown: Shown, request: Request) -> Response:
    """Answer with an event."""
    with shown.lock:
        entry = _entry(shown, _number(request))
        return json_response(200, {**_history_row(entry), "context": dict(entry.context)})


def request_detail(shown: Shown, request: Request) -> Response:
    """Answer with a request and its answer."""
    number = _number(request)
    with shown.lock:
        record = shown.log.get(number)
    if record is None:
        raise CheckError("this request is no longer kept", 404)
    return json_response(200, _whole(number, record))


def send_event(shown: Shown, api_key: str, send: Callable[[Request], Instruction], request: Request) -> Response:
    """Send an event again, unchanged or with a new transaction id, and return the answer.

    It is a call like any other: faults apply to it, and it is in the log.
    """
    body = read_object(request)
    number, as_new = body.get("number"), body.get("as_new", False)
    if not isinstance(number, int) or not isinstance(as_new, bool):
        raise CheckError("number must be that of an event, and as_new must be true or false")
    with shown.lock:
        entry = _entry(shown, number)
        transaction_id = f"tx_{secrets.token_hex(8)}" if as_new else entry.transaction_id
        event: JsonObject = {"user_id": entry.user_id, "event": entry.event, "transaction_id": transaction_id}
        event["context"] = dict(entry.context)
        if entry.occurred_at is not None and not as_new:
            event["occurred_at"] = entry.occurred_at
        raw, now = dump(event), str(int(shown.clock.time()))
        headers = (
            (API_KEY_HEADER, api_key),
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("user-agent", "the sandbox's page"),
            (TIMESTAMP_HEADER, now),
            (SIGNATURE_HEADER, sign(api_key, now, "POST", "/v1/events", raw)),
        )
        instruction = send(Request("POST", "/v1/events", headers, raw))
        status = None if instruction.response is None else instruction.response.status
        return json_response(200, {"status": status, "request": shown.log.total, "transaction_id": transaction_id})


def _number(request: Request) -> int:
    text = parse_qs(request.target.partition("?")[2]).get("number", [""])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise CheckError("number must be a whole number of 1 or more")
    return int(text)


def _entry(shown: Shown, number: int) -> FeedEntry:
    entry = shown.feed.get(number)
    if entry is None or entry.kind not in ("event", "duplicate"):
        raise CheckError("this event is no longer kept", 404)
    return entry


def _newest(shown: Shown, user_id: str) -> list[FeedEntry]:
    found: list[FeedEntry] = []
    for entry in shown.feed.newest():
        if entry.user_id == user_id:
            found.append(entry)
            if len(found) == MAX_SHOWN:
                break
    return found


def _history_row(entry: FeedEntry) -> JsonObject:
    earned = entry.earned
    return {
        **event_row(entry),
        "occurred_at": entry.occurred_at,
        "balances": {**earned.balances},
        "level": earned.level,
        "unlocked": list(earned.unlocked),
    }


def _whole(number: int, record: RequestRecord) -> JsonObject:
    answered = dict(record.answer_headers)
    return {
        **request_row(number, record),
        "path": record.path,
        "headers": [[name, value] for name, value in record.headers],
        "body": _pretty(record.body),
        "answer_headers": [[name, value] for name, value in record.answer_headers],
        "answer": _pretty(record.answer),
        "request_id": answered.get("x-perkamo-request-id"),
    }


def _pretty(body: bytes) -> str:
    """Return a body as text, JSON with line breaks."""
    text = body.decode(errors="replace")
    try:
        value: object = json.loads(body)
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        pass  # shown as it came
    return text if len(text) <= MAX_BODY else f"{text[:MAX_BODY]}…"
