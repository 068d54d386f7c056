"""Django: checks, the admin, commands, tasks, migrations and test support."""

import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

import pytest

from perkamo import (
    Event,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoConfigurationError,
)
from perkamo.sandbox import Sandbox, Status
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary, frames
from tests.integrations import django_set_up

django_set_up.set_up()

import django  # noqa: E402 - Django must be set up before
from django.contrib.auth.models import Permission, User  # noqa: E402 - Django must be set up before
from django.core.management import CommandError, call_command  # noqa: E402
from django.core.management.base import SystemCheckError  # noqa: E402
from django.test import Client, TestCase, override_settings  # noqa: E402

from perkamo.integrations.django import outbox  # noqa: E402
from perkamo.integrations.django.test import PerkamoSandboxMixin  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _database() -> Iterator[None]:
    with django_set_up.database():
        yield


@pytest.fixture
def shop(sandbox: Sandbox, tmp_path: Path) -> Iterator[Client]:
    """The shop over the sandbox, with an outbox and an empty database."""
    with django_set_up.perkamo_settings(sandbox, {"OUTBOX": tmp_path / "outbox"}):
        yield Client(raise_request_exception=False)
    django_set_up.empty()


CHECKS: Final = [
    ({"SECRET_KEY": None}, "perkamo.W001", "no server key"),
    ({"SECRET_KEY": "pk_live_1"}, "perkamo.E002", "public browser key"),
    ({"BASE_URL": "http://api.example.com"}, "perkamo.E002", "plain http"),
    ({"OUTBOX": "/tmp/outbox"}, "perkamo.W003", "lost when"),
    ({"BROWSER_KEY": "sk_live_1"}, "perkamo.E004", "every page"),
    ({"BUNDLE_VERSION": "latest"}, "perkamo.E003", "exact version"),
    ({"SECRET": "x"}, "perkamo.E001", "is not a setting"),
    ({"TIMEOUT": "5"}, "perkamo.E001", "must be a number of seconds, not str"),
    ({"TOKEN_TTL": True}, "perkamo.E001", "must be a whole number of seconds, not bool"),
    ({"WEBHOOK_SECRET": ""}, "perkamo.E001", "is empty"),
    ({"ALLOW_INSECURE_HTTP": False, "BASE_URL": "http://api.example.com"}, "perkamo.E002", "is ALLOW_INSECURE_HTTP."),
]


