"""``manage.py perkamo_sandbox``: a Perkamo on this machine."""

import os
import sys
from typing import NoReturn

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Becomes ``python -m perkamo sandbox``, with all its options."""

    help = "Run a small Perkamo on this machine; the options are those of 'python -m perkamo sandbox'."
    requires_system_checks: tuple[str, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride]

    def run_from_argv(self, argv: list[str]) -> NoReturn:
        """Do it: nothing of Django is needed from here on.

        Args:
            argv: The command line.
        """
        os.execv(sys.executable, [sys.executable, "-m", "perkamo", "sandbox", *argv[2:]])  # noqa: S606 - our own module
