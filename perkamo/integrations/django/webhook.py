"""Webhooks: a view that hands each delivery to your function once."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Final

from django.db import DatabaseError, IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from perkamo.errors import PerkamoError
from perkamo.integrations.answers import Answer
from perkamo.integrations.django.middleware import respond, respond_to_error
from perkamo.integrations.django.process import settings
from perkamo.integrations.webhooks import read_delivery, refuse_coroutine
from perkamo.webhooks import MAX_WEBHOOK_BYTES, PerkamoDeliveryLogError, WebhookDelivery

_KEEP: Final = timedelta(days=30)


def webhook(handle: Callable[[WebhookDelivery], object], *, using: str | None = None) -> Callable[..., HttpResponse]:
    """Return a view that hands each delivery to your function once, although deliveries repeat.

        urlpatterns = [path("hooks/perkamo", webhook(on_delivery))]

    **Deliveries are unsigned** (published): whoever has to be let in knows ``PERKAMO["WEBHOOK_SECRET"]``, and sends it
    in the header ``PERKAMO["WEBHOOK_HEADER"]``, or as ``<str:secret>`` in the path; all others get 404. Mind that
    servers and proxies log paths. Take a delivery as a hint, and read the customer again.

    Your function runs in one transaction with the note that this delivery was handled: both are committed, or neither.
    One that raises is run again when the delivery is repeated; so is one that was killed. Of two repetitions that come
    at once, one waits for the other.

    Args:
        handle: Your function. Its answer is not looked at; it has 5 seconds (published).
        using: The database that it writes to; the default one when None.

    Returns:
        The view, which needs no CSRF token.

    Raises:
        PerkamoConfigurationError: Your function is an ``async def``.
    """
    refuse_coroutine(handle)

    @csrf_exempt
    def view(request: HttpRequest, secret: str | None = None) -> HttpResponse:
        response = _respond(request, secret, handle, using)
        if secret is not None:  # Django would log the path of an answer above 399; tested with each Django
            response._has_been_logged = True  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
        return response

    return view


def _respond(
    request: HttpRequest, secret: str | None, handle: Callable[[WebhookDelivery], object], using: str | None
) -> HttpResponse:
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        delivery = _read(request, secret)
        if isinstance(delivery, Answer):
            return respond(delivery)
        return respond(Answer(200, {"new": _handle_once(delivery, handle, using)}))
    except PerkamoError as error:
        return respond_to_error(error)


def _read(request: HttpRequest, in_path: str | None) -> WebhookDelivery | Answer:
    current = settings.get()
    in_header = request.headers.get(current.webhook_header)
    given = in_path if in_path is not None else None if in_header is None else in_header.encode("latin-1", "replace")
    return read_delivery(
        request.headers, request.read(MAX_WEBHOOK_BYTES + 1), secret=current.webhook_secret, given=given
    )


def _handle_once(delivery: WebhookDelivery, handle: Callable[[WebhookDelivery], object], using: str | None) -> bool:
    with transaction.atomic(using):
        if not _note(delivery, using):
            return False
        handle(delivery)
    return True


def _note(delivery: WebhookDelivery, using: str | None) -> bool:
    """Note that this delivery is handled, if the transaction commits; return whether it is for the first time.

    The database lets one transaction insert a key, and has others wait until it is known whether that one commits.
    """
    from perkamo.integrations.django.models import HandledDelivery  # noqa: PLC0415 - there are none before Django's set-up

    handled = HandledDelivery.objects.using(using)
    key = sha256(delivery.delivery_id.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        with transaction.atomic(using):
            handled.create(key=key)
    except IntegrityError:
        return False
    except DatabaseError as error:
        reason = type(error).__name__
    else:
        handled.filter(at__lt=timezone.now() - _KEEP).delete()
        return True
    raise PerkamoDeliveryLogError(
        f"The database can't note deliveries now: {reason}. The delivery was not handled; answer with status 503."
    )
