"""Django: one client for each process, an outbox that goes with your transactions, tokens, webhooks, an admin page.

    INSTALLED_APPS += ["perkamo.integrations.django"]
    PERKAMO = {"OUTBOX": "/var/lib/shop/perkamo"}  # the keys from the environment

    def paid(request, order_id):
        with transaction.atomic():
            order = Order.objects.create(pk=order_id)
            outbox.put(Event("customer_123", "purchase.completed", order_id))

Needs the extra: ``pip install "perkamo[django]"``.
"""

from importlib.util import find_spec

if find_spec("django") is None:
    raise ModuleNotFoundError('perkamo.integrations.django needs Django: pip install "perkamo[django]"', name="django")

from perkamo.integrations.django.browser import browser_script, browser_urls
from perkamo.integrations.django.middleware import PerkamoMiddleware
from perkamo.integrations.django.outbox import DjangoOutbox, emit_on_commit, outbox
from perkamo.integrations.django.process import async_client, client
from perkamo.integrations.django.webhook import webhook

__all__ = [
    "DjangoOutbox",
    "PerkamoMiddleware",
    "async_client",
    "browser_script",
    "browser_urls",
    "client",
    "emit_on_commit",
    "outbox",
    "webhook",
]
