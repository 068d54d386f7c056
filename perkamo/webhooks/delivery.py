"""Parses a delivery's headers and body, from any framework, into a ``WebhookDelivery``. The parser is strict."""

import hmac
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol, TypeAlias, cast

from attrs import field, frozen

from perkamo.decoding.structure import structure
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.encoding.serializable import Serializable
from perkamo.errors import PerkamoConfigurationError, PerkamoError
from perkamo.models import Answer, Part, ResponseMeta, WalletDelta

MAX_WEBHOOK_BYTES: Final = 256 * 1024
"""Assumed: the service's own limit is unpublished."""

_LOGGER: Final = logging.getLogger("perkamo.webhooks")
_DELIVERY: Final = "x-perkamo-delivery"
_ATTEMPT: Final = "x-perkamo-attempt"
_MAX_ID_LENGTH: Final = 256
_MAX_DIGITS: Final = 9


class _HasItems(Protocol):
    """Headers in a mapping, or in an object like one."""

    def items(self) -> Iterable[tuple[object, object]]:
        """Return names and values."""
        ...


WebhookHeaders: TypeAlias = _HasItems | Iterable[tuple[object, object]]
"""Headers as frameworks provide them.

A mapping of text or bytes in any case of letters, pairs as in ASGI, or a WSGI environ as in Django's ``request.META``.
"""


class PerkamoWebhookError(PerkamoError, ValueError):
    """The request is not a delivery of Perkamo: answer 400. The text does not repeat anything of the request."""


@frozen
class WebhookSpace(Part):
    """The Space that a delivery comes from (published).

    Attributes:
        slug: Its short name, such as ``commerce-live``.
        name: The name to show, or None when not stated.
        environment: ``"live"`` or another, or None when not stated.
    """

    slug: str
    name: str | None = None
    environment: str | None = None


@frozen
class WebhookData(Part):
    """What happened (published). ``raw`` has the effects, too, whose shape is unpublished.

    Attributes:
        user_id: The application's own id of the customer.
        space: Where it happened, or None when not stated.
        event: The event key, or None when not stated.
        transaction_id: The event's transaction id, or None when not stated.
        status: ``"applied"`` or another, or None when not stated.
        occurred_at: When it happened, or None when not stated.
        context: The event's facts.
        delta: The changes of balances.
        wallet_state: The balances afterwards, by wallet key.
    """

    user_id: str = field(repr=False)
    space: WebhookSpace | None = None
    event: str | None = None
    transaction_id: str | None = field(default=None, repr=False)
    status: str | None = None
    occurred_at: datetime | None = None
    context: Mapping[str, JSONValue] = field(factory=dict[str, JSONValue], repr=False)
    delta: tuple[WalletDelta, ...] = ()
    wallet_state: Mapping[str, float] = field(factory=dict[str, float])


@frozen
class _Envelope(Answer):
    id: str
    type: str
    created_at: datetime
    data: WebhookData


@frozen
class WebhookDelivery(Serializable):
    """One delivery of a webhook. **It is unsigned, so it proves nothing**: read the customer again.

    Attributes:
        delivery_id: The same in every repetition: the idempotency key (published).
        attempt: The number of this attempt, from 1.
        id: The id of the event, such as ``evt_…``.
        type: The event key, such as ``purchase.completed``.
        created_at: When the delivery was made.
        data: What happened.
        raw: The body as it came, including fields that this library does not know.
    """

    delivery_id: str
    attempt: int
    id: str
    type: str
    created_at: datetime
    data: WebhookData
    raw: Mapping[str, JSONValue] = field(factory=dict[str, JSONValue], eq=False, repr=False)

    @classmethod
    def parse(cls, headers: WebhookHeaders, body: bytes | bytearray | memoryview | str) -> "WebhookDelivery":
        """Read a delivery.

        Unknown fields are kept in ``raw``. ``x-perkamo-event`` and ``x-perkamo-space`` are not read: they repeat what
        the body says.

        Args:
            headers: The request's headers, as any framework provides them.
            body: The request's body as it came, at most 256 KiB.

        Raises:
            PerkamoWebhookError: It has no delivery id, is too large, or does not have the published shape.
        """
        delivery_id, attempt = _delivery_id(headers), _attempt(headers)
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        if len(data) > MAX_WEBHOOK_BYTES:
            raise _refusal(f"is larger than {MAX_WEBHOOK_BYTES} bytes")
        try:
            made = structure(_Envelope, parse(data), ResponseMeta())
        except ValueError as error:
            reason = str(error)
        else:
            return cls(delivery_id, attempt, made.id, made.type, made.created_at, made.data, made.raw)
        raise _refusal(f"has a body that {reason}")


def secret_matches(given: str | bytes | None, secret: str | bytes) -> bool:
    """Compare the secret in a path or header with the right one, in constant time.

    If they differ, the logger ``perkamo.webhooks`` gets a warning, which shows neither.

    Args:
        given: The secret that came with the request, or None if there was none.
        secret: The right secret; long and random, for example from ``secrets.token_urlsafe()``.

    Raises:
        PerkamoConfigurationError: The right secret is empty, so everybody would pass.
    """
    right = _as_bytes(secret)
    if not right:
        raise PerkamoConfigurationError("The webhook's secret is empty: set a long random one.")
    matches = given is not None and hmac.compare_digest(_as_bytes(given), right)
    if not matches:
        _LOGGER.warning(
            "A webhook was refused: it came %s", "without a secret" if given is None else "with a wrong one"
        )
    return matches


def _refusal(reason: str) -> PerkamoWebhookError:
    return PerkamoWebhookError(f"The webhook {reason}. It was not handled; answer with status 400.")


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _delivery_id(headers: WebhookHeaders) -> str:
    value = _header(headers, _DELIVERY)
    if value is None or not value.strip():
        raise _refusal(f"has no {_DELIVERY} header, which is needed to recognize repetitions")
    if len(value) > _MAX_ID_LENGTH or not value.isprintable():
        raise _refusal(f"has a {_DELIVERY} header that is not an id")
    return value


def _attempt(headers: WebhookHeaders) -> int:
    value = _header(headers, _ATTEMPT)
    if value is None:
        return 1
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS and int(value)):
        raise _refusal(f"has an {_ATTEMPT} header that is not a number from 1")
    return int(value)


def _header(headers: WebhookHeaders, wanted: str) -> str | None:
    values = {value for name, value in _pairs(headers) if name == wanted}
    if len(values) > 1:
        raise _refusal(f"has several {wanted} headers that differ")
    return next(iter(values), None)


def _pairs(headers: WebhookHeaders) -> Iterator[tuple[str, str]]:
    items = getattr(headers, "items", None)
    pairs = items() if callable(items) else headers
    for name, value in cast("Iterable[tuple[object, object]]", pairs):
        plain = _text(name)
        if plain is not None and (text := _text(value)) is not None:
            yield plain.lower().replace("_", "-").removeprefix("http-"), text  # as HTTP_X_PERKAMO_DELIVERY in WSGI


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None
