"""What this application keeps in the database."""

from datetime import datetime

from django.db import models
from django.utils import timezone


class HandledDelivery(models.Model):
    """A delivery of a webhook that was handled. It holds a hash of the delivery's id, and none of its content."""

    key: "models.CharField[str, str]" = models.CharField(primary_key=True, max_length=64)
    at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        """Its names."""

        verbose_name = "handled delivery"
        verbose_name_plural = "handled deliveries"

    def __str__(self) -> str:
        return self.key


class OutboxEntry(models.Model):
    """Stands for the outbox in the admin and in permissions; it has no table, for events are kept by the outbox."""

    class Meta:
        """Its names and permissions."""

        managed = False
        default_permissions: tuple[str, ...] = ("view", "change")
        verbose_name = "outbox"
        verbose_name_plural = "outbox"

    def __str__(self) -> str:
        return "outbox"
