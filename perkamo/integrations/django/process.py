"""What a process has one of: the settings, the clients and the outbox's files. Made at first use, once."""

from collections.abc import Mapping
from typing import Final, cast

from django.conf import settings as django_settings
from django.db.backends.base.base import BaseDatabaseWrapper

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.once_per_process import OncePerProcess, Proxy
from perkamo.integrations.settings import Settings, read_settings
from perkamo.outbox.postgres.sync_outbox import SyncPostgresOutbox
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.sync.portal import run
from perkamo.sync_client import PerkamoClient

_SHOWN: Final = 'PERKAMO["{}"]'
_OF_DRIVER: Final = ("prepare_threshold", "autocommit")
"""Connection parameters of psycopg's own, which are not a part of a DSN."""


def read_django_settings() -> Settings:
    """Read ``settings.PERKAMO``, and the environment for what it leaves out.

    Raises:
        PerkamoConfigurationError: A setting is unknown or of the wrong type.
    """
    given: object = getattr(django_settings, "PERKAMO", None)
    if given is not None and not isinstance(given, Mapping):
        kind = type(given).__name__
        del given  # it may hold secrets, and this frame may be reported
        raise PerkamoConfigurationError(f"PERKAMO must be a dict of settings, not {kind}.")
    return read_settings(cast("Mapping[str, object]", given or {}), _SHOWN)


settings: Final[OncePerProcess[Settings]] = OncePerProcess(read_django_settings)
file_outbox: Final[OncePerProcess[SyncOutbox]] = OncePerProcess(lambda: settings.get().make_outbox())
putting_outbox: Final[OncePerProcess[SyncPostgresOutbox]] = OncePerProcess(
    lambda: SyncPostgresOutbox(space=settings.get().space)
)
"""Puts with Django's own connections, and so needs none of its own."""
_database_outboxes: Final[OncePerProcess[dict[str, SyncPostgresOutbox]]] = OncePerProcess(dict)
"""Relays and counts, by the alias of the database."""
_client: Final[OncePerProcess[PerkamoClient]] = OncePerProcess(lambda: settings.get().make_client())
_async_client: Final[OncePerProcess[AsyncPerkamoClient]] = OncePerProcess(lambda: settings.get().make_async_client())

client: Final = cast("PerkamoClient", Proxy(PerkamoClient, _client.get))
"""The process's client, for views, commands and tasks, in any thread. It is made when it is first used."""

async_client: Final = cast("AsyncPerkamoClient", Proxy(AsyncPerkamoClient, _async_client.get))
"""The process's asynchronous client, for async views, in any event loop and thread."""


def database_outbox(connection: BaseDatabaseWrapper) -> SyncPostgresOutbox:
    """Return the outbox in a PostgreSQL database of Django's, with connections of its own, as relays need.

    Args:
        connection: Django's connection, which tells where the database is.

    Raises:
        PerkamoConfigurationError: psycopg 3 is not installed.
    """
    outboxes = _database_outboxes.get()
    made = outboxes.get(connection.alias)
    if made is None:
        made = outboxes.setdefault(connection.alias, SyncPostgresOutbox(_dsn(connection), space=settings.get().space))
    return made


def _dsn(connection: BaseDatabaseWrapper) -> str:
    """Return what Django connects with as one text, without what is for the driver alone."""
    try:
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise PerkamoConfigurationError(
            f"psycopg 3 can't be loaded ({error}), which relays need: pip install 'perkamo[django,postgres]'."
        ) from error
    given: Mapping[str, object] = connection.get_connection_params()
    kept = {name: value for name, value in given.items() if isinstance(value, str | int) and name not in _OF_DRIVER}
    return make_conninfo("", **kept)


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
    putting_outbox.take()
    for former_database in (_database_outboxes.take() or {}).values():
        former_database.close()
