"""A shop with Django, which takes orders until it is killed."""

import os
from contextlib import suppress
from itertools import count

import django
from django.conf import settings

database = {"NAME": "postgres", "USER": "postgres", "HOST": os.environ["SHOP_HOST"]}
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}}, INSTALLED_APPS=[])
django.setup()

from django.db import connection, models, transaction  # noqa: E402 - Django is set up now

from perkamo import Event, PostgresOutbox  # noqa: E402

outbox = PostgresOutbox(space="shop")


class Order(models.Model):
    """An order."""

    id: "models.TextField[str, str]" = models.TextField(primary_key=True)
    amount: "models.IntegerField[int, int]" = models.IntegerField()

    class Meta:
        """Where it is kept."""

        app_label = "shop"
        db_table = "orders"

    def __str__(self) -> str:
        """Its id."""
        return self.id


def take_orders(name: str) -> None:
    """Take orders, and change one's mind about every third."""
    for number in count():
        with suppress(ZeroDivisionError), transaction.atomic():
            Order.objects.create(id=f"{name}-{number}", amount=12900)
            outbox.put(connection, Event("customer", "purchase.completed", f"{name}-{number}", {"amount": 12900}))
            _ = 1 / (number % 3 - 2)
