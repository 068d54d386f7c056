"""Raw requests, right or wrong, and raw answers: without the client's checks and corrections."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from json import dumps
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx
from attrs import field, frozen

from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.redaction import Secrets
from perkamo.runtime.clock import Clock
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

ANSWER_SECONDS: Final = 20.0
_TRIES: Final = 4
_LONGEST_WAIT: Final = 60
"""How often a request is sent after a 429, and how many seconds the service may ask to wait."""


class NoAnswerError(Exception):
    """There was no answer. The text says why, without address and key."""


@frozen
class Answer:
    """An answer as it came.

    Attributes:
        status: The status.
        headers: The headers, names in lower case.
        body: The body.
        seconds: How long it took.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it is a 4xx."""
        return 400 <= self.status < 500

    @property
    def is_json(self) -> bool:
        """Whether the body is JSON."""
        return self.json is not None or self.body.strip() == b"null"

    @property
    def json(self) -> JSONValue:
        """The body as JSON; None if it is not JSON, or is null."""
        try:
            return parse(self.body)
        except ValueError:
            return None


class Caller:
    """Sends requests to one service.

    Args:
        http: Sends them.
        base_url: The URL of the service.
        key: The server key.
    """

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str) -> None:
        self.http = http
        self.base_url = base_url
        self.offset: float = 0.0
        """Seconds by which the service's clock is ahead of this machine's."""
        self._key = key
        self._clock = Clock()
        self._secrets = Secrets([key, base_url, urlsplit(base_url).hostname or ""])

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a GET with the key, or with other headers instead."""
        return await self._send("GET", path, {API_KEY_HEADER: self._key} if headers is None else headers, None)

    async def post(
        self,
        path: str,
        body: "JSONValue | bytes",
        *,
        skew: float = 0.0,
        content_type: str = "application/json",
        changed: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a signed POST.

        Args:
            path: From ``/v1/`` on.
            body: JSON, or the bytes themselves.
            skew: Seconds by which the timestamp is off.
            content_type: The body's content type.
            changed: Headers that replace the right ones.
        """
        data = body if isinstance(body, bytes) else json_bytes(body)
        timestamp = str(int(time.time() + self.offset + skew))
        headers = {
            API_KEY_HEADER: self._key,
            "content-type": content_type,
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(self._key, timestamp, "POST", path, data),
            **(changed or {}),
        }
        return await self._send("POST", path, {name: value for name, value in headers.items() if value}, data)

    async def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Send a request, again after a 429. A failure of the service does not count as an answer."""
        answer = await self._send_once(method, path, headers, body)
        tries = 1
        while answer.status == 429 and tries < _TRIES:
            asked = answer.headers.get("retry-after", "")
            await anyio.sleep(min(int(asked), _LONGEST_WAIT) if asked.isascii() and asked.isdigit() else 1)
            answer = await self._send_once(method, path, headers, body)
            tries += 1
        if answer.status == 429 or answer.status >= 500:
            raise NoAnswerError(f"the service answers {answer.status}")
        return answer

    async def _send_once(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        began = self._clock.now()
        problem = "none came in time"
        with anyio.move_on_after(ANSWER_SECONDS):
            try:
                response = await self.http.request(
                    method,
                    self.base_url + path,
                    headers={"accept": "application/json", **headers},
                    content=body,
                    follow_redirects=False,
                )
            except httpx.HTTPError as error:
                problem = self._secrets.clean(str(error)) or type(error).__name__
            else:
                seconds = self._clock.now() - began
                return Answer(response.status_code, dict(response.headers), response.content, seconds)
        raise NoAnswerError(problem)


def json_bytes(value: JSONValue) -> bytes:
    """Return JSON as the official clients write it."""
    return dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def clock_offset(answer: Answer) -> float | None:
    """Return by how many seconds the service's clock is ahead of this machine's, from its Date; None without one."""
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time() + 0.5
    except (KeyError, ValueError):
        return None
