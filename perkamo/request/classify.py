"""What an answer, or its absence, means: a reply, or a failure with the error to raise and whether to try again."""

import logging
import ssl
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx
from attrs import field, frozen

from perkamo.encoding.parse import parse
from perkamo.errors import (
    ErrorBody,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoRedirectError,
    PerkamoResponseError,
    PerkamoTimeoutError,
    RateLimit,
    WriteOutcome,
    api_error_class,
)
from perkamo.models import ResponseMeta
from perkamo.redaction import clean
from perkamo.request.endpoints import Call
from perkamo.request.retry import RETRIED_STATUSES, is_retried, parse_http_date, parse_retry_after

logger: logging.Logger = logging.getLogger("perkamo")

MAX_CLOCK_SKEW: Final = 30.0
"""Seconds; assumed: the skew that the service allows is unpublished."""

REQUEST_ID_HEADERS: Final = ("x-perkamo-request-id", "x-request-id")
_HTTPX_BAD_LOCATION: Final = "Invalid URL in location header"
"""What httpx says when a redirect that it does not follow can't be parsed; the answer itself is lost then."""

_RESEND: Final = "It may have been applied; sending it again with the same transaction id is safe."


@frozen
class Reply:
    """A 2xx answer, read whole."""

    body: bytes = field(repr=False)
    meta: ResponseMeta


@frozen
class Failure:
    """An attempt that brought no 2xx answer.

    Attributes:
        error: What is raised if it stays at that.
        retry: Whether another attempt is worth while.
        timed_out: Whether time ran out.
        retry_after: Seconds that the service asked to wait, or None.
        clock_offset: Seconds by which the service's clock is ahead of this machine's, where a 401 may come from that.
    """

    error: PerkamoError
    retry: bool
    timed_out: bool = False
    retry_after: float | None = None
    clock_offset: float | None = None


def classify_response(
    call: Call, response: httpx.Response, data: bytes | ValueError, number: int, timestamp: float
) -> Reply | Failure:
    """Tell what an answer means.

    Args:
        call: What was sent.
        response: Its head.
        data: Its body, or why that could not be read within bounds.
        number: Which attempt of the call this was.
        timestamp: The Unix seconds that were signed.
    """
    headers = _plain(response.headers)
    status = response.status_code
    meta = ResponseMeta(
        status=status,
        request_id=next((value for name in REQUEST_ID_HEADERS if (value := headers.get(name))), None),
        rate_limit=_rate_limit(headers),
        attempts=number,
    )
    if isinstance(data, bytes) and 200 <= status < 300:
        logger.debug("%s: %d (attempt %d, request id %s)", call.label, status, number, meta.request_id)
        return Reply(body=data, meta=meta)
    if not 200 <= status < 600:
        data = ValueError("comes with a status that HTTP does not have")
    if isinstance(data, ValueError) and not 300 <= status < 600:
        return Failure(_unusable(call, str(data), meta), retry=False)
    return _refused(call, headers, data if isinstance(data, bytes) else b"", meta, timestamp)


def _refused(call: Call, headers: Mapping[str, str], data: bytes, meta: ResponseMeta, timestamp: float) -> Failure:
    now = time.time()
    retry_after = parse_retry_after(headers.get("retry-after"), now)
    retry = is_retried(meta.status, has_retry_after=retry_after is not None)
    offset = _clock_offset(headers, timestamp, now) if meta.status == 401 else None
    body = _error_body(data)
    outcome: WriteOutcome | None = None
    if call.is_write:
        outcome = "unknown" if meta.status >= 500 or meta.status == 408 else "rejected"
    host = _location_host(headers) if meta.status < 400 else None
    hint = "" if offset is None else f" This machine's clock differs from the service's by about {abs(offset):.0f} s."
    error = api_error_class(meta.status)(
        f"{call.label}: {_what(call, meta, body, host)}. {_advice(meta.status, outcome, retry_after)}{hint}",
        status=meta.status,
        body=body,
        request_id=meta.request_id,
        retry_after=headers.get("retry-after"),
        retry_after_seconds=retry_after,
        rate_limit=meta.rate_limit,
        outcome=outcome,
        retryable=retry,
        attempts=meta.attempts,
    )
    if isinstance(error, PerkamoRedirectError):
        error.location_host = host
    return Failure(error, retry=retry, retry_after=retry_after, clock_offset=offset)


