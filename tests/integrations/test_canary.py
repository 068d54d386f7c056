"""integrations.fastapi and webhooks: nothing that others may read shows a key, a secret or a customer."""

import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient

from perkamo import AsyncPerkamoClient, PerkamoAuthenticationError, PerkamoConfigurationError, RetryPolicy
from perkamo.integrations.fastapi import PerkamoDep, perkamo_lifespan, secret_webhook
from perkamo.sandbox import Sandbox
from perkamo.webhooks import PerkamoWebhookError, WebhookDelivery
from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary, frames
from tests.integrations import shop
from tests.webhooks.samples import HEADERS, body, data


@pytest.fixture
def http(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The shop with a key that the service refuses."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", CANARY_KEY)
    monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)
    with TestClient(shop.app, raise_server_exceptions=False) as started:
        yield started


OWN_HEADERS = {**HEADERS, "x-perkamo-delivery": "dlv_canary"}
"""Of a delivery that no other test of this shop has handled."""

CANARY_DELIVERY = data(user_id=CANARY_EMAIL, transaction_id=CANARY_EMAIL, context={"email": CANARY_EMAIL})

REQUESTS: list[tuple[str, dict[str, str], bytes]] = [
    ("/api/perkamo/token", {"x-user": CANARY_EMAIL}, b""),
    ("/api/perkamo/stream-token", {"x-user": CANARY_EMAIL}, b""),
    ("/orders/order_1/paid?amount=1", {}, b""),
    ("/hooks/perkamo", OWN_HEADERS, CANARY_DELIVERY),
    ("/hooks/perkamo", OWN_HEADERS, data(user_id=[CANARY_EMAIL])),
    ("/hooks/header", {"x-secret": CANARY_KEY}, body()),
    ("/hooks/path/wrong", OWN_HEADERS, body()),
]


@pytest.mark.parametrize(("path", "headers", "content"), REQUESTS)
def test_no_answer_and_no_log_shows_them(
    path: str, headers: dict[str, str], content: bytes, http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Every route at a service that refuses; catches an answer or a record that quotes key or customer."""
    with caplog.at_level(logging.DEBUG):
        answer = http.post(path, headers=headers, content=content)

    assert answer.status_code >= 400
    shown = [answer.text, str(answer.headers)]
    ours = [record for record in caplog.records if record.name.startswith("perkamo")]
    shown += [f"{record.getMessage()} {record.__dict__!r}" for record in ours]
    assert [text for text in shown if find_canary(text)] == []


def test_no_traceback_of_a_handler_shows_the_key(sandbox: Sandbox) -> None:
    """What a crash reporter collects from an error that nobody handled; catches the key in a frame of the lifespan."""
    app = FastAPI(
        lifespan=perkamo_lifespan(
            lambda: AsyncPerkamoClient(CANARY_KEY, base_url=sandbox.base_url, retry=RetryPolicy.none())
        )
    )

    @app.post("/paid")
    async def paid(perkamo: PerkamoDep) -> None:
        await perkamo.emit("customer_123", "purchase.completed")

    with TestClient(app) as http, pytest.raises(PerkamoAuthenticationError) as caught:
        http.post("/paid")

    assert [text for text in frames(caught.value) if CANARY_KEY in text] == []


@pytest.mark.anyio
async def test_no_traceback_of_a_refused_delivery_shows_the_secret() -> None:
    """The receiver's secret is a closure's variable, and so a local of its frame; catches it in the open."""
    receive = secret_webhook(CANARY_KEY, header="x-secret")

    async def chunks() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    for given, status in ((CANARY_KEY, 400), ("wrong", 404)):
        request = Request({"type": "http", "headers": [(b"x-secret", given.encode())]}, chunks)
        with pytest.raises(HTTPException) as caught:
            await receive(request)

        assert caught.value.status_code == status
        shown = [text for text in frames(caught.value) if CANARY_KEY in text and "headers" not in text]
        assert shown == []


def test_a_wrong_set_up_shows_no_secret() -> None:
    """The application does not start, and a crash reporter tells; catches the secret among the frame's locals."""
    with pytest.raises(PerkamoConfigurationError, match="the one place") as caught:
        secret_webhook(CANARY_KEY)

    assert [text for text in frames(caught.value) if CANARY_KEY in text] == []


MEMBERS = ("id", "type", "created_at", "user_id", "transaction_id", "status", "occurred_at", "delta", "space")


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("value", [[CANARY_EMAIL], {CANARY_EMAIL: CANARY_EMAIL}], ids=["list", "object"])
def test_no_refusal_of_a_delivery_quotes_it(name: str, value: object) -> None:
    """Every member in turn holds the customer's address where it must not be; catches a value in an error's text."""
    make = body if name in ("id", "type", "created_at") else data

    with pytest.raises(PerkamoWebhookError) as caught:
        WebhookDelivery.parse(HEADERS, make(**{name: value}))

    assert find_canary(f"{caught.value} {caught.value!r}") is None


def test_the_repr_of_a_delivery_shows_nobody() -> None:
    """It ends up in logs and in pytest's output; catches a field with personal data in it."""
    delivery = WebhookDelivery.parse(HEADERS, CANARY_DELIVERY)

    assert delivery.data.user_id == CANARY_EMAIL
    assert find_canary(f"{delivery!r} {delivery} {delivery.data!r}") is None
