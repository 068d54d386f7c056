"""Test support: a sandbox for ``django.test.TestCase``."""

import os
from tempfile import TemporaryDirectory
from typing import ClassVar, cast

from django.conf import settings
from django.test import override_settings
from django.test.testcases import SimpleTestCase

from perkamo.request.retry import RetryPolicy
from perkamo.sandbox import Sandbox

__all__ = ["PerkamoSandboxMixin", "sandbox_settings"]


class PerkamoSandboxMixin(SimpleTestCase):
    """Gives each test of a class a small Perkamo of its own, and lets the application's clients ask it.

    Where the application has a directory for its outbox, each test gets an empty one in its place.

        class OrderTests(PerkamoSandboxMixin, TestCase):
            def test_a_purchase_earns(self):
                with self.captureOnCommitCallbacks(execute=True):
                    self.client.post("/orders/order_1/paid")
                self.perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123")

    With pytest-django, use the fixtures ``perkamo_sandbox`` and ``settings``; see the guide.

    Attributes:
        perkamo_sandbox: The sandbox, as new in each test.
    """

    perkamo_sandbox: ClassVar[Sandbox]

    @classmethod
    def setUpClass(cls) -> None:
        """Start it."""
        super().setUpClass()
        cls.perkamo_sandbox = Sandbox().start()
        cls.addClassCleanup(cls.perkamo_sandbox.stop)

    def setUp(self) -> None:
        """Renew it, and point the settings to it."""
        super().setUp()
        self.perkamo_sandbox.renew()
        of_project = cast("dict[str, object] | None", getattr(settings, "PERKAMO", None))
        given = {**(of_project or {}), **sandbox_settings(self.perkamo_sandbox)}
        if given.get("OUTBOX") or os.environ.get("PERKAMO_OUTBOX"):  # whose events no test may deliver to its sandbox
            given["OUTBOX"] = self.enterContext(TemporaryDirectory(prefix="perkamo-outbox-"))
        self.enterContext(override_settings(PERKAMO=given))


def sandbox_settings(sandbox: Sandbox) -> dict[str, object]:
    """Return what ``PERKAMO`` has to hold for a sandbox: keys, address, and retries that wait for nothing.

    Args:
        sandbox: The sandbox.
    """
    return {
        "SECRET_KEY": sandbox.api_key,
        "BROWSER_KEY": sandbox.browser_key,
        "BASE_URL": sandbox.base_url,
        "RETRY": RetryPolicy(base_delay=0, max_delay=0),
    }