def classify_failure(call: Call, problem: Exception, number: int, *, begun: bool) -> Failure:
    """Tell what it means that no answer came.

    Args:
        call: What was to be sent.
        problem: What the transport said, free of secrets.
        number: Which attempt of the call this was.
        begun: Whether the body began to leave.
    """
    outcome: WriteOutcome | None = None
    advice = "Try again later."
    if call.is_write:
        outcome = "unknown" if begun else "not_sent"
        advice = _RESEND if begun else "Nothing was sent; it can be sent again."
    timed_out = isinstance(problem, httpx.TimeoutException)
    permanent = isinstance(problem, ssl.SSLError)
    what = "ran out of time" if timed_out else clean(str(problem), *call.ids) or type(problem).__name__
    if permanent:
        what, advice = f"the TLS connection was refused ({what})", "Nothing was sent; check base_url and certificates."
    elif what.startswith(_HTTPX_BAD_LOCATION):
        permanent = True
        what, advice = "the answer was a redirect to no valid URL, and redirects are not followed", "Check base_url."
    cls = PerkamoTimeoutError if timed_out else PerkamoConnectionError
    error = cls(f"{call.label}: {what}. {advice}", outcome=outcome, retryable=not permanent, attempts=number)
    return Failure(error, retry=not permanent, timed_out=timed_out)


def _unusable(call: Call, reason: str, meta: ResponseMeta) -> PerkamoResponseError:
    advice = _RESEND if call.is_write else "Try again later."
    return PerkamoResponseError(
        f"{call.label}: the service answered {meta.status}, but the body {reason}{_request(meta)}. {advice}",
        status=meta.status,
        request_id=meta.request_id,
        outcome="unknown" if call.is_write else None,
        attempts=meta.attempts,
    )


def _what(call: Call, meta: ResponseMeta, body: ErrorBody, host: str | None) -> str:
    if meta.status < 400:
        return f"{meta.status}, a redirect to {clean(host) if host else 'no host'}, which is not followed"
    message = body.get("message") if isinstance(body, dict) else None
    text = f"{meta.status} {clean(message, *call.ids)}" if isinstance(message, str) and message else str(meta.status)
    return text.rstrip(".") + _request(meta)


def _request(meta: ResponseMeta) -> str:
    return f" (request id {clean(meta.request_id)})" if meta.request_id else ""


def _advice(status: int, outcome: WriteOutcome | None, retry_after: float | None) -> str:
    nothing = "Nothing was applied; " if outcome == "rejected" else ""
    if status < 400:
        advice = f"{nothing}check base_url."
    elif outcome == "unknown":
        advice = _RESEND
    elif status == 401:
        advice = f"{nothing}check the server key and this machine's clock."
    elif status == 403:
        advice = f"{nothing}this key may not do that."
    elif status in RETRIED_STATUSES:
        advice = f"{nothing}try again later." if retry_after is None else f"{nothing}try again in {retry_after:.0f} s."
    else:
        advice = f"{nothing}the same request will be refused again."
    return advice[0].upper() + advice[1:]


def _error_body(data: bytes) -> ErrorBody:
    try:
        return parse(data) if data else None
    except ValueError:
        return data.decode("utf-8", "replace")


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Read all headers at once, which costs less than asking httpx for each; repeated ones are joined, as it does."""
    plain: dict[str, str] = {}
    for raw_name, raw_value in headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        plain[name] = f"{plain[name]}, {value}" if name in plain else value
    return plain


def _rate_limit(headers: Mapping[str, str]) -> RateLimit:
    limit, remaining, reset = (
        headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}") or None
        for name in ("limit", "remaining", "reset")
    )
    return RateLimit(limit=_digits(limit), remaining=_digits(remaining), reset=reset)


def _digits(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None


def _clock_offset(headers: Mapping[str, str], timestamp: float, now: float) -> float | None:
    """Compare the answer's Date with the time that was signed; a cached answer's date says nothing."""
    date = headers.get("date")
    if date is None or "age" in headers:
        return None
    theirs = parse_http_date(date, now)
    if theirs is None or abs(theirs - timestamp) <= MAX_CLOCK_SKEW:
        return None
    return theirs - now


def _location_host(headers: Mapping[str, str]) -> str | None:
    try:
        location = headers.get("location")
        return urlsplit(str(location)).hostname or "itself" if location else None
    except ValueError:
        return None
