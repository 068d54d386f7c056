"""Fixtures: a server of each version for each process of the tests, and a schema for each test."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from perkamo import (
    AsyncPerkamoClient,
    Event,
    PostgresOutbox,
    outbox_schema,
)
from perkamo.outbox.postgres.store import Order, PostgresStore
from perkamo.postgres import Database
from tests.outbox.clocks import HardlyWaiting, wholly_by_clock
from tests.outbox.postgres.claiming import OwnTime
from tests.outbox.postgres.server import Server
from tests.outbox.service import Service

VERSIONS = (18, pytest.param(16, marks=pytest.mark.stress))
"""What runs by default, and what runs among the long tests, too."""

_numbers = count(1)


@pytest.fixture(scope="session")
def servers() -> "Iterator[dict[int, Server]]":
    """The servers that run so far, by version; they end with the session."""
    servers: dict[int, Server] = {}
    yield servers
    for server in servers.values():
        server.remove()


@pytest.fixture(params=VERSIONS)
def server_version(request: pytest.FixtureRequest) -> int:
    """Each of the versions, one after the other."""
    version: int = request.param
    return version


@pytest.fixture
def server(servers: "dict[int, Server]", server_version: int) -> Server:
    """A server of this version."""
    if server_version not in servers:
        servers[server_version] = Server(server_version)
        servers[server_version].start()
    return servers[server_version]


@pytest.fixture
def schema(server: Server) -> Iterator[str]:
    """A schema of this test's own with the outbox's tables, under a name that wants quotes."""
    name = f"perkamo-{next(_numbers)}%s$1$${{schema}}"
    with psycopg.connect(server.dsn) as connection:
        for statement in outbox_schema(name, order_by_customer=True):
            connection.execute(statement.encode())
    yield name
    server.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def connection(server: Server) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    """A connection of the application's."""
    with psycopg.connect(server.dsn) as connection:
        yield connection


class OwnOutbox(PostgresOutbox):
    """An outbox with an application's connection, which commits each event by itself."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.application = psycopg.connect(dsn, autocommit=True)
        super().__init__(dsn, **options)
        wholly_by_clock(self, HardlyWaiting())

    async def put(self, event: Event) -> Event:  # type: ignore[override] # as that of the other store's
        """Keep an event as ``Outbox.put`` does."""
        return super().put(self.application, event, autocommit=True)

    async def aclose(self) -> None:
        """Close both."""
        self.application.close()
        await super().aclose()


@pytest.fixture
async def outbox(server: Server, schema: str) -> AsyncIterator[OwnOutbox]:
    """An empty outbox whose relays hardly wait between two tries."""
    async with OwnOutbox(server.dsn, schema=schema) as outbox:
        yield outbox


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncPerkamoClient]:
    """A client of it that is not patient."""
    async with AsyncPerkamoClient("sk_test_x", base_url=service.url, timeout=0.5) as client:
        yield client


@pytest.fixture
def clock() -> OwnTime:
    """The test's clock."""
    return OwnTime()


@pytest.fixture
def new_store(server: Server, schema: str, clock: OwnTime) -> Iterator[Callable[..., PostgresStore]]:
    """Make stores, each as in a process of its own."""
    databases: list[Database] = []

    def make(order_by: Order = None, dsn: str = server.dsn) -> PostgresStore:
        databases.append(Database(dsn))
        return PostgresStore(databases[-1], schema, order_by, clock)

    yield make
    for database in databases:
        database.close()


@pytest.fixture
def store(new_store: Callable[..., PostgresStore]) -> PostgresStore:
    """One of them."""
    return new_store()


@pytest.fixture
def put(schema: str, connection: "psycopg.Connection[Any]") -> Callable[..., list[str]]:
    """Put events of these names and commit; return their transaction ids."""

    def put(*names: object, customer: str = "customer", space: str | None = None) -> list[str]:
        events = [Event(customer, "review.created", f"review_{name}") for name in names]
        PostgresOutbox(schema=schema, space=space).put_many(connection, events)
        connection.commit()
        return [str(event.transaction_id) for event in events]

    return put
