"""The shop of each framework, under every fault: @pytest.mark.perkamo_faults over code as a user writes it."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from flask.testing import FlaskClient

from perkamo import AsyncPerkamoClient, PerkamoClient, RetryPolicy
from perkamo.integrations.fastapi import get_perkamo
from perkamo.sandbox import Sandbox
from tests.integrations import django_set_up, flask_shop, shop

django_set_up.set_up()

from django.test import Client as DjangoClient  # noqa: E402 - Django must be set up before


class UnansweredError(Exception):
    """The shop answered with an error, which its customer sees."""


def retry_of(client: PerkamoClient) -> RetryPolicy:
    """Return how patiently a client of the plugin tries, which fits the fault of the run."""
    return client._async._exchange.retry


@pytest.fixture
def http(async_perkamo_client: AsyncPerkamoClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The FastAPI shop with a client of the sandbox."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", "sk_test_unused")
    monkeypatch.setitem(shop.app.dependency_overrides, get_perkamo, lambda: async_perkamo_client)
    with TestClient(shop.app) as started:
        yield started


@pytest.mark.perkamo_faults(allow=httpx2.HTTPStatusError)
def test_an_order_in_fastapi_counts_once_whatever_fails(http: TestClient, perkamo_sandbox: Sandbox) -> None:
    """Two orders, each answered with 200 or, after an error that the shop shows its customer, at the next click."""
    for order in ("order_1", "order_2"):
        http.post(f"/orders/{order}/paid?amount=12900").raise_for_status()

    perkamo_sandbox.assert_emitted("purchase.completed", times=2)


@pytest.fixture
def flask_http(
    perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    """The Flask shop, as new, over the sandbox."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    app = flask_shop.create_app(
        {
            "PERKAMO_SECRET_KEY": perkamo_sandbox.api_key,
            "PERKAMO_BASE_URL": perkamo_sandbox.base_url,
            "PERKAMO_RETRY": retry_of(perkamo_client),
        }
    )
    yield app.test_client()
    with app.app_context():
        flask_shop.perkamo.client.close()


@pytest.mark.perkamo_faults(allow=UnansweredError)
def test_an_order_in_flask_counts_once_whatever_fails(flask_http: FlaskClient, perkamo_sandbox: Sandbox) -> None:
    """As in FastAPI; catches an event that is sent anew, under another id, at the next click."""
    for order in ("order_1", "order_2"):
        if flask_http.post(f"/orders/{order}/paid-without-outbox?amount=12900").status_code != 200:
            raise UnansweredError

    perkamo_sandbox.assert_emitted("purchase.completed", times=2)


@pytest.fixture(scope="module")
def _database() -> Iterator[None]:
    with django_set_up.database():
        yield


@pytest.fixture
def django_http(perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient, _database: None) -> Iterator[DjangoClient]:
    """The Django shop, as new, over the sandbox."""
    with django_set_up.perkamo_settings(perkamo_sandbox, {"RETRY": retry_of(perkamo_client)}):
        yield DjangoClient(raise_request_exception=False)
    django_set_up.empty()


@pytest.mark.perkamo_faults(allow=UnansweredError)
def test_an_order_in_django_counts_once_whatever_fails(django_http: DjangoClient, perkamo_sandbox: Sandbox) -> None:
    """By ``emit_on_commit``; catches an order that is committed, and whose event is not sent at the next click."""
    for order in ("order_1", "order_2"):
        if django_http.post(f"/orders/{order}/paid-without-outbox?amount=12900").status_code != 200:
            raise UnansweredError

    perkamo_sandbox.assert_emitted("purchase.completed", times=2)
