"""The shop of each framework, under every fault: @pytest.mark.perkamo_faults over code as a user writes it."""

from collections.abc import Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

from perkamo import AsyncPerkamoClient
from perkamo.integrations.fastapi import get_perkamo
from perkamo.sandbox import Sandbox
from tests.integrations import shop


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
