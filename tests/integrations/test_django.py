"""Django: events with transactions, views, tokens and webhooks."""

import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from perkamo import (
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoValidationError,
)
from perkamo.sandbox import Reset, Sandbox
from tests.integrations import django_set_up
from tests.integrations.expected import DELIVERIES, DELIVERY, check_outage, embedded_config
from tests.webhooks.samples import body

django_set_up.set_up()

from django.contrib.auth.models import User  # noqa: E402 - Django must be set up before
from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import AsyncClient, Client, RequestFactory, override_settings  # noqa: E402

from perkamo.integrations.django import client, emit_on_commit, outbox, webhook  # noqa: E402
from perkamo.integrations.django.models import HandledDelivery  # noqa: E402
from perkamo.integrations.django.test import sandbox_settings  # noqa: E402
from perkamo.webhooks import WebhookDelivery  # noqa: E402
from tests.integrations.django_shop.models import Hint, Order  # noqa: E402


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


def test_an_event_goes_with_the_transaction(shop: Client, sandbox: Sandbox) -> None:
    """Committed: one event waits; rolled back: none; catches an event of an order that does not exist."""
    assert shop.post("/orders/order_1/paid?amount=1").status_code == 200
    assert shop.post("/orders/order_2/paid?amount=1&fail=1").status_code == 500
    assert outbox.stats().pending == 1

    outbox.drain()

    assert [event.transaction_id for event in sandbox.events()] == ["order_1"]


def test_an_event_is_sent_after_the_commit(shop: Client, sandbox: Sandbox) -> None:
    """And not at all after a rollback; catches an event that is sent before the order is saved."""
    assert shop.post("/orders/order_1/paid-without-outbox?amount=1").status_code == 200
    assert shop.post("/orders/order_2/paid-without-outbox?amount=1&fail=1").status_code == 500

    assert [event.transaction_id for event in sandbox.events()] == ["order_1"]


def test_nothing_leaves_within_a_transaction(shop: Client, sandbox: Sandbox) -> None:
    """Neither by the outbox nor by the client; catches a hook that runs at once."""
    with transaction.atomic():
        outbox.put({"user_id": "u", "event": "e", "transaction_id": "t"})
        emit_on_commit("u", "e", transaction_id="t2")
        assert not sandbox.requests
        assert outbox.stats().accepted == 0

    assert outbox.stats().pending == 1
    assert len(sandbox.requests) == 1


def test_what_cannot_be_sent_is_refused_before_the_commit(shop: Client) -> None:
    """While the order can still be rolled back; catches a refusal after it."""
    with pytest.raises(PerkamoValidationError), transaction.atomic():
        outbox.put({"user_id": "", "event": "e"})
    with pytest.raises(PerkamoValidationError), transaction.atomic():
        emit_on_commit("", "e")


def test_an_outbox_that_is_not_set_up_is_told_before_the_commit(sandbox: Sandbox) -> None:
    """With what to set; catches an order that is saved and an event that is not."""
    with (
        django_set_up.perkamo_settings(sandbox, {}),
        pytest.raises(PerkamoConfigurationError, match="PERKAMO_OUTBOX"),
        transaction.atomic(),
    ):
        outbox.put({"user_id": "u", "event": "e"})


def test_changed_settings_take_effect_at_once(shop: Client, sandbox: Sandbox) -> None:
    """override_settings, for clients that were imported before; catches a client that goes on with the former key."""
    client.program()
    with Sandbox() as other:
        with override_settings(PERKAMO=sandbox_settings(other)):
            client.program()
        assert len(other.requests) == 1
    client.program()

    assert len(sandbox.requests) == 2
    assert isinstance(client, PerkamoClient)


def test_both_clients_serve_async_views(shop: Client) -> None:
    """In several event loops, one after the other; catches a client that is bound to the first."""
    for number in range(3):
        assert shop.post(f"/orders/order_{number}/paid-async?amount=1").json()["accepted"]
        assert shop.get("/both").json() == {"same": True}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_async_view_has_the_event_loop_to_itself(shop: Client, sandbox: Sandbox) -> None:
    """Under ASGI; catches a sync call that makes the loop wait."""
    answer = await AsyncClient().get("/both")

    assert answer.status_code == 200


