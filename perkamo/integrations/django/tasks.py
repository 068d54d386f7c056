"""A task for Django's own task framework: Django 6.0 and later."""

import logging
from datetime import timedelta
from typing import Final

from django.tasks import task  # pyright: ignore[reportMissingModuleSource] - where Django is older than 6
from django.utils import timezone

from perkamo.errors import PerkamoError
from perkamo.events import Event
from perkamo.integrations.django.process import client
from perkamo.integrations.retrying import wait_after

__all__ = ["deliver"]

_LOGGER: Final = logging.getLogger("perkamo.django")


@task
def deliver(event: str, tries: int = 0) -> None:
    """Deliver an event: ``deliver.enqueue(event.to_bytes().decode())``, after the commit.

    What may succeed later is enqueued again, for as long as it takes, if the backend can defer tasks. What Perkamo
    refused fails, and so does all else with a backend that can't.

    Args:
        event: The text of ``Event.to_bytes()``, with its transaction id and its time.
        tries: How often it was tried before; leave it out.

    Raises:
        PerkamoError: The event was refused, or the backend can't defer another try.
    """
    try:
        client.emit_event(Event.from_bytes(event.encode()))
    except PerkamoError as error:
        wait = wait_after(error, tries)
        if wait is None or not deliver.get_backend().supports_defer:
            raise
        _LOGGER.warning("perkamo deliver waits: %s", error)
    else:
        return
    deliver.using(run_after=timezone.now() + timedelta(seconds=wait)).enqueue(event, tries + 1)
