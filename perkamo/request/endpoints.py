"""From a caller's arguments to a request: each function checks the arguments and makes one ``Call``.

Arguments that can't be sent are refused here, before anything is sent.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, cast
from urllib.parse import quote, unquote

from attrs import field, frozen

from perkamo.encoding.encode import JSONInput, encode
from perkamo.encoding.ids import MAX_USER_ID_LENGTH, check_id, create_transaction_id, refusal
from perkamo.errors import PerkamoConfigurationError, PerkamoValidationError, WriteOutcome
from perkamo.events import MAX_BATCH_EVENTS, EncodedEvent, Event, Traits, as_event, encode_mapping, encode_object
from perkamo.request.credentials import SERVER_KEY_PREFIX
from perkamo.request.paths import path_problem

MAX_TTL_SECONDS: Final = 1800
STREAM_PATH: Final = "/v1/client/customer/{user_id}/stream"
"""Assumed: the stream is announced, its path is unpublished."""

USER_ID: Final = "{user_id}"
_PUBLIC_FIELDS: Final = frozenset({"event", "occurred_at", "purpose"})
"""Fields of a request that are not personal data."""
_BETWEEN: Final = re.compile("[/?&=]")
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


@frozen
class Call:
    """The request of one logical call, which is the same in every attempt.

    Attributes:
        method: The HTTP method, in capitals.
        path: The path from ``/v1/`` on, as it is signed and sent.
        label: Method and endpoint without ids, for messages and logs.
        body: The bytes to send, or None.
    """

    method: str
    path: str = field(repr=False)
    label: str
    body: bytes | None = field(default=None, repr=False)

    @property
    def is_write(self) -> bool:
        """Whether the call may change something at the service."""
        return self.method != "GET"

    @property
    def unread_outcome(self) -> WriteOutcome | None:
        """The ``outcome`` of the error that an unreadable answer raises: a write may have been applied."""
        return "unknown" if self.is_write else None

    @property
    def template(self) -> str:
        """The path without ids."""
        return self.label.partition(" ")[2]

    def secrets(self) -> list[str]:
        """Return the texts of the request that no message may repeat: ids, and the values of contexts and traits."""
        shown = set(re.split(_BETWEEN, self.template))
        found = [unquote(part) for part in re.split(_BETWEEN, self.path) if part not in shown]
        if self.body is not None:
            body = cast("object", json.loads(self.body))
            parts = cast("dict[str, object]", body) if isinstance(body, dict) else {"": body}
            events = parts.pop("events", None)
            for one in [parts, *(cast("list[object]", events) if isinstance(events, list) else [events])]:
                found.extend(_texts(one, skipped=_PUBLIC_FIELDS))
        return found


def identify(user_id: str, traits: Traits | None) -> Call:
    """Make the call that creates or updates a customer."""
    return _post("/v1/identify", f'{{"user_id":{_quoted_user(user_id)},"traits":{encode_object(traits, "traits")}}}')


def emit(event: Event | Mapping[str, object]) -> Call:
    """Make the call that sends one event. If the event has no transaction id, it gets one."""
    event = as_event(event)
    if event.transaction_id is None:
        event = event.with_transaction_id(create_transaction_id())
    return Call("POST", "/v1/events", "POST /v1/events", event.to_bytes())


def batch(events: Iterable[Event | EncodedEvent | Mapping[str, object]]) -> tuple[Call, int]:
    """Make the call that sends 1 to 100 events; return it with their number."""
    if isinstance(events, Event | Mapping | str | bytes) or not isinstance(cast("object", events), Iterable):
        raise refusal("events", "must be an iterable of events")
    bodies: list[bytes] = []
    by_id: dict[str | None, bytes] = {}
    for index, one in enumerate(islice(events, MAX_BATCH_EVENTS + 1)):
        transaction_id, body = (one.transaction_id, one.body) if isinstance(one, EncodedEvent) else _checked(one, index)
        if by_id.setdefault(transaction_id, body) != body:
            path = f"events[{index}].transaction_id"
            raise PerkamoValidationError(
                f"{path} is used for two different events; the service would apply only one of them. Nothing was sent.",
                field="events",
                path=path,
            )
        bodies.append(body)
    if not 1 <= len(bodies) <= MAX_BATCH_EVENTS:
        raise refusal("events", f"must be 1 to {MAX_BATCH_EVENTS} events")
    whole = b'{"events":[' + b",".join(bodies) + b"]}"
    return Call("POST", "/v1/events:batch", "POST /v1/events:batch", whole), len(bodies)


def customer(user_id: str) -> Call:
    """Make the call that reads one customer."""
    path = f"/v1/customer/{_user_segment(user_id)}"
    return Call("GET", path, "GET /v1/customer/{user_id}")


def customer_stream(user_id: str, template: str) -> Call:
    """Make the call that opens one customer's stream, at a path that ``check_stream_path`` has accepted."""
    path = template.replace(USER_ID, _user_segment(user_id))
    return Call("GET", path, f"GET {template}")


