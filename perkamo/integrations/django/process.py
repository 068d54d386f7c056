"""What a process has one of: the settings, the clients and the outbox's files. Made at first use, once."""

from typing import Final, cast

from django.conf import settings as django_settings

from perkamo.client import AsyncPerkamoClient
from perkamo.integrations.once_per_process import OncePerProcess, Proxy
from perkamo.integrations.settings import Settings, read_settings
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.sync.portal import run
from perkamo.sync_client import PerkamoClient

_SHOWN: Final = 'PERKAMO["{}"]'


def read_django_settings() -> Settings:
    """Read ``settings.PERKAMO``, and the environment for what it leaves out.

    Raises:
        PerkamoConfigurationError: A setting is unknown or of the wrong type.
    """
    return read_settings(getattr(django_settings, "PERKAMO", None) or {}, _SHOWN)


settings: Final[OncePerProcess[Settings]] = OncePerProcess(read_django_settings)
file_outbox: Final[OncePerProcess[SyncOutbox]] = OncePerProcess(lambda: settings.get().make_outbox())
_client: Final[OncePerProcess[PerkamoClient]] = OncePerProcess(lambda: settings.get().make_client())
_async_client: Final[OncePerProcess[AsyncPerkamoClient]] = OncePerProcess(lambda: settings.get().make_async_client())

client: Final = cast("PerkamoClient", Proxy(PerkamoClient, _client.get))
"""The process's client, for views, commands and tasks, in any thread. It is made when it is first used."""

async_client: Final = cast("AsyncPerkamoClient", Proxy(AsyncPerkamoClient, _async_client.get))
"""The process's asynchronous client, for async views, in any event loop and thread."""


def forget_if_changed(*, setting: str, **_: object) -> None:
    """Close what was made from the settings before, so that ``override_settings`` takes effect."""
    if setting != "PERKAMO":
        return
    settings.take()
    if (former := _client.take()) is not None:
        former.close()
    if (former_async := _async_client.take()) is not None:
        run(former_async.aclose)
    if (former_outbox := file_outbox.take()) is not None:
        former_outbox.close()
