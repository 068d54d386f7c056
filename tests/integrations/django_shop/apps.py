"""The shop as an application of Django's."""

from pathlib import Path

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The shop."""

    name = "tests.integrations.django_shop"
    label = "shop"
    path = str(Path(__file__).parent)
