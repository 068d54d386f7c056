"""Classifies the result of an attempt: a reply, or a failure with the error to raise and whether to retry."""

import logging
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from attrs import field, frozen

from perkamo.decoding.failures import words_of
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.errors import (
    PerkamoConfigurationError,
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
from perkamo.redaction import MAX_CLEANED, Secrets
from perkamo.request.dates import parse_http_date, parse_retry_after
from perkamo.request.endpoints import Call
from perkamo.request.failures import Problem
from perkamo.request.retry import FAILURES, FailureKind, Use, rule_of_status
from perkamo.transport.response import fields_of

logger: logging.Logger = logging.getLogger("perkamo")

MAX_CLOCK_SKEW: Final = 30.0
"""Seconds; assumed: the skew that the service allows is unpublished."""

REQUEST_ID_HEADERS: Final = ("x-perkamo-request-id", "x-request-id")


@frozen
class Failure:
    """An attempt without a 2xx answer.

    Attributes:
        error: The error to raise if no attempt follows.
        retry: Whether another attempt may succeed.
        timed_out: Whether time ran out.
        retry_after: Seconds that the service asked to wait, or None.
        clock_offset: Seconds by which the service's clock is ahead of this machine's, if that may have caused a 401.
        attempt: The attempt that failed; None if it was not an attempt of a call.
    """

    error: PerkamoError
    retry: bool
    timed_out: bool = False
    retry_after: float | None = None
    clock_offset: float | None = None
    attempt: "Attempt | None" = field(default=None, repr=False)

    def secrets(self) -> Secrets:
        """Return the texts that no message about this failure may repeat: the key, and the texts of the request."""
        return Secrets() if self.attempt is None else self.attempt.secrets()


@frozen
class Attempt:
    """One request that was made.

    Attributes:
        call: The call that it belongs to.
        number: The number of this attempt, from 1.
        uncertain: Whether an earlier attempt of the same call may have been applied.
        credential: The key or token that it carried; ``""`` if it failed before that.
        use: Whether a call or a stream made it.
        timestamp: The Unix seconds that were signed; 0 if nothing was signed.
        seconds: How long the call has taken until the answer was read, waits included.
    """

    call: Call
    number: int
    uncertain: bool = False
    credential: str = field(default="", repr=False)
    use: Use = "call"
    timestamp: float = 0.0
    seconds: float = 0.0

    def outcome(self, of_this: WriteOutcome) -> WriteOutcome | None:
        """Return the outcome of a write, all attempts together; None for a read."""
        if not self.call.is_write:
            return None
        return "unknown" if self.uncertain else of_this

    def clean(self, text: str) -> str:
        """Return a foreign text without the texts of the request, and with the template instead of its path."""
        for written in (self.call.path, unquote(self.call.path)):
            text = text[:MAX_CLEANED].replace(written, self.call.template)
        return self.secrets().clean(text)

    def secrets(self) -> Secrets:
        """Return the texts that no message about this request may repeat."""
        return Secrets([self.credential, *self.call.secrets()])


@frozen
class Head:
    """The head of an accepted stream, or of an accepted answer without a stream."""

    meta: ResponseMeta
    _attempt: Attempt = field(repr=False)

    def secrets(self) -> Secrets:
        """See ``Reply.secrets``."""
        return self._attempt.secrets()


@frozen
class Reply:
    """A 2xx answer, read whole."""

    body: bytes = field(repr=False)
    meta: ResponseMeta
    _attempt: Attempt = field(repr=False)

    def secrets(self) -> Secrets:
        """Return the texts that no message about this answer may repeat: the key, and the texts of the request."""
        return self._attempt.secrets()


def classify_response(attempt: Attempt, response: httpx.Response, data: bytes | ValueError) -> Reply | Failure:
    """Classify an answer.

    Args:
        attempt: The attempt that it answers.
        response: Its head.
        data: Its body, or why that could not be read within bounds.
    """
    headers = fields_of(response)
    status = response.status_code
    meta = ResponseMeta(
        status=status,
        request_id=_request_id(headers),
        rate_limit=_rate_limit(headers),
        attempts=attempt.number,
        seconds=attempt.seconds,
    )
    if isinstance(data, bytes) and 200 <= status < 300:
        return Reply(data, meta, attempt)
    if not 200 <= status < 600:
        data = ValueError("has a status that HTTP does not define")
    if isinstance(data, ValueError) and not 300 <= status < 600:
        return Failure(
            _unusable(attempt, str(data), meta), retry=FAILURES["answer"].retry(attempt.use), attempt=attempt
        )
    return _refused(attempt, headers, data if isinstance(data, bytes) else b"", meta)


def _refused(attempt: Attempt, headers: Mapping[str, str], data: bytes, meta: ResponseMeta) -> Failure:
    now = time.time()
    date = _date(headers, now)
    retry_after = parse_retry_after(headers.get("retry-after"), now if date is None else date)
    rule = rule_of_status(meta.status, has_retry_after=retry_after is not None)
    retry = rule.retry(attempt.use)
    offset = _clock_offset(headers, attempt, date, now) if meta.status == 401 else None
    body = _error_body(data)
    outcome = attempt.outcome("unknown" if meta.status >= 500 or meta.status == 408 else "rejected")
    host = _location_host(headers) if meta.status < 400 else None
    hint = "" if offset is None else f" This machine's clock differs from the service's by about {abs(offset):.0f} s."
    advice = _advice(outcome, retry=retry, remedy=_REMEDIES.get(meta.status), retry_after=retry_after)
    if meta.status < 400:
        advice = _advice(outcome, retry=retry, remedy="check base_url")
    error = api_error_class(meta.status)(
        f"{attempt.call.label}: {_what(attempt, meta, body, host)}. {advice}{hint}",
        status=meta.status,
        body=body,
        request_id=meta.request_id,
        retry_after=headers.get("retry-after"),
        retry_after_seconds=retry_after,
        rate_limit=meta.rate_limit,
        outcome=outcome,
        retryable=retry,
        attempts=attempt.number,
    )
    if isinstance(error, PerkamoRedirectError):
        error.location_host = host
    return Failure(error, retry=retry, retry_after=retry_after, clock_offset=offset, attempt=attempt)


_REMEDIES: Final[Mapping[int, str]] = {
    401: "check the server key and this machine's clock",
    403: "this key may not do that",
}


def classify_failure(attempt: Attempt, problem: Problem) -> Failure:
    """Classify an attempt without an answer.

    Args:
        attempt: The attempt.
        problem: Why no answer came.
    """
    said = attempt.clean(problem.reason).rstrip(".")
    words, remedy = _WORDS[problem.kind]
    what = words.format(said=said, raised=problem.raised)
    rule = FAILURES[problem.kind]
    retry, timed_out = rule.retry(attempt.use), problem.kind == "timeout"
    outcome = attempt.outcome("unknown" if problem.sent else "not_sent")
    message = f"{attempt.call.label}: {what}. {_advice(outcome, retry=retry or rule.later, remedy=remedy)}"
    error: PerkamoError
    if problem.kind == "setup":
        error = PerkamoConfigurationError(message, outcome=outcome, attempts=attempt.number)
    else:
        cls = PerkamoTimeoutError if timed_out else PerkamoConnectionError
        error = cls(message, outcome=outcome, retryable=retry or rule.later, attempts=attempt.number)
    if problem.raised:
        error.__cause__ = problem.nearest(f"{problem.raised}: {said}" if said else problem.raised)
    return Failure(error, retry=retry, timed_out=timed_out, attempt=attempt)


_WORDS: Final[Mapping[FailureKind, tuple[str, str | None]]] = {
    "connection": ("{said}", None),
    "timeout": ("ran out of time", None),
    "answer": ("{said}", None),
    "tls": ("the TLS connection was refused ({said})", "check base_url and certificates"),
    "proxy": ("the proxy refused ({said})", "check the proxy and its password"),
    "redirect": ("the answer was a redirect to an invalid URL, and redirects are not followed", "check base_url"),
    "request": ("{said}", "check base_url"),
    "client": ("the HTTP client raised {raised} ({said})", "check its hooks and its transport"),
    "setup": ("TLS can't be set up: {said}", "set the variable to what exists, or unset it"),
}
"""What happened, and what to do about it; None if that follows from the decision to retry."""


def _unusable(attempt: Attempt, reason: str, meta: ResponseMeta) -> PerkamoResponseError:
    outcome = attempt.outcome("unknown")
    advice = _advice(outcome, retry=FAILURES["answer"].later)
    what = f"the service answered {meta.status}, but the body {reason}{_request(attempt, meta)}"
    return PerkamoResponseError(
        f"{attempt.call.label}: {what}. {advice}",
        status=meta.status,
        request_id=meta.request_id,
        outcome=outcome,
        attempts=meta.attempts,
    )


def _what(attempt: Attempt, meta: ResponseMeta, body: JSONValue, host: str | None) -> str:
    if meta.status < 400:
        return f"{meta.status}, a redirect to {attempt.clean(host) if host else 'no host'}, which is not followed"
    message = words_of(body)
    text = str(meta.status) if message is None else f"{meta.status} {attempt.clean(message)}"
    return text.rstrip(".") + _request(attempt, meta)


def _request(attempt: Attempt, meta: ResponseMeta) -> str:
    return f" (request id {attempt.clean(meta.request_id)})" if meta.request_id else ""


def _advice(
    outcome: WriteOutcome | None, *, retry: bool, remedy: str | None = None, retry_after: float | None = None
) -> str:
    """Return the outcome of a write and what to do next; both follow from the decision to retry."""
    if remedy is None and not retry:
        remedy = "the same request will be refused again"
    elif remedy is None and outcome == "unknown":
        remedy = "sending it again with the same transaction id is safe"
    elif remedy is None and retry_after is not None:
        remedy = f"try again in {retry_after:.0f} s"
    elif remedy is None:
        remedy = "it can be sent again" if outcome == "not_sent" else "try again later"
    text = f"{_APPLIED[outcome]}; {remedy}." if outcome else f"{remedy}."
    return text[0].upper() + text[1:]


_APPLIED: Final[Mapping[WriteOutcome, str]] = {
    "not_sent": "Nothing was sent",
    "rejected": "Nothing was applied",
    "unknown": "It may have been applied",
}


def _error_body(data: bytes) -> JSONValue:
    try:
        return parse(data) if data else None
    except ValueError:
        return data.decode("utf-8", "replace")


def _request_id(headers: Mapping[str, str]) -> str | None:
    for name in REQUEST_ID_HEADERS:
        if value := headers.get(name):
            return value
    return None


def _rate_limit(headers: Mapping[str, str]) -> RateLimit:
    if _RATE_LIMIT_HEADERS.isdisjoint(headers):
        return _NO_RATE_LIMIT
    limit, remaining, reset = (
        headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}") or None
        for name in ("limit", "remaining", "reset")
    )
    return RateLimit(limit=_digits(limit), remaining=_digits(remaining), reset=reset)


_RATE_LIMIT_HEADERS: Final = frozenset(
    f"{prefix}ratelimit-{name}" for prefix in ("", "x-") for name in ("limit", "remaining", "reset")
)
_NO_RATE_LIMIT: Final = RateLimit(limit=None, remaining=None, reset=None)


def _digits(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None


def _date(headers: Mapping[str, str], now: float) -> float | None:
    """Return the time of an answer by the service's own clock; None if the answer does not state it."""
    date = headers.get("date")
    theirs = None if date is None else parse_http_date(date, now)
    age = _digits(headers.get("age", "0").strip())
    return None if theirs is None or age is None else theirs + age


def _clock_offset(headers: Mapping[str, str], attempt: Attempt, date: float | None, now: float) -> float | None:
    """Compare the answer's Date with the time that was signed. The date of a cached answer is of no use."""
    if date is None or "age" in headers or abs(date - attempt.timestamp) <= MAX_CLOCK_SKEW:
        return None
    return date - now


def _location_host(headers: Mapping[str, str]) -> str | None:
    try:
        location = headers.get("location")
        return urlsplit(str(location)).hostname or "itself" if location else None
    except ValueError:
        return None
