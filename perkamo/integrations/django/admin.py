"""The outbox in the admin: what waits, and what was refused, with the reason."""

from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import frozen
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from perkamo.errors import PerkamoError, PerkamoValidationError
from perkamo.events import Event
from perkamo.integrations.django.models import OutboxEntry
from perkamo.integrations.django.outbox import outbox
from perkamo.outbox.store import UNBOUND, WaitingEvent

_SHOWN: Final = 100

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[OutboxEntry]
else:
    _ModelAdmin = admin.ModelAdmin  # which is generic for type checkers only


@frozen
class Row:
    """An event as the page shows it: without the customer, and without the context.

    Attributes:
        transaction_id: Its transaction id.
        event: Its event key, or nothing where its bytes can't be read.
        reason: Why it waits, or was refused.
        put_at: Since when it waits; None for a dead letter.
    """

    transaction_id: str
    event: str
    reason: str
    put_at: datetime | None = None


@admin.register(OutboxEntry)
class OutboxAdmin(_ModelAdmin):
    """Shows the outbox; whoever may change it may let dead letters wait again."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - the framework's signature
        """Let nobody add an event by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: OutboxEntry | None = None) -> bool:  # noqa: ARG002
        """Let nobody delete an event."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, object] | None = None) -> HttpResponse:
        """Show the page, or do what its buttons ask.

        Args:
            request: The request.
            extra_context: Further values for the template.
        """
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        may_requeue = self.has_change_permission(request)
        if request.method == "POST":
            if not may_requeue:
                raise PermissionDenied
            self._requeue(request)
            return HttpResponseRedirect(request.path)
        context = {
            **self.admin_site.each_context(request),
            "title": "Perkamo outbox",
            "opts": self.opts,
            "may_requeue": may_requeue,
            "most": _SHOWN,
            **self._content(),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/perkamo/outbox.html", context)

    def _content(self) -> dict[str, object]:
        try:
            stats, waiting, dead = outbox.stats(), outbox.waiting(_SHOWN), outbox.dead(_SHOWN)
        except PerkamoError as error:
            return {"problem": str(error)}
        paused = {space.space: space.paused for space in stats.spaces} | {UNBOUND: stats.paused}
        return {
            "stats": stats,
            "waiting": [_waiting(event, paused.get(event.space)) for event in waiting],
            "dead": [Row(letter.transaction_id, _event(letter.body), letter.reason) for letter in dead],
        }

    def _requeue(self, request: HttpRequest) -> None:
        """Let one dead letter wait again, or all of them, and tell how many did."""
        try:
            number = outbox.requeue(request.POST.get("transaction_id") or None)
        except PerkamoError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"Dead letters queued for delivery again: {number}.")


def _waiting(event: WaitingEvent, paused: str | None) -> Row:
    if paused is not None:
        reason = paused
    elif event.failures:
        reason = f"{event.failures} requests with it failed; it is tried again."
    else:
        reason = ""
    return Row(event.transaction_id, _event(event.body), reason, event.put_at)


def _event(body: bytes) -> str:
    try:
        return Event.from_bytes(body).event
    except PerkamoValidationError:
        return ""
