"""The rows that the page shows of a sandbox, and the page's filter. Their number is limited."""

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

from attrs import field, frozen

from perkamo.sandbox.arming import in_words
from perkamo.sandbox.clock import Clock, stamp
from perkamo.sandbox.faults import Faults
from perkamo.sandbox.feed import Feed, FeedEntry
from perkamo.sandbox.ledger import Ledger
from perkamo.sandbox.messages import Json, JsonObject, Request, dump
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.requestlog import RequestLog, RequestRecord
from perkamo.sandbox.routes import find

MAX_SHOWN: Final = 200
"""The most customers, events and requests of one message: the newest."""
MAX_TEXT: Final = 200
"""How many characters of a context and of traits a row shows."""

_NO_ANSWER: Final = "none"


@frozen(eq=False)
class Shown:
    """The data of the page.

    Attributes:
        ledger: The customers.
        feed: Their history.
        log: The requests.
        faults: The armed faults.
        clock: The sandbox's time.
        lock: The lock of the whole sandbox.
    """

    ledger: Ledger
    feed: Feed
    log: RequestLog
    faults: Faults
    clock: Clock
    lock: ProcessLock

    def armed(self) -> list[Json]:
        """Return the armed faults, for programs and in words."""
        with self.lock:
            return [
                {"number": fault.number, "route": route, "faults": names, "words": in_words(fault)}
                for fault, (route, names) in zip(self.faults.listed(), self.faults.armed, strict=True)
            ]

    def frozen_at(self) -> str | None:
        """Return the time at which the clock is stopped; None if it runs."""
        return stamp(self.clock.time()) if self.clock.frozen else None


@frozen
class Filter:
    """The page's filter; an empty text matches everything. All but the status is casefolded.

    Attributes:
        customer: A part of a customer's id.
        event: A part of an event key.
        status: Of requests, ``2xx``, ``4xx``, ``5xx``, a status code, or ``none`` for no answer.
        text: A part of anything in it: a transaction id, a context, a body, a path, a note.
    """

    customer: str = field(default="", repr=False)
    event: str = ""
    status: str = ""
    text: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether it matches everything."""
        return not (self.customer or self.event or self.status or self.text)

    def leaves_entry(self, entry: FeedEntry) -> bool:
        """Return whether an event is shown."""
        if entry.kind == "identified" or self.customer not in entry.user_id.casefold():
            return False
        if self.event not in entry.event.casefold():
            return False
        return not self.text or any(
            self.text in part.casefold()
            for part in (entry.transaction_id, entry.user_id, entry.event, entry.why, _dumped(entry.context))
        )

    def leaves_request(self, record: RequestRecord) -> bool:
        """Return whether a request is shown."""
        if not self._has_status(record.status):
            return False
        if not (self.customer or self.event or self.text):
            return True
        body = record.body.decode(errors="replace").casefold()
        if self.customer and not _names(record, body, self.customer, whole=False):
            return False
        if self.event and _member("event", self.event, whole=False).search(body) is None:
            return False
        answer = record.answer.decode(errors="replace")
        return not self.text or any(
            self.text in part.casefold() for part in (record.path, body, answer, record.fault or "", *record.notes)
        )

    def leaves_customer(self, customer: JsonObject) -> bool:
        """Return whether a customer is shown."""
        user_id = str(customer["user_id"]).casefold()
        return self.customer in user_id and (
            not self.text or self.text in user_id or self.text in _dumped(customer["traits"]).casefold()
        )

    def _has_status(self, status: int | None) -> bool:
        if not self.status:
            return True
        if status is None:
            return self.status == _NO_ANSWER
        return self.status in (str(status), f"{status // 100}xx")


def read_filter(request: Request) -> Filter:
    """Read a filter from the query of a request."""
    query = parse_qs(request.target.partition("?")[2])
    given = {name: query.get(name, [""])[0].strip().casefold() for name in ("customer", "event", "status", "text")}
    return Filter(**given)


def is_about(record: RequestRecord, user_id: str) -> bool:
    """Return whether a request names a customer, in its body or its path."""
    return _names(record, record.body.decode(errors="replace"), user_id, whole=True)


def customer_row(customer: JsonObject) -> JsonObject:
    """Return a customer as the list shows it."""
    traits = customer["traits"]
    return {**customer, "traits": shortened(_dumped(traits)) if traits else ""}


def event_row(entry: FeedEntry) -> JsonObject:
    """Return an event as the list shows it."""
    return {
        "number": entry.number,
        "kind": entry.kind,
        "user_id": entry.user_id,
        "event": entry.event,
        "transaction_id": entry.transaction_id,
        "context": shortened(_dumped(entry.context)) if entry.context else "",
        "time": entry.time,
        "delta": {**entry.earned.delta},
        "first": entry.first,
        "why": entry.why,
    }


def request_row(number: int, record: RequestRecord) -> JsonObject:
    """Return a request as the list shows it."""
    return {
        "number": number,
        "method": record.method,
        "path": shortened(record.path),
        "status": record.status,
        "fault": record.fault,
        "notes": [shortened(note) for note in record.notes],
        "message": _message(record),
        "seconds": record.seconds,
        "time": record.time,
    }


def shortened(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _message(record: RequestRecord) -> str:
    """Return the message of a refusal."""
    if record.status is None or record.status < 400:
        return ""
    try:
        body: object = json.loads(record.answer)
    except (ValueError, RecursionError):
        return ""
    match body:
        case {"message": str() as message}:
            return shortened(message)
        case _:
            return ""


def _names(record: RequestRecord, body: str, user_id: str, *, whole: bool) -> bool:
    in_path = find(record.path.partition("?")[0]).user_id
    if in_path is not None and (in_path == user_id if whole else user_id in in_path.casefold()):
        return True
    return _member("user_id", user_id, whole=whole).search(body) is not None


def _member(name: str, value: str, *, whole: bool) -> re.Pattern[str]:
    """Match a member of a JSON text, whether or not non-ASCII characters are escaped."""
    forms = {json.dumps(value, ensure_ascii=escaped)[1:-1] for escaped in (True, False)}
    inner = "|".join(re.escape(form) for form in sorted(forms))
    around = "" if whole else r'[^"]*'
    return re.compile(rf'"{name}"\s*:\s*"{around}(?:{inner}){around}"')


def _dumped(value: "Json | Mapping[str, Json]") -> str:
    return dump(dict(value) if isinstance(value, Mapping) else value).decode()