def test_a_service_that_is_down_is_503_and_says_nothing(
    shop: Client, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """From the middleware, with Retry-After; catches a page with a traceback."""

    def buy(path: str) -> tuple[int, str, str]:
        answer = shop.post(path)
        return answer.status_code, answer.headers["retry-after"], answer.content.decode()

    with caplog.at_level(logging.INFO, "perkamo.django"):
        check_outage(buy, sandbox)

    assert "answered 503" in caplog.text
    assert Order.objects.count() == 1


@pytest.mark.parametrize(("route", "purpose"), [("token", "browser"), ("stream-token", "stream")])
def test_whoever_is_logged_in_gets_a_token(route: str, purpose: str, shop: Client, sandbox: Sandbox) -> None:
    """Without a CSRF token, never stored, for ten minutes; catches a token for somebody else."""
    answer = Client(enforce_csrf_checks=True).post(f"/api/perkamo/{route}", headers={"x-user": "customer_5"})

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json()["expires_in"] <= (600 if purpose == "browser" else 120)
    token = sandbox.check_token(answer.json()["token"], purpose)  # type: ignore[arg-type]  # one of the two purposes
    assert token.user_id == "customer_5"


def test_by_default_a_customer_is_the_users_primary_key(shop: Client, sandbox: Sandbox) -> None:
    """As text, for whoever has a session; catches a token for nobody, and one by the browser's own word."""
    assert shop.post("/session/perkamo/token", {"user_id": "1"}).status_code == 401
    user = User.objects.create_user("bob")
    shop.force_login(user)

    issued = shop.post("/session/perkamo/token").json()

    assert sandbox.check_token(issued["token"], "browser").user_id == str(user.pk)


def test_the_token_routes_take_no_other_method(shop: Client) -> None:
    """A link or a picture gets nothing; catches a token that is fetched by GET, and kept by a cache."""
    assert shop.get("/api/perkamo/token").status_code == 405
    assert shop.post("/api/perkamo/browser/config").status_code == 405


def test_a_page_loads_and_sets_up_the_sdk(shop: Client, sandbox: Sandbox) -> None:
    """By the template tag, with the configuration of the route; catches a page that asks another service."""
    html = shop.get("/page").content.decode()
    config = shop.get("/session/perkamo/browser/config").json()

    assert config["baseUrl"] == sandbox.base_url
    assert config["tokenEndpoint"] == "/session/perkamo/token"
    assert embedded_config(html) == config
    assert html.count('nonce="n0nce"') == 2


def test_a_delivery_is_handled_once(shop: Client, sandbox: Sandbox) -> None:
    """Its repetition is answered and not handled; catches a reward that is shown twice."""
    answers = [
        Client(enforce_csrf_checks=True).post("/hooks/perkamo", body(), "application/json", headers=DELIVERY)
        for _ in range(3)
    ]

    assert [answer.json() for answer in answers] == [{"new": True}, {"new": False}, {"new": False}]
    assert Hint.objects.count() == 1
    assert "dlv_1" not in str(list(HandledDelivery.objects.values()))


def test_a_delivery_that_failed_is_handled_when_it_is_repeated(shop: Client, sandbox: Sandbox) -> None:
    """And what it had written is undone; catches a delivery that counts as handled although nothing was done."""
    sandbox.faults.next("GET /v1/customer/{user_id}", Reset(before="apply"), times=3)

    first = shop.post("/hooks/perkamo", body(), "application/json", headers=DELIVERY)
    assert (first.status_code, Hint.objects.count(), HandledDelivery.objects.count()) == (503, 0, 0)
    second = shop.post("/hooks/perkamo", body(), "application/json", headers=DELIVERY)

    assert second.json() == {"new": True}
    assert Hint.objects.count() == 1


@pytest.mark.parametrize(("path", "headers", "content", "status"), DELIVERIES)
def test_strangers_and_nonsense_are_refused(
    path: str, headers: dict[str, str], content: bytes, status: int, shop: Client
) -> None:
    """By header and by path; catches a door that stands open, and one that never opens."""
    assert shop.post(path, content, "application/json", headers=headers).status_code == status
    assert shop.get(path).status_code == 405


def test_djangos_log_has_no_secret_of_a_path(shop: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Nor of one that is nearly right; catches Django's own line about an answer above 399."""
    secret = "s%C3%A9same-123456"
    with caplog.at_level(logging.DEBUG):
        for path in (f"/hooks/{secret}/perkamo", f"/hooks/{secret}x/perkamo"):
            assert shop.post(path, b"{", "application/json").status_code in {400, 404}
            assert shop.get(path).status_code == 405

    assert "same-123456" not in caplog.text


def test_a_function_that_nobody_would_await_is_refused() -> None:
    """Where the URLs are built; catches deliveries that count as handled and never were."""

    async def handle(_delivery: WebhookDelivery) -> None: ...

    with pytest.raises(PerkamoConfigurationError, match="async def"):
        webhook(handle)


def test_a_shop_without_a_secret_takes_no_webhook(sandbox: Sandbox) -> None:
    """And its log says what to set; catches a door without a lock."""
    with override_settings(PERKAMO=sandbox_settings(sandbox)):
        answer = Client().post("/hooks/perkamo", body(), "application/json", headers=DELIVERY)

    assert answer.status_code == 500


def test_a_table_that_is_missing_is_503(shop: Client) -> None:
    """The delivery is repeated after the migration; catches one that is lost."""

    def handle(_delivery: WebhookDelivery) -> None:
        raise AssertionError

    request = RequestFactory().post("/", body(), "application/json", headers=DELIVERY)
    table = HandledDelivery._meta.db_table
    with connection.schema_editor() as editor:
        editor.delete_model(HandledDelivery)
    try:
        answer = webhook(handle)(request)
        found = StringIO()
        call_command("check", databases=["default"], stderr=found)
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(HandledDelivery)

    assert answer.status_code == 503
    assert "perkamo.W004" in found.getvalue()
    assert table in connection.introspection.table_names()
