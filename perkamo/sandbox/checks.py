"""Checks the bodies of requests by the published contract.

It does not use the client's code, so that it can find errors of the client.
"""

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, cast

from attrs import field, frozen

from perkamo.encoding.ids import MAX_EVENT_LENGTH, MAX_TRANSACTION_ID_LENGTH, MAX_USER_ID_LENGTH
from perkamo.events import MAX_BATCH_EVENTS, RESERVED_CONTEXT_KEYS
from perkamo.sandbox.messages import Json, JsonObject, Request
from perkamo.sandbox.tokens import BROWSER_TTL_SECONDS, MAX_TTL_SECONDS, STREAM_TTL_SECONDS, Purpose

MAX_DEPTH: Final = 128
"""Ours: the sandbox's own protection, deeper than anything that the client sends."""
MAX_EXACT_INTEGER: Final = 2**53 - 1

_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


class CheckError(ValueError):
    """The request is refused. The message names the place, never the value.

    Attributes:
        status: The status code of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@frozen
class EventInput:
    """One event, checked."""

    user_id: str = field(repr=False)
    event: str
    transaction_id: str = field(repr=False)
    context: JsonObject = field(repr=False)
    occurred_at: str | None


@frozen
class TokenInput:
    """A request for a browser token, checked."""

    browser_key: str = field(repr=False)
    user_id: str = field(repr=False)
    purpose: Purpose
    ttl_seconds: int


@frozen
class RedeemInput:
    """A request to redeem a reward, checked. Its shape is assumed."""

    user_id: str = field(repr=False)
    reward: str
    transaction_id: str = field(repr=False)


def read_object(request: Request) -> JsonObject:
    """Return the JSON object of a body.

    Raises:
        CheckError: The content type is not JSON (415), or the body is not a strict JSON object (400).
    """
    content_type = request.header("content-type") or ""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise CheckError("content-type must be application/json", 415)
    try:
        value = cast(
            "Json",
            json.loads(
                request.body.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer
            ),
        )
    except UnicodeDecodeError:
        raise CheckError("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CheckError(f"the body is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise CheckError("the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise CheckError("the body must be an object")
    return value


def utf16_units(text: str) -> int:
    """Count characters as JavaScript does. The text has no lone surrogate."""
    return len(text.encode("utf-16-le")) // 2


def read_event(value: Json, path: str = "", count: Callable[[str], int] = utf16_units) -> EventInput:
    """Check one event.

    Args:
        value: The parsed JSON.
        path: The prefix of the fields' names, such as ``events[3].``.
        count: Counts the characters of an id.

    Raises:
        CheckError: It breaks a rule of the contract.
    """
    if not isinstance(value, dict):
        raise CheckError(f"{path.removesuffix('.') or 'the event'} must be an object")
    user_id = read_id(value, "user_id", MAX_USER_ID_LENGTH, path, count)
    event = read_id(value, "event", MAX_EVENT_LENGTH, path, count)
    transaction_id = read_id(value, "transaction_id", MAX_TRANSACTION_ID_LENGTH, path, count)
    context = read_facts(value, "context", path)
    for key in context:
        if key.lower() in RESERVED_CONTEXT_KEYS:
            raise CheckError(f"{path}context.{key} is reserved: Perkamo computes it")
    return EventInput(user_id, event, transaction_id, context, _moment(value, path))


def read_events(body: JsonObject) -> list[Json]:
    """Return the items of a batch, unchecked.

    Raises:
        CheckError: ``events`` is not a list of 1 to 100 items.
    """
    events = body.get("events")
    if not isinstance(events, list):
        raise CheckError("events must be a list")
    if not 1 <= len(events) <= MAX_BATCH_EVENTS:
        raise CheckError(f"events must hold 1 to {MAX_BATCH_EVENTS} events, not {len(events)}")
    return events


def read_token_wish(
    body: JsonObject, browser_ttl: int = BROWSER_TTL_SECONDS, stream_ttl: int = STREAM_TTL_SECONDS
) -> TokenInput:
    """Check a request for a browser token.

    Args:
        body: The parsed JSON.
        browser_ttl: The default lifetime of a browser token, in seconds.
        stream_ttl: The default lifetime of a stream token, in seconds.

    Raises:
        CheckError: It breaks a rule of the contract.
    """
    browser_key = read_id(body, "browser_key", MAX_USER_ID_LENGTH)
    user_id = read_id(body, "user_id", MAX_USER_ID_LENGTH)
    purpose = body.get("purpose")
    if "purpose" in body and purpose not in ("browser", "stream"):
        raise CheckError('purpose must be "stream", or be left out')
    stream = purpose == "stream"
    ttl = body.get("ttl_seconds", stream_ttl if stream else browser_ttl)
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 1 <= ttl <= MAX_TTL_SECONDS:
        raise CheckError(f"ttl_seconds must be a whole number from 1 to {MAX_TTL_SECONDS}")
    return TokenInput(browser_key, user_id, "stream" if stream else "browser", ttl)


def read_redemption(body: JsonObject) -> RedeemInput:
    """Check a request to redeem a reward.

    Raises:
        CheckError: A field is missing or too long.
    """
    return RedeemInput(
        read_id(body, "user_id", MAX_USER_ID_LENGTH),
        read_id(body, "reward", MAX_EVENT_LENGTH),
        read_id(body, "transaction_id", MAX_TRANSACTION_ID_LENGTH),
    )


def read_id(body: JsonObject, name: str, limit: int, path: str = "", count: Callable[[str], int] = utf16_units) -> str:
    """Return an id exactly as sent.

    Raises:
        CheckError: It is missing, not text, blank, too long, or contains a lone surrogate.
    """
    value = body.get(name)
    if not isinstance(value, str):
        raise CheckError(f"{path}{name} {'must be text' if name in body else 'is missing'}")
    if not value.strip():
        raise CheckError(f"{path}{name} must not be blank")
    _check_text(value, f"{path}{name}")
    if count(value) > limit:
        raise CheckError(f"{path}{name} must be at most {limit} characters")
    return value


def read_facts(body: JsonObject, name: str, path: str = "") -> JsonObject:
    """Return a context or traits. PHP writes an empty one as ``[]``.

    Raises:
        CheckError: It is not an object, or has a key or value that is not allowed.
    """
    value = body.get(name, {})
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise CheckError(f"{path}{name} must be an object")
    _check_value(value, f"{path}{name}", 1)
    return value


def notes_on(body: JsonObject, known: tuple[str, ...], path: str = "") -> tuple[str, ...]:
    """Return a note for each field that the contract does not know."""
    return tuple(f"{path}{key} is not a field of this request and was ignored" for key in body if key not in known)


def _moment(body: JsonObject, path: str) -> str | None:
    value = body.get("occurred_at")
    if "occurred_at" not in body:
        return None
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        raise CheckError(f"{path}occurred_at must be a time such as 2026-06-01T10:00:00.000Z")
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        raise CheckError(f"{path}occurred_at is not a valid date and time") from None
    return value


def _check_value(value: Json, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CheckError(f"{path} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise CheckError(f"{path} must be a finite number")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key:
                raise CheckError(f"{path} has an empty key")
            _check_text(key, f"a key of {path}")
            _check_value(item, f"{path}.{key}", depth + 1)


def _check_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CheckError(f"{path} contains a lone surrogate") from None


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise CheckError("the body has an object with the same key twice")
    return members


def _integer(digits: str) -> int | float:
    """Read an integer as JavaScript does: a number that is too large becomes the nearest double, or infinity."""
    number = float(digits)
    return number if abs(number) > MAX_EXACT_INTEGER else int(digits)


def _no_constant(name: str) -> Json:
    raise CheckError(f"the body is not JSON: it holds {name}")
