"""The shop's views."""

import os

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.views.decorators.csrf import csrf_exempt

from perkamo import Event
from perkamo.integrations.django import async_client, client, emit_on_commit, outbox
from perkamo.webhooks import WebhookDelivery
from tests.integrations.django_shop.models import Hint, Order


def event_of(order: Order) -> Event:
    """Say what the order means, in the same bytes each time."""
    context = {"order": order.pk, "amount": order.amount}
    return Event("customer_123", "purchase.completed", order.pk, context, order.paid_at)


@csrf_exempt
@transaction.atomic
def paid(request: HttpRequest, order_id: str) -> HttpResponse:
    """Take a purchase; the event goes with the order's transaction."""
    order, _ = Order.objects.get_or_create(pk=order_id, defaults={"amount": int(request.GET["amount"])})
    outbox.put(event_of(order))
    if "fail" in request.GET:
        raise ValueError
    return JsonResponse({"accepted": True, "process": os.getpid()})


@csrf_exempt
@transaction.atomic
def paid_without_outbox(request: HttpRequest, order_id: str) -> HttpResponse:
    """Take a purchase; the event is sent after the commit, by the process itself."""
    order, _ = Order.objects.get_or_create(pk=order_id, defaults={"amount": int(request.GET["amount"])})
    event = event_of(order)
    emit_on_commit(
        event.user_id, event.event, event.context, transaction_id=event.transaction_id, occurred_at=event.occurred_at
    )
    if "fail" in request.GET:
        raise ValueError
    return JsonResponse({"accepted": True, "process": os.getpid()})


@csrf_exempt
async def paid_async(request: HttpRequest, order_id: str) -> HttpResponse:
    """Take a purchase in an async view."""
    order, _ = await Order.objects.aget_or_create(pk=order_id, defaults={"amount": int(request.GET["amount"])})
    result = await async_client.emit_event(event_of(order))
    return JsonResponse({"accepted": result.accepted, "process": os.getpid()})


@csrf_exempt
@transaction.atomic
def paid_by_task(request: HttpRequest, order_id: str) -> HttpResponse:
    """Take a purchase; the task that delivers the event is a row of the order's transaction."""
    from perkamo.integrations.django.tasks import deliver  # noqa: PLC0415 - Django 6

    order, _ = Order.objects.get_or_create(pk=order_id, defaults={"amount": int(request.GET["amount"])})
    deliver.enqueue(event_of(order).to_bytes().decode())
    return JsonResponse({"accepted": True})


async def both_clients(request: HttpRequest) -> HttpResponse:
    """Use the sync client from an async view, too."""
    rules = len(await async_client.event_catalog())
    return JsonResponse({"same": rules == len(await sync_to_async(client.event_catalog)())})


def page(request: HttpRequest) -> HttpResponse:
    """Show a page that loads the browser SDK."""
    template = engines["django"].from_string("{% load perkamo %}<head>{% perkamo_script nonce='n0nce' %}</head>")
    return HttpResponse(template.render({}, request))


def on_delivery(delivery: WebhookDelivery) -> None:
    """Take a webhook as a hint, and read the truth."""
    Hint.objects.create(delivery=delivery.delivery_id)
    client.customer(delivery.data.user_id)
