"""The base URL and the server key."""

import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

import anyio.to_thread

from perkamo.errors import PerkamoConfigurationError
from perkamo.request.paths import path_problem
from perkamo.signing import API_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from perkamo.transport.resolver import is_loopback

DEFAULT_BASE_URL: Final = "https://api.perkamo.com"
API_KEY_VARIABLE: Final = "PERKAMO_SECRET_KEY"
BASE_URL_VARIABLE: Final = "PERKAMO_BASE_URL"
"""Assumed: the other clients do not read a base URL from the environment."""

SERVER_KEY_PREFIX: Final = "sk_"
BROWSER_KEY_PREFIX: Final = "pk_"
"""Assumed from published examples; used only to notice that the two kinds of key were mixed up."""

ApiKey: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A server key, or a function, sync or async, that is called for the key before every attempt."""

T = TypeVar("T")

_KEY_NAME: Final = API_KEY_HEADER.encode("ascii")
_TIMESTAMP_NAME: Final = TIMESTAMP_HEADER.encode("ascii")
_SIGNATURE_NAME: Final = SIGNATURE_HEADER.encode("ascii")

NOTHING_SENT: Final = " Nothing was sent."
_SET_A_KEY: Final = f"pass api_key= or set {API_KEY_VARIABLE}"
_NO_KEY: Final = (
    f"There is no server key: {_SET_A_KEY}. Without an account, run 'python -m perkamo sandbox' and take the key that "
    "it prints."
)


class Key:
    """A server key or its supplier. Neither its repr nor a pickle shows the key.

    If no key is given, the environment is read at the first call, so that code which only builds a client needs no key.

    Attributes:
        problem: Why the given value can't be a key, or None.
    """

    __slots__ = ("_source", "problem")

    def __init__(self, source: object) -> None:
        given = os.environ.get(API_KEY_VARIABLE, "") if source is None else source
        self.problem: str | None = None
        self._source: str | Callable[[], object] = ""
        if callable(given):
            self._source = given
        elif isinstance(given, str):
            self._source = given.strip()
            self.problem = _key_problem(self._source) if self._source else None
        else:
            self.problem = f"api_key must be text or a function that returns it, not {type(given).__name__}."

    def check(self) -> None:
        """Check the key, or that it is a supplier.

        Raises:
            PerkamoConfigurationError: The given value can't be a key.
        """
        if self.problem is not None:
            raise PerkamoConfigurationError(self.problem)

    def __repr__(self) -> str:
        return "<Key ***>"

    @property
    def is_supplied(self) -> bool:
        """Whether the key comes from a function, which may take time."""
        return not isinstance(self._source, str)

    def __reduce__(self) -> str:
        raise TypeError("a server key cannot be pickled; build the client again where it is needed")

    async def __call__(self) -> str:
        """Return the key, or ask its supplier for it.

        Raises:
            PerkamoConfigurationError: There is no key, or the supplier failed or returned no valid key.
        """
        if isinstance(self._source, str):
            return self._source or self._from_environment()
        try:
            value = await call_supplier(self._source)
        except Exception as error:
            raise PerkamoConfigurationError(
                f"The api_key function raised {type(error).__name__}.{NOTHING_SENT}", outcome="not_sent"
            ) from error
        problem = _key_problem(value)
        if problem is None:
            return str(value).strip()
        del value
        raise PerkamoConfigurationError(problem + NOTHING_SENT, outcome="not_sent")

    def _from_environment(self) -> str:
        key = os.environ.get(API_KEY_VARIABLE, "").strip()
        problem = _key_problem(key) if key else _NO_KEY
        if problem is None:
            self._source = key
            return key
        del key
        raise PerkamoConfigurationError(problem + NOTHING_SENT, outcome="not_sent")

    async def sign(self, timestamp: int, method: str, path: str, body: bytes | None) -> "SignedHeaders":
        """Get the key, and return the headers with key and signature.

        Args:
            timestamp: Unix seconds by the service's clock.
            method: The HTTP method. Every method but GET is signed (published for POST).
            path: The path from ``/v1/`` on.
            body: The bytes that will be sent.

        Raises:
            PerkamoConfigurationError: There is no key, or the supplier failed or returned no valid key.
        """
        return SignedHeaders(await self(), timestamp, method, path, body)


def wrap_secret(value: object, kind: type[T]) -> T:
    """Wrap a secret so that no traceback shows it.

    A function that takes one calls this first, because its arguments are in its frame.

    Args:
        value: The secret, its supplier, or a secret that is wrapped already.
        kind: The class that wraps such a secret.
    """
    make = cast("Callable[[object], T]", kind)
    return value if isinstance(value, kind) else make(value)


class SignedHeaders:
    """The headers with key and signature, in an object whose repr shows neither.

    Attributes:
        key: The server key, which must be kept out of texts.
        signature: The signature; None for a GET, which is not signed.
        raw: The headers, as they are sent.
    """

    __slots__ = ("key", "raw", "signature")

    def __init__(self, key: str, timestamp: int, method: str, path: str, body: bytes | None) -> None:
        self.key: str = key
        self.signature: str | None = None
        self.raw: list[tuple[bytes, bytes]] = [(_KEY_NAME, key.encode("ascii"))]
        if method != "GET":
            text = str(timestamp)
            self.signature = sign(key, text, method, path, body or b"")
            self.raw.append((_TIMESTAMP_NAME, text.encode("ascii")))
            self.raw.append((_SIGNATURE_NAME, self.signature.encode("ascii")))

    def __repr__(self) -> str:
        return "<SignedHeaders ***>"


async def call_supplier(supplier: Callable[[], object]) -> object:
    """Call a supplier, sync or async, and return its result."""
    if inspect.iscoroutinefunction(supplier):
        value: object = supplier()
    else:
        # A supplier may read a file or ask a vault. In a thread, it blocks neither the event loop nor the time limit.
        call = _SupplierCall(supplier)
        try:
            await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True)
        except BaseException:
            call.abandon()
            raise
        value = call.answer
    return await value if inspect.isawaitable(value) else value


class _SupplierCall:
    """A supplier that is called in a thread. If nobody waits any more, the coroutine that it returned is closed."""

    def __init__(self, supplier: Callable[[], object]) -> None:
        self.answer: object = None
        self._supplier = supplier
        self._lock = threading.Lock()
        self._abandoned = False

    def run(self) -> None:
        """Call the supplier, and keep the result here: trio refuses a function that returns an awaitable."""
        answer = self._supplier()
        with self._lock:
            self.answer = answer
            if self._abandoned:
                self._close()

    def abandon(self) -> None:
        """Close the coroutine that was returned, or will be."""
        with self._lock:
            self._abandoned = True
            self._close()

    def _close(self) -> None:
        if inspect.iscoroutine(self.answer):
            self.answer.close()


def _key_problem(value: object) -> str | None:
    """Return what is wrong with a key, without showing it."""
    if not isinstance(value, str):
        return f"The api_key function returned {type(value).__name__} instead of text."
    key = value.strip()
    if not key:
        return f"The server key is empty: {_SET_A_KEY}."
    if not key.isascii() or not key.isprintable() or " " in key:
        return "The server key contains a space or a character that is not printable ASCII: check how it was copied."
    if key.startswith(BROWSER_KEY_PREFIX):
        return f"That is a public browser key: {_SET_A_KEY} with the server key."
    return None


def check_base_url(base_url: object, *, allow_insecure_http: bool) -> str:
    """Return the base URL without its trailing slashes.

    Args:
        base_url: The caller's, or None for the environment's, or else the hosted API.
        allow_insecure_http: Whether plain http is allowed to hosts other than loopback.

    Raises:
        PerkamoConfigurationError: The key must not be sent to such a URL.
    """
    name, given = "base_url", base_url
    if base_url is None:
        name, given = BASE_URL_VARIABLE, os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    if not isinstance(given, str):
        raise PerkamoConfigurationError(f"base_url must be text, not {type(given).__name__}.")
    problem = _url_problem(given, allow_insecure_http=allow_insecure_http)
    if problem is not None:
        raise PerkamoConfigurationError(f"{name} {problem}.")
    return given.rstrip("/")


def _url_problem(url: str, *, allow_insecure_http: bool) -> str | None:
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return (
            "must be printable ASCII without spaces or backslashes; write an international host name in its xn-- form"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL with a host and a port up to 65535"
    if parts.scheme not in ("http", "https"):
        return "must begin with https:// (or http:// for a local service)"
    if not host or port == 0:
        return "must name a host"
    if parts.scheme == "http" and not allow_insecure_http and not is_loopback(host):
        return "uses plain http, which shows the key to the network; use https, or pass allow_insecure_http=True"
    return _extras_problem(url, parts)


def _extras_problem(url: str, parts: SplitResult) -> str | None:
    if "@" in parts.netloc:
        return "must not contain a user name or a password"
    if "?" in url or "#" in url:
        return "must not have a query or a fragment"
    problem = path_problem(parts.path.rstrip("/"))
    return None if problem is None else f"has a path that {problem}"
