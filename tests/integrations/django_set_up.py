"""Django in the tests' own process: set up once, with a database in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import django
from django.conf import settings
from django.test import override_settings
from django.test.runner import DiscoverRunner

from perkamo.sandbox import Sandbox
from tests.integrations.django_shop import settings as shop_settings


def set_up() -> None:
    """Set Django up as the shop says. No variable is set, which would wake pytest-django in other processes."""
    if not settings.configured:
        settings.configure(**{name: value for name, value in vars(shop_settings).items() if name.isupper()})
        django.setup()


@contextmanager
def database() -> Iterator[None]:
    """Make a database in memory for as long as the block lasts."""
    runner = DiscoverRunner(verbosity=0, interactive=False)
    names = runner.setup_databases()
    try:
        yield
    finally:
        runner.teardown_databases(names)


def empty() -> None:
    """Empty the database's tables."""
    from django.core.management import call_command  # noqa: PLC0415 - after set_up

    call_command("flush", verbosity=0, interactive=False)


@contextmanager
def perkamo_settings(sandbox: Sandbox, given: Mapping[str, object]) -> Iterator[None]:
    """Let the shop use a sandbox, with further settings."""
    from perkamo.integrations.django.test import sandbox_settings  # noqa: PLC0415 - after set_up

    with override_settings(PERKAMO={**shop_settings.PERKAMO, **sandbox_settings(sandbox), **given}):
        yield
