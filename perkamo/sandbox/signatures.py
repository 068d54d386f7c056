"""Checks the key and the signature of a request by its own calculation, and finds the mistake in a wrong signature."""

import hmac
import json
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from itertools import product
from typing import Final
from urllib.parse import quote, unquote

from attrs import frozen

from perkamo.sandbox.messages import Request
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER

MAX_SKEW_SECONDS: Final = 300
"""Assumed: the clock skew that the service allows is unpublished."""

MAX_TIMESTAMP_DIGITS: Final = 15
KEY_PREFIXES_OF_LIVE: Final = ("sk_live", "pk_live")
UNKNOWN_CAUSE: Final = (
    "none of the usual slips (key, timestamp, method, path, body) explains it;"
    " was it made with another key, or from bytes other than those sent?"
)


class AuthorizationError(ValueError):
    """The request is not authorized. The message says why and never contains the key."""


@frozen
class _Parts:
    key: str
    timestamp: str
    method: str
    path: str
    body: bytes

    def digest(self) -> bytes:
        text = f"v1.{self.timestamp}.{self.method}.{self.path}.{sha256(self.body).hexdigest()}"
        return hmac.digest(self.key.encode(), text.encode(), "sha256")


def check_key(request: Request, api_key: str, browser_key: str) -> None:
    """Check the API key of any request.

    Args:
        request: The request.
        api_key: The right server key.
        browser_key: The public key, to recognise that it was sent by mistake.

    Raises:
        AuthorizationError: The key is missing, given twice, or wrong.
    """
    given = [value for name, value in request.headers if name == API_KEY_HEADER]
    if len(given) != 1:
        raise AuthorizationError(f"The header {API_KEY_HEADER} is {'missing' if not given else 'there more than once'}")
    if given[0].startswith(KEY_PREFIXES_OF_LIVE):
        raise AuthorizationError(
            f"The key in {API_KEY_HEADER} looks like a live key. This is a sandbox: keep live keys out of tests"
        )
    if hmac.compare_digest(given[0].encode(), browser_key.encode()):
        raise AuthorizationError(f"{API_KEY_HEADER} holds the public browser key; server calls need the server key")
    if not hmac.compare_digest(given[0].encode(), api_key.encode()):
        raise AuthorizationError(f"The key in {API_KEY_HEADER} is not this sandbox's server key")


def check_signature(request: Request, path: str, api_key: str, now: float, max_skew: float = MAX_SKEW_SECONDS) -> None:
    """Check timestamp and signature of a POST.

    Args:
        request: The request.
        path: The path that has to be signed, from ``/v1/`` on.
        api_key: The server key.
        now: The sandbox's time in Unix seconds.
        max_skew: Seconds that the timestamp may be off.

    Raises:
        AuthorizationError: A header is missing, malformed, outside the window, or wrong. The message says which part
            of the signed text differs.
    """
    timestamp = _single(request, TIMESTAMP_HEADER)
    signature = _single(request, SIGNATURE_HEADER)
    if not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > MAX_TIMESTAMP_DIGITS:
        raise AuthorizationError(f"{TIMESTAMP_HEADER} must be whole Unix seconds as decimal digits")
    ahead = int(timestamp) - now
    if abs(ahead) > max_skew:
        meant = "; is it in milliseconds?" if abs(int(timestamp) / 1000 - now) <= MAX_SKEW_SECONDS else ""
        raise AuthorizationError(
            f"{TIMESTAMP_HEADER} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the sandbox's clock,"
            f" which allows {max_skew:.0f} s{meant}"
        )
    right = _Parts(api_key, timestamp, request.method.upper(), path, request.body)
    if not hmac.compare_digest(signature.encode(), f"v1={right.digest().hex()}".encode()):
        expected = f"v1.{timestamp}.{right.method}.{path}.{sha256(request.body).hexdigest()}"
        raise AuthorizationError(
            f"{SIGNATURE_HEADER} is wrong: {_explain(signature, right, request)}. The text to sign is {expected}"
        )


def _single(request: Request, name: str) -> str:
    given = [value for key, value in request.headers if key == name]
    if len(given) != 1:
        raise AuthorizationError(
            f"The header {name} is {'missing: every POST is signed' if not given else 'there more than once'}"
        )
    return given[0]