def browser_token(browser_key: str, user_id: str, ttl_seconds: int | None, *, purpose: str | None) -> Call:
    """Make the call that asks for a browser token, or for a stream token if that is the purpose."""
    text = f'{{"browser_key":{encode(_browser_key(browser_key), "browser_key")},"user_id":{_quoted_user(user_id)}'
    if purpose is not None:
        text += f',"purpose":{encode(purpose, "purpose")}'
    if ttl_seconds is not None:
        text += f',"ttl_seconds":{_ttl(ttl_seconds)}'
    return _post("/v1/browser-tokens", text + "}")


def other(method: str, path: str, json: JSONInput) -> Call:
    """Make the call of an endpoint without a function of its own here."""
    verb = method.upper() if isinstance(cast("object", method), str) else ""
    if verb not in _METHODS:
        raise refusal("method", f"must be one of {', '.join(_METHODS)}")
    if verb == "GET" and json is not None:
        raise refusal("json", "can't be sent with GET")
    label = f"{verb} {_path_without_ids(path, verb)}"
    return Call(verb, path, label, None if json is None else encode(json, "json").encode())


def _post(path: str, text: str) -> Call:
    return Call("POST", path, f"POST {path}", text.encode())


def _texts(value: object, *, skipped: frozenset[str] = frozenset()) -> Iterator[str]:
    """Find the texts in parsed JSON. Keys are left out: messages need them to say what is wrong."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            if key not in skipped:
                yield from _texts(item)


def _user_segment(user_id: str) -> str:
    check_id(user_id, "user_id", MAX_USER_ID_LENGTH)
    if user_id in {".", ".."}:
        raise refusal("user_id", "must not be . or .., which servers resolve as parts of a path")
    return quote(user_id, safe="")


def _quoted_user(user_id: str) -> str:
    return encode(check_id(user_id, "user_id", MAX_USER_ID_LENGTH), "user_id")


def _checked(one: Event | Mapping[str, object], index: int) -> tuple[str | None, bytes]:
    """Return the transaction id and the bytes of an event of a batch; the error names the event that can't be sent."""
    try:
        return (one.transaction_id, one.to_bytes()) if isinstance(one, Event) else encode_mapping(one)
    except PerkamoValidationError as error:
        path, reason = f"events[{index}].{error.path}", str(error)
    raise PerkamoValidationError(f"events[{index}].{reason}", field="events", path=path)


def check_stream_path(path: str) -> str:
    """Return the path of customer streams.

    Raises:
        PerkamoConfigurationError: It can't be one.
    """
    if path == STREAM_PATH:  # to check it would be an eighth of making a client
        return path
    try:
        _path_without_ids(path.replace(USER_ID, "id") if isinstance(cast("object", path), str) else path, "POST")
    except PerkamoValidationError as error:
        problem = str(error)
    else:
        if path.split("/").count(USER_ID) == 1:
            return path
        problem = f"path must have {USER_ID} as one of its segments."
    raise PerkamoConfigurationError(f"stream_path can't be used: {problem}")


def check_last_event_id(last_event_id: str | None) -> str:
    """Return the event id after which a stream begins, ``""`` for now; refuse text that would add a header."""
    if last_event_id is None:
        return ""
    if not isinstance(cast("object", last_event_id), str) or not last_event_id.isprintable():
        raise refusal("last_event_id", "must be printable text")
    return last_event_id


def _ttl(ttl_seconds: object) -> int:
    if isinstance(ttl_seconds, bool) or not isinstance(ttl_seconds, int) or not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise refusal("ttl_seconds", f"must be a whole number of seconds from 1 to {MAX_TTL_SECONDS}")
    return ttl_seconds


def _browser_key(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable() or " " in value:
        raise refusal("browser_key", "must be printable ASCII text without spaces")
    if value.startswith(SERVER_KEY_PREFIX):
        raise refusal("browser_key", "is a server key, which must never reach a browser; give the public one")
    return value


def _path_without_ids(path: object, method: str) -> str:
    """Refuse a path that could lead to another endpoint; return it without ids, for messages."""
    if not isinstance(path, str) or not path.startswith("/v1/") or not path.isascii() or not path.isprintable():
        raise refusal("path", "must begin with /v1/ and be percent-encoded ASCII")
    plain, _, query = path.partition("?")
    if any(sign in query for sign in " #\\") or ("?" in path and method != "GET"):
        raise refusal("path", "must not contain spaces, # or backslashes, and no query unless the method is GET")
    if problem := path_problem(plain):
        raise refusal("path", problem)
    first, _, rest = plain.removeprefix("/v1/").partition("/")
    return f"/v1/{first}/…" if rest else f"/v1/{first}"
