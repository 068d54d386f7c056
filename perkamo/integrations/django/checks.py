"""What ``manage.py check`` says about Perkamo."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from django.apps.config import AppConfig
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import DatabaseError, connections, router

from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.django.process import database_outbox, read_django_settings
from perkamo.integrations.settings import Settings
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.file_system import FORGETFUL, kind_of, read_mounts
from perkamo.request.credentials import API_KEY_VARIABLE

_NAMES: Final = "In PERKAMO, api_key is SECRET_KEY, base_url is BASE_URL, allow_insecure_http is ALLOW_INSECURE_HTTP."
_TEMPORARY: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 - they are looked for, not used


def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:  # noqa: ARG001
    """Look at the settings: names, types, keys, the address, and where the outbox is.

    Args:
        app_configs: Which applications are checked; Django says so.
    """
    try:
        settings = read_django_settings()
    except PerkamoConfigurationError as error:
        return [Error(str(error), id="perkamo.E001")]
    found: list[CheckMessage] = []
    try:
        settings.make_client()
    except PerkamoConfigurationError as error:  # plain http, a browser key in place of the server key
        found.append(Error(str(error), _NAMES, id="perkamo.E002"))
    if settings.secret_key is None and not os.environ.get(API_KEY_VARIABLE):
        hint = f"Set {API_KEY_VARIABLE}, or run 'manage.py perkamo_sandbox' and use the key that it prints."
        found.append(CheckWarning("There is no server key for Perkamo: every call will fail.", hint, id="perkamo.W001"))
    return [*found, *_check_browser(settings), *_check_outbox(settings)]


def check_database(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001 - the framework's signature
    databases: Sequence[str] | None = None,
    **_: object,
) -> list[CheckMessage]:
    """Look for the tables; only with ``--database``. A warning, because ``migrate`` itself asks first.

    Args:
        app_configs: Which applications are checked; Django says so.
        databases: Which databases may be asked.
    """
    from perkamo.integrations.django.models import HandledDelivery  # noqa: PLC0415 - models come after applications

    aliases = [alias for alias in databases or () if router.allow_migrate_model(alias, HandledDelivery)]
    found: list[CheckMessage] = [
        CheckWarning(
            f"The database {alias!r} has no table for handled webhooks.",
            "Run 'manage.py migrate perkamo'.",
            id="perkamo.W004",
        )
        for alias in aliases
        if not _has(alias, HandledDelivery._meta.db_table)  # noqa: SLF001 - public in all but its name
    ]
    return found + [
        CheckWarning(f"The outbox in {alias!r}: {problem}", "Run 'manage.py migrate perkamo'.", id="perkamo.W005")
        for alias in aliases
        if connections[alias].vendor == "postgresql"
        for problem in _problems_of_outbox(alias)
    ]


def _has(alias: str, table: str) -> bool:
    try:
        return table in connections[alias].introspection.table_names()
    except DatabaseError:
        return True  # there is no database yet, which others say


def _problems_of_outbox(alias: str) -> Sequence[str]:
    try:
        return database_outbox(connections[alias]).check()
    except PerkamoConfigurationError as error:
        return [str(error)]
    except PerkamoOutboxStorageError:
        return []  # there is no database yet, which others say


def _check_browser(settings: Settings) -> list[CheckMessage]:
    if not settings.browser_key:
        return []
    try:
        settings.browser_sdk()
    except PerkamoConfigurationError as error:
        return [Error(str(error), id="perkamo.E003")]
    if settings.browser_key.startswith("sk_"):
        message = "BROWSER_KEY is a server key, which every page would show."
        return [Error(message, "Use the public browser key, pk_….", id="perkamo.E004")]
    return []


def _check_outbox(settings: Settings) -> list[CheckMessage]:
    if settings.outbox is None:
        return []
    path = Path(settings.outbox).resolve()
    temporary = {Path(place).resolve() for place in (*_TEMPORARY, tempfile.gettempdir())}
    kind = kind_of(path, read_mounts())
    if kind not in FORGETFUL and temporary.isdisjoint(path.parents):
        return []
    where = f"on {kind}" if kind in FORGETFUL else "among temporary files"
    return [
        CheckWarning(
            f"The directory of the outbox is {where}: events in it are lost when the machine or container goes.",
            "Set OUTBOX to a directory on a persistent disk, such as a mounted volume.",
            id="perkamo.W003",
        )
    ]
