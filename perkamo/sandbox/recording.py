"""Records the requests of a sandbox as lines of JSON, and replays them into another sandbox.

A line has the time, method, path and body of a request, and the status of its answer. Keys are masked; ids are replaced
by pseudonyms if that is asked for.
"""

import json
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import IO, Final, cast
from urllib.parse import quote

from attrs import field, frozen

from perkamo.encoding.ids import transaction_id_of_line
from perkamo.sandbox.messages import Headers, Json, JsonObject, Request, dump
from perkamo.sandbox.requestlog import MASK, RequestRecord
from perkamo.sandbox.routes import CUSTOMER_PREFIX, STREAM_PREFIX, find
from perkamo.sandbox.sandbox import Sandbox
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

MAX_LINE: Final = 8_000_000
"""The longest line that is read, in characters: a body of 2 MB with everything in it escaped."""

_KEY: Final = re.compile(r"\b[sp]k_[A-Za-z0-9_-]+")
_MASKED_BROWSER_KEY: Final = re.compile(rb'"browser_key"\s*:\s*"\*\*\*"')
_ID_NAMES: Final = {"user_id": "user_", "transaction_id": "tx_"}


class RecordingError(ValueError):
    """A line of a recording can't be read. The message has the line's number and the reason, but no values."""


@frozen
class Recorded:
    """One request of a recording.

    Attributes:
        time: When it arrived, in Unix seconds.
        method: The method.
        path: The path as sent, with its query.
        body: The raw body.
    """

    time: float
    method: str
    path: str = field(repr=False)
    body: bytes = field(repr=False)


class Recorder:
    """Writes requests to a file as they arrive, one line each.

    Args:
        file: The file; it is flushed after each line.
        pseudonyms: Whether the ids of customers and transactions are replaced. One recorder always gives an id the same
            pseudonym. Contexts and traits stay as they are, except for texts in them that are such ids.
    """

    def __init__(self, file: IO[str], *, pseudonyms: bool = False) -> None:
        self._file = file
        self._pseudonyms = _Pseudonyms() if pseudonyms else None

    def write(self, record: RequestRecord) -> None:
        """Write a request."""
        path, body = record.path, record.body
        if self._pseudonyms is not None:
            path, body = self._pseudonyms.path(path), self._pseudonyms.body(body)
        line: JsonObject = {"time": record.time, "method": record.method, "path": _KEY.sub(MASK, path)}
        try:
            line["body"] = _KEY.sub(MASK, body.decode())
        except UnicodeDecodeError:
            line["body_base64"] = b64encode(body).decode()
        line |= {"status": record.status, "fault": record.fault, "notes": list(record.notes)}
        self._file.write(dump(line).decode() + "\n")
        self._file.flush()


class _Pseudonyms:
    """Pseudonyms for ids. They cannot be reversed: the key is made for this recording and not kept."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def path(self, path: str) -> str:
        place = find(path.partition("?")[0])
        if place.user_id is None:
            return path
        start = STREAM_PREFIX if place.path.startswith(STREAM_PREFIX) else CUSTOMER_PREFIX
        before, _, rest = path.partition(start)
        _, slash, end = rest.partition("/")
        return before + start + quote(self._other(place.user_id, "user_"), safe="") + slash + end

    def body(self, body: bytes) -> bytes:
        if not body:
            return body
        try:
            value = cast("Json", json.loads(body))
        except (ValueError, RecursionError):
            return b""  # an id may be anywhere in it
        known: dict[str, str] = {}
        self._collect(value, known)
        return dump(_replaced(value, known))

    def _collect(self, value: Json, known: dict[str, str]) -> None:
        if isinstance(value, list):
            for item in value:
                self._collect(item, known)
        elif isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, str) and name in _ID_NAMES:
                    known[item] = self._other(item, _ID_NAMES[name])
                else:
                    self._collect(item, known)

    def _other(self, text: str, prefix: str) -> str:
        return prefix + blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=10).hexdigest()


def _replaced(value: Json, known: dict[str, str]) -> Json:
    if isinstance(value, str):
        return known.get(value, value)
    if isinstance(value, list):
        return [_replaced(item, known) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(item, known) for name, item in value.items()}
    return value


def read_recording(lines: Iterable[str]) -> Iterator[Recorded]:
    """Read the requests of a recording, or of a file of events with one JSON object a line.

    Args:
        lines: The lines of the file.

    Raises:
        RecordingError: A line is neither of them; the message has its number.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _recorded(line)
            except (ValueError, RecursionError) as error:
                raise RecordingError(f"line {number} {error}") from None


def _recorded(line: str) -> Recorded:
    if len(line) > MAX_LINE:
        raise ValueError("is too long")
    try:
        value = cast("Json", json.loads(line))
    except ValueError:
        raise ValueError("is not JSON") from None
    match value:
        case {"time": int() | float() as time, "method": str() as method, "path": str() as path, **rest}:
            return Recorded(time, method, path, _body(rest.get("body"), rest.get("body_base64")))
        case {"event": str() as event, **rest}:
            if rest.get("transaction_id") is None:
                rest["transaction_id"] = transaction_id_of_line(line.encode().strip())
            body = json.dumps({"event": event, **rest})  # ASCII, even if a text is not valid Unicode
            return Recorded(0.0, "POST", "/v1/events", body.encode())
        case _:
            raise ValueError("is neither a recorded request nor an event")


def _body(text: object, encoded: object) -> bytes:
    if isinstance(text, str):
        return text.encode(errors="surrogatepass")
    return b64decode(encoded) if isinstance(encoded, str) else b""


def play(sandbox: Sandbox, recorded: Recorded) -> int | None:
    """Send a recorded request to a sandbox, with the sandbox's key, signed with its time.

    Streams are left out, because nobody would read them.

    Returns:
        The status of the answer; None if there was none.
    """
    place = find(recorded.path.partition("?")[0])
    if place.path.startswith(STREAM_PREFIX):
        return None
    body = _MASKED_BROWSER_KEY.sub(f'"browser_key":"{sandbox.browser_key}"'.encode(), recorded.body)
    headers: Headers = ((API_KEY_HEADER, sandbox.api_key), ("accept", "application/json"))
    if recorded.method == "POST":
        now = str(int(sandbox.clock.time()))
        signature = sign(sandbox.api_key, now, "POST", place.path, body)
        signed = ((TIMESTAMP_HEADER, now), (SIGNATURE_HEADER, signature))
        headers = (*headers, ("content-type", "application/json"), *signed)
    instruction = sandbox.answer(Request(recorded.method, recorded.path, headers, body))
    return None if instruction.response is None else instruction.response.status
