"""The application that goes into ``INSTALLED_APPS``."""

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.signals import setting_changed

from perkamo.integrations.django.checks import check_database, check_settings
from perkamo.integrations.django.process import forget_if_changed


class PerkamoConfig(AppConfig):
    """Registers the checks, and has changed settings take effect."""

    name = "perkamo.integrations.django"
    label: str = "perkamo"
    verbose_name: str = "Perkamo"  # pyright: ignore[reportIncompatibleVariableOverride]
    default_auto_field: str = "django.db.models.BigAutoField"  # pyright: ignore[reportIncompatibleVariableOverride]

    def ready(self) -> None:
        """Begin, once Django has loaded all applications."""
        register(check_settings, "perkamo")
        register(check_database, Tags.database)
        setting_changed.connect(forget_if_changed, dispatch_uid="perkamo")
