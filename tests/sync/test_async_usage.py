"""async_usage: the warning to those who call synchronously inside a running event loop."""

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType

import anyio
import pytest

from perkamo import (
    Event,
    PerkamoAsyncUsageWarning,
    PerkamoClient,
    SyncBatcher,
    SyncOutbox,
    SyncPostgresOutbox,
    sync_emit_many,
)
from perkamo.sync.portal import Portal


class AsyncEchoClient:
    """A small async class, as the generated twins stand on."""

    async def echo(self, value: object) -> object:
        """Return the value."""
        return value

    async def echoes(self, value: object) -> AsyncIterator[object]:
        """Yield the value."""
        yield value

    @asynccontextmanager
    async def echoing(self, value: object) -> AsyncIterator[object]:
        """Hold the value."""
        yield value

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


def enter(portal: Portal, manager: AbstractAsyncContextManager[object, bool | None]) -> object:
    """Enter and leave."""
    with portal.wrap_async_context_manager(manager) as value:
        pass
    return value


WAYS: dict[str, tuple[Callable[[Portal, AsyncEchoClient], object], str]] = {
    "a call": (lambda portal, client: portal.run(client.echo, 1), "'await client.echo(...)' on AsyncEchoClient"),
    "an iteration": (
        lambda portal, client: list(portal.iterate(client.echoes(1))),
        "'async for ... in client.echoes(...)'",
    ),
    "a method that is a context manager": (
        lambda portal, client: enter(portal, client.echoing(1)),
        "'async with client.echoing(...)'",
    ),
    "an object that is a context manager": (enter, "'async with client' on AsyncEchoClient"),
}


@pytest.fixture
def portal() -> Iterator[Portal]:
    """A portal that has warned nobody yet."""
    portal = Portal()
    yield portal
    portal.stop()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_inside_a_running_loop_works_and_warns_once_per_line(backend: str, way: str, portal: Portal) -> None:
    """The warning names the line to write and stands on the caller's file; catches silence, and a flood."""
    call, line = WAYS[way]

    async def main() -> list[object]:
        return [call(portal, AsyncEchoClient()) for _ in range(3)]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = anyio.run(main, backend=backend)

    assert results in ([1, 1, 1], [[1], [1], [1]], ["entered"] * 3)
    assert {type(one.message) for one in caught} == {PerkamoAsyncUsageWarning}
    assert len({(one.filename, one.lineno) for one in caught}) == len(caught)
    assert line in str(caught[0].message)
    assert {one.filename for one in caught} == {__file__}


def test_a_warning_that_is_an_error_is_raised_each_time_and_nothing_is_called(portal: Portal) -> None:
    """Under -W error the line never gets through; catches a second call that slips by because the first was noted."""
    called: list[str] = []

    async def note() -> None:
        called.append("called")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(PerkamoAsyncUsageWarning):
                portal.run(note)

    anyio.run(main)

    assert called == []


def relay(outbox: SyncOutbox | SyncPostgresOutbox, client: PerkamoClient) -> None:
    """Enter and leave a relay."""
    with outbox.relay(client):
        pass


def batch(client: PerkamoClient) -> None:
    """Enter and leave a batcher."""
    with SyncBatcher(client):
        pass


EVENT = Event("customer_123", "purchase.completed")
PUBLIC_CALLS: dict[str, Callable[[PerkamoClient, SyncOutbox], object]] = {
    "'await client.emit_event(...)' on AsyncPerkamoClient": lambda client, _: client.emit_event(EVENT),
    "'async for outcome in emit_many(...)' with an AsyncPerkamoClient": lambda client, _: [
        *sync_emit_many(client, [EVENT])
    ],
    "'async with batcher' on Batcher": lambda client, _: batch(client),
    "'await outbox.drain(...)' on Outbox": lambda client, outbox: outbox.drain(client),
    "'await outbox.stats(...)' on Outbox": lambda _, outbox: outbox.stats(),
    "'async for ... in outbox.dead(...)' on Outbox": lambda _, outbox: [*outbox.dead()],
    "'async with outbox.relay(...)' on Outbox": lambda client, outbox: relay(outbox, client),
}


@pytest.mark.parametrize("line", PUBLIC_CALLS)
def test_the_warning_names_a_public_class_and_its_method(line: str, tmp_path: Path) -> None:
    """Expect what a user can write; catches ``on OutboxOperations`` and ``pipe.flush``, which nobody can import."""
    client, outbox = PerkamoClient("sk_test", base_url="http://localhost:1"), SyncOutbox(tmp_path / "outbox")

    async def main() -> None:
        with pytest.raises(PerkamoAsyncUsageWarning) as caught:
            PUBLIC_CALLS[line](client, outbox)
        assert f"Write {line}." in str(caught.value)

    anyio.run(main)
    outbox.close()


def test_the_warning_names_the_outbox_in_postgresql_too() -> None:
    """Expect the class of the object, not the first that shares the method; catches a name that is written down."""
    client, outbox = PerkamoClient("sk_test"), SyncPostgresOutbox("postgresql://localhost:1/shop")

    async def main() -> None:
        with pytest.raises(PerkamoAsyncUsageWarning, match=r"'await outbox\.drain\(\.\.\.\)' on PostgresOutbox"):
            outbox.drain(client)

    anyio.run(main)
