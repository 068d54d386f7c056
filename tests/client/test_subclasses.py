"""client and sync_client: what a subclass adds, it has in every view, and wherever a client is asked for."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import anyio
import pytest
from attrs import define, field

from perkamo import (
    AsyncPerkamoClient,
    Batcher,
    BatchIngestResponse,
    Context,
    CustomerStream,
    Event,
    EventIngestResponse,
    Outbox,
    PerkamoClient,
    RetryPolicy,
    SyncBatcher,
    SyncCustomerStream,
    SyncOutbox,
    emit_many,
    sync_emit_many,
)
from perkamo.sandbox import Sandbox
from tests.waiting import until


def of_tenant(tenant: str, events: Iterable[Event | Mapping[str, object]]) -> list[Event]:
    """Put a tenant before each customer's id."""
    plain = [event if isinstance(event, Event) else Event.from_mapping(event) for event in events]
    return [Event(f"{tenant}:{one.user_id}", one.event, one.transaction_id, one.context) for one in plain]


class AsyncTenantClient(AsyncPerkamoClient):
    """Keeps tenants apart by a prefix."""

    def __init__(self, tenant: str, sandbox: Sandbox) -> None:
        super().__init__(sandbox.api_key, base_url=sandbox.base_url)
        self.tenant = tenant

    async def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Emit for the tenant's customer."""
        return await super().emit(
            f"{self.tenant}:{user_id}", event, context, transaction_id=transaction_id, occurred_at=occurred_at
        )

    async def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
        """Send for the tenant's customers."""
        return await super().batch(of_tenant(self.tenant, events))

    def subscribe_customer(self, user_id: str, *arguments: Any, **options: Any) -> CustomerStream:
        """Follow the tenant's customer."""
        return super().subscribe_customer(f"{self.tenant}:{user_id}", *arguments, **options)


class TenantClient(PerkamoClient):
    """The same for synchronous code."""

    def __init__(self, tenant: str, sandbox: Sandbox) -> None:
        super().__init__(sandbox.api_key, base_url=sandbox.base_url)
        self.tenant = tenant

    def emit(
        self,
        user_id: str,
        event: str,
        context: Context | None = None,
        *,
        transaction_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> EventIngestResponse:
        """Emit for the tenant's customer."""
        return super().emit(
            f"{self.tenant}:{user_id}", event, context, transaction_id=transaction_id, occurred_at=occurred_at
        )

    def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
        """Send for the tenant's customers."""
        return super().batch(of_tenant(self.tenant, events))

    def subscribe_customer(self, user_id: str, *arguments: Any, **options: Any) -> SyncCustomerStream:
        """Follow the tenant's customer."""
        return super().subscribe_customer(f"{self.tenant}:{user_id}", *arguments, **options)


def customers(sandbox: Sandbox) -> set[str]:
    """Return whom events have reached."""
    return {event.user_id for event in sandbox.events()}


@pytest.mark.anyio
async def test_a_view_of_a_subclass_is_of_the_subclass(sandbox: Sandbox) -> None:
    """Class and attributes are there; catches a prefix that vanishes, and an event that reaches another's customer."""
    async with AsyncTenantClient("acme", sandbox) as client:
        view = client.with_options(timeout=5).with_options(retry=RetryPolicy.none())
        assert_type(view, AsyncTenantClient)
        await view.emit("ada", "purchase.completed", {"amount": 100})
        token = await view.create_stream_token(sandbox.browser_key, "acme:ada")
        async with view.subscribe_customer("ada", token) as stream:
            update = await stream.receive()

    assert update is not None
    assert update.customer.user_id == "acme:ada"
    assert (type(view), view.tenant) == (AsyncTenantClient, "acme")
    assert repr(view) == f"<AsyncTenantClient {sandbox.base_url}>"
    assert customers(sandbox) == {"acme:ada"}


def test_a_sync_view_of_a_subclass_is_of_the_subclass(sandbox: Sandbox) -> None:
    """As above; catches a view of the base class."""
    with TenantClient("acme", sandbox) as client:
        view = client.with_options(timeout=5).with_options(retry=RetryPolicy.none())
        assert_type(view, TenantClient)
        view.emit("ada", "purchase.completed", {"amount": 100})
        token = view.create_stream_token(sandbox.browser_key, "acme:ada")
        with view.subscribe_customer("ada", token) as stream:
            update = stream.receive()

    assert update is not None
    assert update.customer.user_id == "acme:ada"
    assert (type(view), view.tenant) == (TenantClient, "acme")
    assert repr(view) == f"<TenantClient {sandbox.base_url}>"
    assert customers(sandbox) == {"acme:ada"}


@define(eq=False)
class Slotted(PerkamoClient):
    """A subclass that keeps its attributes in slots."""

    sandbox: Sandbox
    tenant: str = field(default="acme")

    def __attrs_post_init__(self) -> None:
        super().__init__(self.sandbox.api_key, base_url=self.sandbox.base_url)


def test_attributes_in_slots_are_kept(sandbox: Sandbox) -> None:
    """As attrs makes them; catches a copy of ``__dict__`` alone."""
    with Slotted(sandbox, "initech") as client:
        view = client.with_options(timeout=5)

        assert (type(view), view.tenant) == (Slotted, "initech")
        assert view.program().meta.status == 200


@pytest.mark.anyio
async def test_whatever_delivers_takes_a_subclass(sandbox: Sandbox, tmp_path: Path) -> None:
    """Batcher, emit_many, relay and drain send as the subclass does; catches an AttributeError, and a lost prefix."""
    async with AsyncTenantClient("acme", sandbox) as client:
        async with Batcher(client) as batcher:
            await batcher.emit("one", "purchase.completed", {"amount": 100})
        outcomes = [outcome async for outcome in emit_many(client, [Event("two", "purchase.completed")])]
        async with Outbox(tmp_path / "outbox") as outbox:
            await outbox.put(Event("three", "purchase.completed", "order_3"))
            await outbox.drain(client)
            async with outbox.relay(client):
                await outbox.put(Event("four", "purchase.completed", "order_4"))
                await until(lambda: len(customers(sandbox)) == 4)

    assert [outcome.error for outcome in outcomes] == [None]
    assert customers(sandbox) == {"acme:one", "acme:two", "acme:three", "acme:four"}


def test_whatever_delivers_takes_a_sync_subclass(sandbox: Sandbox, tmp_path: Path) -> None:
    """As above, by the subclass's own ``batch``; catches the async client underneath, which knows no prefix."""
    with TenantClient("acme", sandbox) as client:
        with SyncBatcher(client) as batcher:
            batcher.emit("one", "purchase.completed", {"amount": 100})
        outcomes = list(sync_emit_many(client, [Event("two", "purchase.completed")]))
        with SyncOutbox(tmp_path / "outbox") as outbox:
            outbox.put(Event("three", "purchase.completed", "order_3"))
            outbox.drain(client)
            with outbox.relay(client):
                outbox.put(Event("four", "purchase.completed", "order_4"))
                anyio.run(until, lambda: len(customers(sandbox)) == 4)

    assert [outcome.error for outcome in outcomes] == [None]
    assert customers(sandbox) == {"acme:one", "acme:two", "acme:three", "acme:four"}