def _explain(signature: str, right: _Parts, request: Request) -> str:
    digest = right.digest()
    spellings = {
        digest.hex(): "the prefix v1= is missing",
        f"v1={digest.hex().upper()}": "its digits must be in lower case",
        f"v1={b64encode(digest).decode()}": "it is base64; it must be hexadecimal",
        b64encode(digest).decode(): "it is base64; it must be v1= and hexadecimal",
    }
    if signature in spellings:
        return spellings[signature]
    if len(signature) != len("v1=") + 64 or not signature.startswith("v1="):
        return "it must be v1= and 64 hexadecimal digits"
    for what, parts in _slips(right, request):
        if f"v1={parts.digest().hex()}" == signature:
            return what
    return UNKNOWN_CAUSE


def _slips(right: _Parts, request: Request) -> Iterator[tuple[str, _Parts]]:
    """Yield wrong ways to sign, the simplest first."""
    variants = (_keys(right.key), _methods(right.method), _paths(right.path, request), _bodies(right.body))
    combined = sorted(product(*variants), key=lambda choice: sum(1 for what, _ in choice if what))
    for (key_slip, key), (method_slip, method), (path_slip, path), (body_slip, body) in combined:
        what = " and ".join(slip for slip in (key_slip, method_slip, path_slip, body_slip) if slip)
        yield what, _Parts(key, right.timestamp, method, path, body)
    middle = int(right.timestamp)
    for distance in range(1, 2 * MAX_SKEW_SECONDS + 1):
        for other in (middle - distance, middle + distance):
            said = f"the timestamp that was signed is {other}, the one in the header {right.timestamp}"
            yield said, _Parts(right.key, str(other), right.method, right.path, right.body)


def _keys(key: str) -> list[tuple[str, str]]:
    spellings = [
        (f"{key}\n", "the key was used with a line end"),
        (f" {key}", "the key was used with a space before it"),
        (f"{key} ", "the key was used with a space after it"),
        (sha256(key.encode()).hexdigest(), "the key was hashed before use"),
        ("", "the key was empty"),
    ]
    return [("", key), *((what, other) for other, what in spellings)]


def _methods(method: str) -> list[tuple[str, str]]:
    others = (method.lower(), method.title(), "GET", "PUT", "")
    return [
        ("", method),
        *((f"the method that was signed is {other or 'empty'}, not {method}", other) for other in others),
    ]


def _paths(path: str, request: Request) -> list[tuple[str, str]]:
    host = request.header("host") or ""
    candidates = {
        request.target: "the path was signed with the base URL's prefix or the query",
        request.path: "the path was signed with the base URL's prefix",
        quote(path): "the path was signed percent-encoded; its colon is literal",
        quote(path, safe=""): "the path was signed percent-encoded",
        unquote(path): "the path was signed percent-decoded",
        f"{path}/": "the path was signed with a slash at its end",
        path.lstrip("/"): "the path was signed without its first slash",
        path.removeprefix("/v1"): "the path was signed without /v1",
        f"http://{host}{path}": "a whole URL was signed instead of the path",
        f"https://{host}{path}": "a whole URL was signed instead of the path",
    }
    for other in ("/v1/events", "/v1/events:batch", "/v1/identify", "/v1/browser-tokens"):
        candidates.setdefault(other, f"the path that was signed is {other}, the request went to {path}")
    candidates.pop(path, None)
    return [("", path), *((what, other) for other, what in candidates.items())]


def _bodies(body: bytes) -> list[tuple[str, bytes]]:
    said = "the body that was signed is not the body that was sent: "
    candidates = {b"": f"{said}an empty one was signed", body + b"\n": f"{said}a line end was added"}
    try:
        value: object = json.loads(body)
        for ascii_only, separators, keys_sorted in product((False, True), ((",", ":"), (", ", ": ")), (False, True)):
            text = json.dumps(value, ensure_ascii=ascii_only, separators=separators, sort_keys=keys_sorted)
            how = ", ".join(
                word
                for word, used in (
                    ("\\u escapes", ascii_only),
                    ("spaces", separators[0] == ", "),
                    ("sorted keys", keys_sorted),
                )
                if used
            )
            candidates.setdefault(
                text.encode(), f"{said}the same JSON written differently was signed ({how or 'compact'})"
            )
            candidates.setdefault(
                text.replace("/", "\\/").encode(), f"{said}the same JSON with escaped slashes was signed"
            )
    except (ValueError, RecursionError):
        pass  # not JSON, or JSON that cannot be written again: the other variants remain
    candidates.pop(body, None)
    return [("", body), *((what, other) for other, what in candidates.items())]
