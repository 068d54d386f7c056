"""move: what waits on a disk goes into the database once, and stays with its Space."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perkamo import Event, Outbox, PerkamoOutboxStorageError
from perkamo.outbox.directory import Directory
from perkamo.outbox.postgres import statements
from perkamo.outbox.postgres.moving import Moved, move
from perkamo.outbox.sqlite.store import SqliteStore
from perkamo.outbox.store import StoredEvent
from tests.outbox.postgres.conftest import OwnOutbox
from tests.outbox.postgres.server import Server
from tests.outbox.postgres.test_command import perkamo

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """The statements are those of put."""
    version: int = request.param
    return version


def event(name: object, amount: int = 1) -> Event:
    """Make an event that is the same each time."""
    return Event("customer", "purchase.completed", f"order-{name}", {"amount": amount}, "2026-06-01T10:00:00.000Z")


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A directory in which events of two Spaces wait."""
    async with Outbox(tmp_path / "outbox") as unbound, Outbox(tmp_path / "outbox", space="shop") as named:
        for number in range(3):
            await unbound.put(event(number))
            await named.put(event(f"shop-{number}"))
    store = SqliteStore(Directory(tmp_path / "outbox"), 1 << 30)
    yield store
    await store.aclose()


async def test_everything_moves_once_and_stays_with_its_space(
    server: Server, schema: str, source: SqliteStore, outbox: OwnOutbox
) -> None:
    """Also what is there already; catches an event that changes hands on the way."""
    await outbox.put(event(1))

    moved = await move(source, outbox._postgres)
    again = await move(source, outbox._postgres)
    left = await source.count()
    rows = server.execute(f'SELECT space, transaction_id FROM "{schema}".events ORDER BY transaction_id')

    assert (moved, again) == (Moved(6, 0), Moved(0, 0))
    assert (left.pending, left.dead, left.accepted) == (0, 0, 6)
    assert rows == [
        *(("", f"order-{number}") for number in range(3)),
        *(("shop", f"order-shop-{number}") for number in range(3)),
    ]


async def test_another_event_under_the_id_stays_as_a_dead_letter(source: SqliteStore, outbox: OwnOutbox) -> None:
    """Nothing is dropped; catches a move that deletes what was not taken."""
    await outbox.put(event(1, amount=2))

    moved = await move(source, outbox._postgres)
    [letter] = await source.dead(0, 9)

    assert moved == Moved(5, 1)
    assert (letter.transaction_id, letter.body) == ("order-1", event(1).to_bytes())
    assert "another event" in letter.reason


async def test_another_event_that_goes_while_they_are_compared_makes_room(
    server: Server, schema: str, outbox: OwnOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the point between the two statements; catches one that counts as moved and is nowhere."""
    mine = StoredEvent(1, "order-1", event(1).to_bytes(), 0)
    await outbox.put(event(1, amount=2))
    insert, compare = statements.ADD.rsplit(";", 1)
    deliver = """; DELETE FROM {schema}.events WHERE transaction_id = 'order-1' AND body <> (%(bodies)s::bytea[])[1];"""
    monkeypatch.setattr(statements, "ADD", insert + deliver + compare)

    refused = await outbox._postgres.add("shop", [mine])

    assert refused == []
    assert server.execute(f'SELECT space, body FROM "{schema}".events') == [("shop", event(1).to_bytes())]


async def test_broken_off_before_the_directory_forgets_it_is_begun_again(
    source: SqliteStore, outbox: OwnOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the point between the two stores; catches an order in which an event is in neither, or twice."""

    async def fail(*_: object) -> None:
        raise PerkamoOutboxStorageError("killed")

    monkeypatch.setattr(source, "settle", fail)
    with pytest.raises(PerkamoOutboxStorageError):
        await move(source, outbox._postgres)
    await source.aclose()
    next_one = SqliteStore(Directory(tmp_path / "outbox"), 1 << 30)
    moved = await move(next_one, outbox._postgres)
    await next_one.aclose()

    assert moved == Moved(6, 0)
    assert (await outbox.stats()).pending == 6


@pytest.mark.stress
def test_the_command_moves_and_tells(server: Server, schema: str, tmp_path: Path) -> None:
    """From a directory to a database and no other way; catches a target that is taken for the source."""
    made = perkamo("move", str(tmp_path), server.dsn)
    script = "from perkamo import Event, SyncOutbox; SyncOutbox('outbox').put(Event('u', 'e', 'order-1'))"

    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    moved = perkamo("move", str(tmp_path / "outbox"), server.dsn, "--schema", schema)
    wrong = perkamo("move", server.dsn, str(tmp_path / "outbox"))

    assert made.returncode == 1
    assert (moved.returncode, moved.stdout) == (0, "Events that wait in the database now: 1.\n")
    assert wrong.returncode == 2
