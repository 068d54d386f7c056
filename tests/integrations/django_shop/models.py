"""What the shop keeps."""

from datetime import datetime

from django.db import models
from django.utils import timezone


class Order(models.Model):
    """An order that was paid."""

    id: "models.CharField[str, str]" = models.CharField(primary_key=True, max_length=64)
    amount: "models.IntegerField[int, int]" = models.IntegerField()
    paid_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class Hint(models.Model):
    """What a webhook told."""

    delivery: "models.CharField[str, str]" = models.CharField(max_length=256)

    def __str__(self) -> str:
        return self.delivery
