"""Turns an error of httpx, a tool or the caller's client into the reason for no answer, or into the answer in it.

The error itself is never passed on: its traceback, cause and request lead to the key and to personal data.
"""

import re
import ssl
from typing import Final, TypeAlias

import httpx
from attrs import field, frozen

from perkamo.errors import PerkamoError
from perkamo.request.body import UnusableBodyError, whole_content
from perkamo.request.retry import FailureKind
from perkamo.transport.sockets import reason
from perkamo.transport.tls import TLSSetupError

Answered: TypeAlias = tuple[httpx.Response, bytes | ValueError]
"""The head of an answer, and its body or why the body can't be used."""

_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
_BAD_LOCATION: Final = "Invalid URL in location header"
"""httpx's error for a redirect whose URL can't be parsed; the answer itself is lost then."""
_PROXY_REFUSES: Final = r"(?:401|403|407)\b"
_PASSING_TLS: Final = "INTERNAL_ERROR|UNEXPECTED_EOF|USER_CANCELLED|BAD_RECORD_MAC"
"""Alerts of a peer that is overloaded or stopping, and damaged data."""


@frozen
class Problem:
    """Why an attempt got no answer.

    Attributes:
        kind: The kind of failure, which decides what is done about it.
        reason: The text of the error; it may contain secrets and must be cleaned.
        sent: Whether the service may have got the request.
        raised: The name of the error's class, if it is the caller's own.
        nearest: The nearest base class in Python or httpx, which can be shown instead.
    """

    kind: FailureKind
    reason: str = field(default="", repr=False)
    sent: bool = False
    raised: str = ""
    nearest: type[Exception] = Exception


def result_of(error: Exception, request: httpx.Request, *, begun: bool, external: bool) -> Answered | Problem | None:
    """Return what an error means; None if it is not about the request, but a bug or the failure of a test.

    Args:
        error: The error.
        request: The request that was sent or should have been sent.
        begun: Whether the transport has begun to send its body.
        external: Whether the HTTP client is the caller's.
    """
    answered = _answer_within(error, request)
    if answered is None and external and _is_about_another(error, request):
        return _misuse(error, sent=True)
    return answered or problem_of(error, begun=begun, external=external)


def _answer_within(error: Exception, request: httpx.Request) -> Answered | None:
    """Return the answer that a hook turned into an error with ``raise_for_status()``.

    A hook may also make requests of its own; their answers are ignored.
    """
    if not isinstance(error, httpx.HTTPStatusError):
        return None
    answered = error.response
    try:
        asked = answered.request
    except RuntimeError:  # an answer that a hook has built itself
        return None
    if (asked.method, asked.url) != (request.method, request.url):
        return None
    try:
        return answered, whole_content(answered)
    except UnusableBodyError as problem:
        return answered, ValueError(str(problem))
    except httpx.ResponseNotRead:
        return answered, ValueError("was not read, because a hook of the HTTP client raised HTTPStatusError")


def _is_about_another(error: Exception, request: httpx.Request) -> bool:
    """Return whether an error of httpx is about a request that a hook made, and not about ours."""
    if not isinstance(error, httpx.HTTPError):
        return False
    try:
        asked = error.request
    except (RuntimeError, AttributeError):  # raised by the caller's code, or of a class without httpx's __init__
        return False
    return (asked.method, asked.url) != (request.method, request.url)


def problem_of(error: Exception, *, begun: bool, external: bool) -> Problem | None:
    """Return why there is no answer, or no complete one; otherwise like ``result_of``."""
    sent = not isinstance(error, _NEVER_SENT) and (begun or external)
    if external and type(error).__module__ != "httpx":
        if isinstance(error, AssertionError | PerkamoError):  # the failure of a test, or the error of a hook's own call
            return None
        return _misuse(error, sent=sent)
    if isinstance(error, httpx.TransportError):
        return Problem(_kind(error), _text(error), sent)
    if isinstance(error, httpx.DecodingError):
        return Problem("answer", "the answer can't be decoded", sent)
    if external or isinstance(error, httpx.HTTPError | httpx.StreamError | httpx.InvalidURL):
        return _misuse(error, sent=sent)
    return None


def _misuse(error: Exception, *, sent: bool) -> Problem:
    return Problem("client", _said(error), sent, type(error).__name__, _nearest(type(error)))


def _kind(error: httpx.TransportError) -> FailureKind:
    text = str(error)
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    if isinstance(error, TLSSetupError):
        return "setup"
    if isinstance(error, httpx.ConnectError) and _refused_tls(error) is not None:
        return "tls"
    if isinstance(error, httpx.ProxyError) and re.match(_PROXY_REFUSES, text):
        return "proxy"
    if isinstance(error, httpx.RemoteProtocolError) and text.startswith(_BAD_LOCATION):
        return "redirect"
    return "request" if isinstance(error, httpx.UnsupportedProtocol) else "connection"


def _text(error: httpx.TransportError) -> str:
    tls = _refused_tls(error)
    return reason(tls) if tls is not None else str(error) or type(error).__name__


def _refused_tls(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error that caused an error, if another attempt would fail in the same way."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return None if re.search(_PASSING_TLS, str(error)) else error
        error = error.__cause__ or error.__context__
    return None


def _said(error: Exception) -> str:
    try:
        return reason(error)
    except Exception:  # noqa: BLE001 - the caller's own class makes this text, and may raise anything
        return ""


def _nearest(kind: type[BaseException]) -> type[Exception]:
    """Return the nearest base class that takes a text: a class of the caller's may need other arguments."""
    for cls in kind.__mro__:
        if issubclass(cls, Exception) and cls.__module__ in ("builtins", "httpx"):
            try:
                cls("")
            except TypeError:
                continue
            return cls
    return Exception
