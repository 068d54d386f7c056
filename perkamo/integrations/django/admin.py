"""The outbox in the admin: how much waits, and what was refused, with the reason."""

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
from perkamo.outbox.store import DeadLetter

_SHOWN: Final = 100

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[OutboxEntry]
else:
    _ModelAdmin = admin.ModelAdmin  # which is generic for type checkers only


@frozen
class Row:
    """A dead letter as the page shows it: without the customer, and without the context.

    Attributes:
        transaction_id: Its transaction id.
        event: Its event key, or nothing where its bytes can't be read.
        reason: Why it was refused.
    """

    transaction_id: str
    event: str
    reason: str


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
            return {"stats": outbox.stats(), "rows": [_row(letter) for letter in outbox.dead()[:_SHOWN]]}
        except PerkamoError as error:
            return {"problem": str(error)}

    def _requeue(self, request: HttpRequest) -> None:
        """Let one dead letter wait again, or all of them, and tell how many did."""
        try:
            number = outbox.requeue(request.POST.get("transaction_id") or None)
        except PerkamoError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"Dead letters queued for delivery again: {number}.")


def _row(letter: DeadLetter) -> Row:
    try:
        event = Event.from_bytes(letter.body).event
    except PerkamoValidationError:
        event = ""
    return Row(letter.transaction_id, event, letter.reason)
