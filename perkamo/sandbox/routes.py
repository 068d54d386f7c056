"""Finds the call that a method and a path stand for."""

from typing import Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

Operation: TypeAlias = Literal[
    "identify", "emit", "batch", "customer", "program", "browser-tokens", "usage", "redeem", "stream"
]

CUSTOMER_PREFIX: Final = "/v1/customer/"
STREAM_PREFIX: Final = "/v1/client/customer/"
STREAM_SUFFIX: Final = "/stream"

ROUTES: Final[dict[str, Operation]] = {
    "POST /v1/identify": "identify",
    "POST /v1/events": "emit",
    "POST /v1/events:batch": "batch",
    "GET /v1/customer/{user_id}": "customer",
    "GET /v1/program": "program",
    "POST /v1/browser-tokens": "browser-tokens",
    "GET /v1/usage": "usage",
    "POST /v1/rewards/redeem": "redeem",
    "GET /v1/client/customer/{user_id}/stream": "stream",
}
"""Method and path of each call, as ``faults`` and the request log name them. The path of the stream is assumed."""


@frozen
class Place:
    """The result of routing a path.

    Attributes:
        path: The path from ``/v1/`` on, which is signed.
        template: The path with the id replaced by its name, or None if the path is unknown.
        user_id: The id in the path, decoded; None if there is none, or if it cannot be decoded.
    """

    path: str = field(repr=False)
    template: str | None
    user_id: str | None = field(default=None, repr=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the path takes."""
        return tuple(
            method for method, _, template in (route.partition(" ") for route in ROUTES) if template == self.template
        )


def find(path: str) -> Place:
    """Route a path. Anything before ``/v1/`` is taken as a gateway's prefix, which is not signed.

    Args:
        path: The path as sent, percent-encoded.
    """
    start = max(path.find("/v1/"), 0)
    path = path[start:]
    if path.startswith(STREAM_PREFIX) and path.endswith(STREAM_SUFFIX):
        segment = path[len(STREAM_PREFIX) : -len(STREAM_SUFFIX)]
        template = "/v1/client/customer/{user_id}/stream"
    elif path.startswith(CUSTOMER_PREFIX):
        segment, template = path[len(CUSTOMER_PREFIX) :], "/v1/customer/{user_id}"
    else:
        known = any(route.endswith(f" {path}") for route in ROUTES)
        return Place(path, path if known else None)
    user_id = _decode(segment)
    if not segment or "/" in segment or user_id in (".", ".."):
        return Place(path, None)
    return Place(path, template, user_id)


def _decode(segment: str) -> str | None:
    pieces = segment.split("%")[1:]
    if any(len(piece) < 2 or not all(digit in "0123456789abcdefABCDEF" for digit in piece[:2]) for piece in pieces):
        return None
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
