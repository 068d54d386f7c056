"""What an item of a batch says that is not an event result: its reason in words, and whether the reason is final.

Assumed throughout, because the shape of a failed item is unpublished. So every usual shape is read: an error object, a
problem detail, a status, plain text, nothing at all.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen

from perkamo.encoding.encode import JSONValue
from perkamo.models import EventFailure, ResponseMeta
from perkamo.redaction import Secrets

_MESSAGES: Final = ("message", "detail", "reason", "description", "title")
_CODES: Final = ("code", "error", "type", "status")
_STATUSES: Final = ("status", "statusCode", "status_code", "code")
_NESTED: Final = ("error", "errors")
_FLAGS: Final = ("ok", "success", "accepted")

_CODE: Final = r"[A-Za-z0-9_.:/-]{1,64}"
"""A code for programs; text with spaces is a sentence for people."""
_STATUS: Final = r"[2-5][0-9]{2}"
"""A status that is written as text; it is not a code."""

_FINAL_EXCEPT: Final = frozenset({408, 409, 425, 429})
"""Statuses from 400 to 499 after which the next attempt may succeed."""

_PASSING: Final = (
    r"(?i)internal|server.?error|time.?out|timed.?out|unavailable|rate.?limit|too.?many|overload|throttl|temporar|retry"
    r"|try.?again|later|busy|conflict|in.?progress|pending|processing|lock|maintenance|gateway|upstream"
)
"""Words of a temporary reason. A word too many costs a few requests; a word too few rejects an event."""

_FINE: Final = re.compile(
    r"(?:(?!\w*n[o']t\b|never\b)[\w']+ ){0,4}"
    r"(?:ok|applied|accepted|success\w*|duplicate|processed|created|queued|done|received|recorded|stored)\W*",
    re.IGNORECASE,
)
"""Text that is not a reason: the item may mean that the event counts, in an unknown shape."""
_MEANINGLESS: Final = re.compile(r"error|failed|failure|unknown", re.IGNORECASE)
"""Codes that only say that the event did not count."""

_Object: TypeAlias = dict[str, JSONValue]


@frozen
class _Reason:
    code: str | None = None
    message: str | None = None
    status: int | None = None
    is_fine: bool = False

    @property
    def outcome(self) -> Literal["rejected", "unknown"]:
        """Return whether the same event will be refused again; without any reason nobody knows."""
        if self.status is not None:
            return "rejected" if 400 <= self.status < 500 and self.status not in _FINAL_EXCEPT else "unknown"
        first = self.code or self.message or ""
        if self.is_fine or _FINE.fullmatch(first) or (self.message is None and _MEANINGLESS.fullmatch(first)):
            return "unknown"
        words = f"{self.code or ''} {self.message or ''}".strip()
        return "rejected" if words and not re.search(_PASSING, words) else "unknown"


def read_failure(item: JSONValue, unreadable: str | None, meta: ResponseMeta, secrets: Secrets) -> EventFailure:
    """Make the failure that one item of a batch stands for.

    Args:
        item: The item as it was answered.
        unreadable: Why it is not an event result; None where it is one, of an event that was not accepted.
        meta: What the head of the batch's answer contains.
        secrets: Texts of the request that no message may repeat.
    """
    reason = _read_reason(item)
    words = reason.message or reason.code or (f"status {reason.status}" if reason.status is not None else None)
    if words is None:
        words = f"its result {unreadable}" if unreadable is not None else "the service gave no reason"
    failure = EventFailure(
        None if reason.code is None else secrets.clean(reason.code),
        secrets.clean(words).rstrip("."),
        item,
        outcome=reason.outcome,
        meta=meta if meta.request_id is None else evolve(meta, request_id=secrets.clean(meta.request_id)),
    )
    if failure.accepted:  # whatever else it says
        return evolve(failure, message=f"its result {unreadable}", outcome="unknown")
    return failure


def words_of(body: JSONValue) -> str | None:
    """Return the reason that the body of an error answer gives: its ``message`` (published), or words elsewhere in it.

    Args:
        body: The parsed body; of anything but an object nothing is read, as of the page of a proxy.
    """
    if not isinstance(body, dict):
        return None
    message = body.get("message")
    if isinstance(message, str) and message:
        return message
    reason = _read_reason(body)
    return reason.message or reason.code


def _read_reason(item: JSONValue) -> _Reason:
    if isinstance(item, str):
        item = {"error": item}
    elif isinstance(item, list):
        item = {"errors": item}
    code = message = None
    status: int | None = None
    is_fine = False
    for one in _objects(item):
        texts = [value for name in _CODES if isinstance(value := one.get(name), str)]
        texts = [text for text in texts if not re.fullmatch(_STATUS, text)]
        code = code or next((text for text in texts if re.fullmatch(_CODE, text)), None)
        sentences = [words for name in _MESSAGES if (words := _words_in(one.get(name))) is not None]
        message = message or next((text for text in (*sentences, *texts) if text.strip() and text != code), None)
        status = status or next((number for name in _STATUSES if (number := _status(one.get(name)))), None)
        is_fine = is_fine or any(one.get(name) is True for name in _FLAGS)
    if code is None and message is None and isinstance(item, dict):
        message = next((words for name in _NESTED if (words := _words_in(item.get(name))) is not None), None)
    return _Reason(code, message, status, is_fine)


def _words_in(value: JSONValue) -> str | None:
    """Return the first text in a value: some services tell several reasons, or one for each field or language."""
    if isinstance(value, str):
        return value if value.strip() else None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((words for one in inner if (words := _words_in(one)) is not None), None)


def _status(value: JSONValue) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(_STATUS, value) else None
    return value if type(value) is int and 200 <= value < 600 else None


def _objects(item: JSONValue) -> Iterator[_Object]:
    """Yield the objects that may hold a reason, the most particular first."""
    if not isinstance(item, dict):
        return
    for name in _NESTED:
        inner = item.get(name)
        if isinstance(inner, list) and inner:
            inner = inner[0]
            if isinstance(inner, str):
                yield {"message": inner}
        if isinstance(inner, dict):
            yield inner
    yield item
