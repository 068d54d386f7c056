"""The body of an answer -> its value, or the error that says why it can't be used."""

from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

from perkamo.decoding.class_hooks import tell_unread
from perkamo.decoding.failures import read_failure
from perkamo.decoding.kinds import name_of
from perkamo.decoding.structure import set_meta, structure, structure_hook
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.errors import PerkamoResponseError, WriteOutcome
from perkamo.models import (
    Answer,
    ApiResponse,
    BatchIngestResponse,
    Customer,
    EventFailure,
    EventIngestResponse,
    IdentifyResponse,
    Program,
    ResponseMeta,
)
from perkamo.redaction import Secrets

AnswerT = TypeVar("AnswerT", bound=Answer)

_UNPUBLISHED: Final[dict[type[Answer], str]] = {
    Customer: "customer.object",
    Program: "program.object",
    IdentifyResponse: "identify.answer",
}
"""Answers of which nobody has published that they are objects: any other JSON reads as an empty one."""

_CUSTOMER_FIELDS: Final = frozenset({"user_id", "traits", "wallets", "level", "perks"})


def decode(
    cls: type[AnswerT],
    body: bytes,
    meta: ResponseMeta,
    call: str,
    outcome: WriteOutcome | None,
    *,
    secrets: Callable[[], Secrets] = Secrets,
) -> AnswerT:
    """Turn an answer's body into its class.

    Args:
        cls: The class of the answer.
        body: The bytes of the body.
        meta: What the answer's head contains.
        call: Method and endpoint, for the error.
        outcome: The outcome of the write if the answer can't be used; None for a read.
        secrets: Returns the texts of the request that no message may repeat.

    Raises:
        PerkamoResponseError: The body is not JSON, or a known field is missing or of the wrong type.
    """
    value: JSONValue = None
    try:
        value = parse(body)
        if cls in _UNPUBLISHED and not isinstance(value, dict):
            tell_unread(_UNPUBLISHED[cls], f"has {name_of(value)} instead of an object", "An empty one is returned")
            value = {}
        return structure(cls, value, meta)
    except ValueError as error:
        reason = str(error)
    del body, value  # they may hold a token, and the error leads into this frame
    raise _unusable(call, reason, meta, outcome, secrets)


def decode_batch(
    body: bytes, meta: ResponseMeta, call: str, count: int, secrets: Callable[[], Secrets] = Secrets
) -> BatchIngestResponse:
    """Turn the answer to a batch into one result for each event; one that can't be read concerns its event alone.

    Args:
        body: The bytes of the body. A list alone is read as the results, too.
        meta: What the answer's head contains.
        call: Method and endpoint, for the error.
        count: How many events were sent.
        secrets: Returns the texts of the request that no message may repeat.

    Raises:
        PerkamoResponseError: The body can't be used, or there are more or fewer results than events, so that none can
            be told apart.
    """
    value = items = None
    try:
        value = parse(body)
    except ValueError as error:
        reason = str(error)
    else:
        items = value.get("results") if isinstance(value, dict) else value
        if isinstance(items, list) and len(items) == count:
            results = _read_results(items, meta, secrets)
            return BatchIngestResponse(results, raw=value if isinstance(value, dict) else {}, meta=meta)
        reason = f"has {len(items)} results for {count} events" if isinstance(items, list) else "has no list of results"
    del body, value, items
    raise _unusable(call, reason, meta, "unknown", secrets)


def decode_update(data: str, meta: ResponseMeta) -> Customer:
    """Turn the data of a stream's event into a customer.

    Raises:
        ValueError: It is not a JSON object, or has none of the fields of a customer: then it is about something else.
    """
    customer = structure(Customer, parse(data.encode()), meta)
    if _CUSTOMER_FIELDS.isdisjoint(customer.raw):
        raise ValueError("has none of the fields of a customer")
    return customer


def _read_results(
    items: list[JSONValue], meta: ResponseMeta, secrets: Callable[[], Secrets]
) -> tuple[EventIngestResponse | EventFailure, ...]:
    read = structure_hook(EventIngestResponse)
    secrets = cache(secrets)
    results: list[EventIngestResponse | EventFailure] = []
    for item in items:
        try:
            result = read(item, EventIngestResponse)
        except ValueError as error:
            results.append(read_failure(item, str(error), meta, secrets()))
        else:
            set_meta(result, meta)
            is_accepted = result.applied or result.duplicate
            results.append(result if is_accepted else read_failure(item, None, meta, secrets()))
    return tuple(results)


def decode_any(
    body: bytes,
    meta: ResponseMeta,
    call: str,
    outcome: WriteOutcome | None,
    *,
    secrets: Callable[[], Secrets] = Secrets,
) -> ApiResponse:
    """Turn the answer of an endpoint without a class into JSON; no body reads as None.

    Raises:
        PerkamoResponseError: The body is not JSON.
    """
    try:
        return ApiResponse(raw=parse(body) if body else None, meta=meta)
    except ValueError as error:
        reason = str(error)
    del body
    raise _unusable(call, reason, meta, outcome, secrets)


def _unusable(
    call: str, reason: str, meta: ResponseMeta, outcome: WriteOutcome | None, secrets: Callable[[], Secrets]
) -> PerkamoResponseError:
    advice = "Nothing was changed by reading."
    if outcome is not None:
        advice = "It may have been applied; sending it again with the same transaction id is safe."
    request = f" (request id {secrets().clean(meta.request_id)})" if meta.request_id else ""
    return PerkamoResponseError(
        f"{call}: the service answered {meta.status}, but the body {reason}{request}. {advice}",
        status=meta.status,
        request_id=meta.request_id,
        outcome=outcome,
        attempts=meta.attempts,
    )
