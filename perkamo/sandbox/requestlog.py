"""The log of the sandbox's requests: limited in size, with masked keys."""

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from attrs import field, frozen

from perkamo.sandbox.messages import Headers, Instruction, Json, Request, Response
from perkamo.signing import API_KEY_HEADER

MAX_RECORDS: Final = 10_000
MAX_RECORDED_BYTES: Final = 64_000_000
MASK: Final = "***"
_TOKEN: Final = re.compile(rb'"token"\s*:\s*"[^"]*"')
_BROWSER_KEY: Final = re.compile(rb'"browser_key"\s*:\s*"[^"]*"')
_SECRET_HEADERS: Final = (API_KEY_HEADER, "authorization", "proxy-authorization", "cookie")


@frozen
class RequestRecord:
    """One request and its outcome.

    Attributes:
        method: The method.
        route: Method and path, with the id replaced by its name; None for an unknown path.
        path: The path as sent, with its query.
        headers: Name and value pairs, names in lower case; the values of keys and tokens are masked.
        body: The raw body; in a request for a token, the browser key is masked.
        status: The status of the answer, or None if no answer was sent.
        fault: The fault that happened, in words, or None.
        notes: The sandbox's notes about the request.
        time: When it arrived, in Unix seconds of the sandbox's clock.
        answer_headers: Name and value pairs of the answer, names in lower case; none if no answer was sent.
        answer: The part of the answer's body that was sent, with masked tokens; empty for a stream.
        seconds: How long the answer took, including the wait of a fault.
    """

    method: str
    route: str | None
    path: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None
    fault: str | None
    notes: tuple[str, ...]
    time: float = field(repr=False)
    answer_headers: Headers = field(default=(), repr=False)
    answer: bytes = field(default=b"", repr=False)
    seconds: float = field(default=0.0, repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header of this name (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def size(self) -> int:
        """Its size in bytes, about: path, headers and bodies."""
        heads = sum(len(name) + len(value) for name, value in (*self.headers, *self.answer_headers))
        return len(self.path) + len(self.body) + len(self.answer) + heads

    def json(self) -> dict[str, Json]:
        """Return it as ``GET /_sandbox/requests`` shows it."""
        return {
            "method": self.method,
            "route": self.route,
            "path": self.path,
            "headers": [[name, value] for name, value in self.headers],
            "body": self.body.decode(errors="replace"),
            "status": self.status,
            "fault": self.fault,
            "notes": list(self.notes),
            "time": self.time,
            "answer_headers": [[name, value] for name, value in self.answer_headers],
            "answer": self.answer.decode(errors="replace"),
            "seconds": self.seconds,
        }


class RequestLog:
    """Keeps the last requests: at most 10,000 of them, and 64 MB of paths, headers and bodies."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque()
        self._bytes = 0
        self.total: int = 0
        """How many there were since the last reset, kept or not."""

    def add(self, record: RequestRecord) -> None:
        """Add a request, and drop the oldest ones beyond the limits."""
        self._records.append(record)
        self.total += 1
        self._bytes += record.size
        while len(self._records) > MAX_RECORDS or self._bytes > MAX_RECORDED_BYTES:
            self._bytes -= self._records.popleft().size

    def records(self) -> tuple[RequestRecord, ...]:
        """Return them, oldest first."""
        return tuple(self._records)

    def after(self, number: int) -> Iterator[tuple[int, RequestRecord]]:
        """Return the kept requests after a number, with their numbers, oldest first; a reset starts again at 1."""
        first = self.total - len(self._records)
        return enumerate(islice(self._records, max(number - first, 0), None), max(number, first) + 1)

    def newest(self) -> Iterator[tuple[int, RequestRecord]]:
        """Return the kept requests with their numbers, the newest first."""
        return zip(range(self.total, 0, -1), reversed(self._records), strict=False)

    def get(self, number: int) -> RequestRecord | None:
        """Return the request with a number; None if it is not kept."""
        return next((record for found, record in self.after(number - 1) if found == number), None)

    def latest(self, count: int) -> tuple[RequestRecord, ...]:
        """Return the last ones, at most this many, oldest first."""
        return tuple(islice(reversed(self._records), count))[::-1]

    def reset(self) -> None:
        """Forget all."""
        self._records.clear()
        self._bytes = self.total = 0


def make_record(
    request: Request, route: str | None, instruction: Instruction, *, fault: str | None, time: float, seconds: float
) -> RequestRecord:
    """Make the record of a request and of the answer to it, without keys, tokens and cookies.

    Args:
        request: The request.
        route: Its route.
        instruction: The answer, and how it is sent.
        fault: The fault that happened, in words.
        time: When it arrived, in Unix seconds of the sandbox's clock.
        seconds: How long it took to answer, without the wait of a fault.
    """
    response = instruction.response
    body, answer = request.body, response.body[: instruction.keep] if isinstance(response, Response) else b""
    if route == "POST /v1/browser-tokens":
        body, answer = _BROWSER_KEY.sub(b'"browser_key":"***"', body), _TOKEN.sub(b'"token":"***"', answer)
    return RequestRecord(
        method=request.method,
        route=route,
        path=request.target,
        headers=tuple((name, MASK if name in _SECRET_HEADERS else value) for name, value in request.headers),
        body=body,
        status=None if response is None else response.status,
        fault=fault,
        notes=() if response is None else response.notes,
        time=time,
        answer_headers=() if response is None else response.headers,
        answer=answer,
        seconds=seconds + instruction.delay,
    )