@pytest.mark.parametrize(("given", "number", "words"), CHECKS, ids=[str(given) for given, _, _ in CHECKS])
def test_the_check_finds_what_is_wrong(
    given: dict[str, object], number: str, words: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first customer does; catches a deployment that fails at its first order."""
    for name in ("PERKAMO_SECRET_KEY", "PERKAMO_BROWSER_KEY", "PERKAMO_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    found = StringIO()

    with django_set_up.perkamo_settings(sandbox, given):
        try:
            call_command("check", stderr=found)
        except SystemCheckError as error:
            found.write(str(error))

    assert number in found.getvalue()
    assert words in found.getvalue()


@pytest.mark.parametrize("given", [[CANARY_KEY], CANARY_KEY])
def test_the_check_finds_settings_that_are_no_dict(given: object) -> None:
    """And says so, without a value; catches a check that ends in an AttributeError."""
    with override_settings(PERKAMO=given), pytest.raises(SystemCheckError, match="must be a dict") as caught:
        call_command("check", stderr=StringIO())

    assert CANARY_KEY not in str(caught.value)


def test_a_shop_that_is_set_up_passes_the_check(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to say but where the tests keep the outbox; catches a check that cries wolf."""
    found = StringIO()
    call_command("check", databases=["default"], stderr=found, stdout=found)

    assert {line for line in found.getvalue().split() if "perkamo." in line} <= {"(perkamo.W003)"}


def test_no_setting_is_shown_that_may_be_a_secret() -> None:
    """A wrong type of one, or a wrong one of another; catches a key in a frame or a text."""
    from perkamo.integrations.settings import read_settings  # noqa: PLC0415 - beside Django's own

    for given in (
        {"SECRET_KEY": CANARY_KEY, "TIMEOUT": "x"},
        {"SECRET_KEY": CANARY_KEY, "WEBHOOK_SECRET": ""},
        {"WEBHOOK_SECRET": CANARY_KEY, "NONSENSE": 1},
    ):
        with pytest.raises(PerkamoConfigurationError) as caught:
            read_settings(given, 'PERKAMO["{}"]')
        assert [text for text in frames(caught.value) if CANARY_KEY in text] == []
    good = read_settings({"SECRET_KEY": CANARY_KEY, "WEBHOOK_SECRET": CANARY_KEY}, "{}")
    assert find_canary(repr(good)) is None


def refuse_one(sandbox: Sandbox) -> None:
    """Let the outbox have a dead letter."""
    outbox.put({"user_id": CANARY_EMAIL, "event": "e", "transaction_id": "order_9", "context": {"email": CANARY_EMAIL}})
    sandbox.faults.next("POST /v1/events:batch", Status(422))
    outbox.drain()
    assert outbox.stats().dead == 1


def test_the_admin_shows_and_requeues_and_asks_for_permission(shop: Client, sandbox: Sandbox) -> None:
    """Reason and order, no customer; a viewer may not requeue; catches personal data and an open door."""
    refuse_one(sandbox)
    page = "/admin/perkamo/outboxentry/"
    staff = User.objects.create_user("staff", is_staff=True)
    shop.force_login(staff)
    assert shop.get(page).status_code == 403
    staff.user_permissions.add(Permission.objects.get(codename="view_outboxentry"))
    html = shop.get(page).content.decode()
    assert "Refused: 1" in html
    assert "order_9" in html
    assert "422" in html
    assert "Requeue" not in html
    assert find_canary(html) is None
    assert shop.post(page).status_code == 403
    assert outbox.stats().dead == 1

    staff.user_permissions.add(Permission.objects.get(codename="change_outboxentry"))
    assert "Requeue" in shop.get(page).content.decode()
    done = shop.post(page, {"transaction_id": "order_9"}, follow=True)

    assert "delivery again: 1" in done.content.decode()
    assert (outbox.stats().dead, outbox.stats().pending) == (0, 1)
    for path in ("add/", "order_9/change/", "order_9/delete/"):
        assert shop.get(f"{page}{path}").status_code in (302, 403)


def test_the_admin_lists_what_waits_and_why(shop: Client, sandbox: Sandbox) -> None:
    """Since when, and for what reason, without the customer; catches an outage that the staff can only count."""
    shop.force_login(User.objects.create_superuser("root"))
    page = "/admin/perkamo/outboxentry/"
    assert "No event waits" in shop.get(page).content.decode()
    for number in range(2):
        outbox.put({"user_id": CANARY_EMAIL, "event": "review.created", "transaction_id": f"review_{number}"})
    before = shop.get(page).content.decode()
    sandbox.faults.next("POST /v1/events:batch", Status(401))
    with pytest.raises(PerkamoAuthenticationError):
        outbox.drain()
    after = shop.get(page).content.decode()

    for html in (before, after):
        assert re.findall(r"<td>review\.created</td><td>(\w+)</td>", html) == ["review_0", "review_1"]
        assert find_canary(html) is None
    assert "401" not in before
    reasons = re.findall(r"<td>review_\d</td><td>[^<]+</td><td>([^<]*)</td>", after)
    assert ["401" in reason for reason in reasons] == [True, True]


def test_the_admin_shows_an_outbox_that_cannot_be_used(sandbox: Sandbox) -> None:
    """In a sentence; catches a page that fails for the staff who want to know why."""
    with django_set_up.perkamo_settings(sandbox, {}):
        browser = Client()
        browser.force_login(User.objects.create_superuser("root"))
        answer = browser.get("/admin/perkamo/outboxentry/")
        assert browser.post("/admin/perkamo/outboxentry/", follow=True).status_code == 200
    django_set_up.empty()

    assert answer.status_code == 200
    assert "PERKAMO_OUTBOX" in answer.content.decode()


def test_the_commands_count_list_requeue_and_deliver(shop: Client, sandbox: Sandbox) -> None:
    """Over the outbox of the settings, without personal data; catches a command that looks elsewhere."""
    refuse_one(sandbox)

    def run(*words: str) -> str:
        output = StringIO()
        call_command(*words, stdout=output)
        return output.getvalue()

    assert "dead                    1" in run("perkamo_outbox", "stats")
    listed = run("perkamo_outbox", "dead")
    assert "order_9" in listed
    assert find_canary(listed) is None
    assert "again: 0" in run("perkamo_outbox", "requeue", "--transaction-id", "other")
    assert "again: 1" in run("perkamo_outbox", "requeue")
    assert "waiting 0, refused 0" in run("perkamo_relay", "--until-empty")
    assert len(sandbox.events()) == 1


@pytest.mark.parametrize("command", [("perkamo_outbox", "stats"), ("perkamo_relay", "--until-empty")])
def test_a_command_without_an_outbox_says_what_to_set(command: tuple[str, ...], sandbox: Sandbox) -> None:
    """And shows no traceback; catches an error that is told to programmers only."""
    with django_set_up.perkamo_settings(sandbox, {}), pytest.raises(CommandError, match="PERKAMO_OUTBOX"):
        call_command(*command)


class OrderTests(PerkamoSandboxMixin, TestCase):
    """A test as a user of Django writes it."""

    def test_a_purchase_earns(self) -> None:
        """Within TestCase's own transaction; catches a sandbox that the application does not ask."""
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/orders/order_1/paid-without-outbox?amount=12900")

        self.perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123")

    def test_each_test_has_a_sandbox_as_new(self) -> None:
        """Nothing of the other test is there; catches events that are counted in the next test."""
        assert not self.perkamo_sandbox.events()


@override_settings(PERKAMO={"OUTBOX": "/proc/of-the-project", "SPACE": "live"})
class OutboxTests(PerkamoSandboxMixin, TestCase):
    """Tests of a project with an outbox of its own, whose events no test may deliver to its sandbox, and lose so."""

    def test_an_event_waits(self) -> None:
        """In a directory of the test's own; catches one that is shared with the project."""
        with self.captureOnCommitCallbacks(execute=True):
            outbox.put({"user_id": "u", "event": "review.created", "transaction_id": "review_1"})

        assert outbox.stats().accepted == 1

    def test_another_one_finds_nothing(self) -> None:
        """Whatever the other test left; catches events that are delivered in the next test."""
        assert outbox.drain().accepted == 0
        assert not self.perkamo_sandbox.events()


PYTEST_DJANGO: Final = """\
import pytest
from perkamo.integrations.django.test import sandbox_settings

@pytest.fixture(autouse=True)
def _perkamo(perkamo_sandbox, settings):
    settings.PERKAMO = sandbox_settings(perkamo_sandbox)

@pytest.mark.django_db
@pytest.mark.parametrize("order", ["order_1", "order_2"])
def test_a_purchase_earns(order, client, perkamo_sandbox, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        client.post(f"/orders/{order}/paid-without-outbox?amount=12900")
    perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123")
"""


def test_the_sandbox_works_with_pytest_django(tmp_path: Path) -> None:
    """Its settings fixture and its database; catches a client that keeps the sandbox of the test before."""
    (tmp_path / "test_shop.py").write_text(PYTEST_DJANGO, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")  # and not that of a folder above
    root = Path(__file__).parent.parent.parent
    words = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "-p",
        "no:trio",
        "--ds",
        "tests.integrations.django_shop.settings",
        "-q",
        str(tmp_path),
    ]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(django.VERSION < (6,), reason="Django has tasks of its own from 6.0 on")
def test_a_task_of_djangos_own_delivers_or_tries_again(shop: Client, sandbox: Sandbox) -> None:
    """By a backend that can defer, at a later time, and without one as a failure; catches an event that is lost."""
    from django.tasks import default_task_backend, task_backends  # noqa: PLC0415 - Django 6
    from django.tasks.backends.dummy import DummyBackend  # noqa: PLC0415

    from perkamo.integrations.django.tasks import deliver  # noqa: PLC0415

    text = Event("u", "e", "order_1").to_bytes().decode()
    sandbox.faults.next("POST /v1/events", Status(503), times=6)
    assert default_task_backend.supports_defer is False
    assert deliver.enqueue(text).status == "FAILED"
    backend = "django.tasks.backends.dummy.DummyBackend"
    with override_settings(TASKS={"default": {"BACKEND": backend}}):
        deliver.call(text)
        dummy = task_backends["default"]
        assert isinstance(dummy, DummyBackend)
        [again] = dummy.results
        assert (again.args, again.task.run_after is None) == ([text, 1], False)
        deliver.call(*again.args)
        sandbox.faults.next("POST /v1/events", Status(422))
        with pytest.raises(PerkamoApiError):
            deliver.call(text)

    assert [event.transaction_id for event in sandbox.events()] == ["order_1"]


def test_the_migration_says_what_the_models_say() -> None:
    """Catches a model that was changed without a migration."""
    call_command("makemigrations", "perkamo", check=True, dry_run=True, verbosity=0)


def test_without_django_the_extra_is_named() -> None:
    """Catches a bare ImportError of a name that nobody installed."""
    program = "import sys; sys.modules['django'] = None; import perkamo.integrations.django"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert 'pip install "perkamo[django]"' in done.stderr
