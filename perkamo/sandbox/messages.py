"""The values inside the sandbox: requests, responses, and how a front sends them."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Final, Literal, TypeAlias

from attrs import evolve, field, frozen

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]
Headers: TypeAlias = tuple[tuple[str, str], ...]

WITHOUT_BODY: Final = (204, 304)
"""The status codes whose answers have no body in HTTP."""


@frozen
class Request:
    """One HTTP request as it arrived.

    Attributes:
        method: The method, as sent.
        target: Path and query exactly as on the wire, still percent-encoded.
        headers: Name and value pairs, names in lower case.
        body: The raw body.
        peer: The address that it came from; None for a call inside the process.
    """

    method: str
    target: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    peer: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """The path as sent, without the query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """Return the first header of this name (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


@frozen
class Response:
    """One HTTP response.

    Attributes:
        status: The status code.
        headers: Name and value pairs, names in lower case.
        body: The whole body.
        notes: The sandbox's notes about the request. They go to the request log, and are never sent.
    """

    status: int
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)
    notes: tuple[str, ...] = ()


@frozen
class StreamingResponse:
    """A response whose body has an unknown length.

    Attributes:
        status: The status code.
        headers: Name and value pairs, names in lower case.
        chunks: Opens the body. Called once, on the event loop that sends it (asyncio or trio); the generator is closed
            when the peer closes the connection.
    """

    status: int
    headers: Headers
    chunks: Callable[[], AsyncGenerator[bytes, None]] = field(repr=False)
    notes: tuple[str, ...] = ()


Handler: TypeAlias = Callable[[Request], Response | StreamingResponse | None]
"""Answers a request, or returns None to leave it to the next handler."""


@frozen
class Instruction:
    """What a front (socket or in-process transport) has to do.

    Attributes:
        response: The answer; None if nothing is to be sent.
        delay: Seconds to wait before the first byte.
        keep: How many bytes of the body to send before that end; None for all of them.
        end: What happens to the connection: kept for the next request, closed normally, reset (RST), or left silent.
    """

    response: Response | StreamingResponse | None
    delay: float = 0.0
    keep: int | None = None
    end: Literal["keep", "close", "reset", "stall"] = "keep"


def dump(value: Json) -> bytes:
    """Return the compact JSON bytes of a value."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def json_response(status: int, value: Json, *, headers: Headers = (), notes: tuple[str, ...] = ()) -> Response:
    """Build a response with a JSON body."""
    return Response(status, (("content-type", "application/json; charset=utf-8"), *headers), dump(value), notes)


def with_headers(response: Response, headers: Headers) -> Response:
    """Return the response with these headers, except those it has already."""
    present = {name for name, _ in response.headers}
    return evolve(response, headers=(*response.headers, *(pair for pair in headers if pair[0] not in present)))
