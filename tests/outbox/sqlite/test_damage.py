"""What happens to an outbox whose files are damaged, deleted, copied or put back."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from perkamo.outbox.errors import PerkamoOutboxCorruptError, PerkamoOutboxError
from perkamo.outbox.record import Counts
from tests.outbox.sqlite.box import HERE, Box, ids
from tests.outbox.sqlite.files import Other, file, files


def _truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def _overwrite(path: Path, offset: int, size: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(os.urandom(size))


def _overwrite_middle(path: Path) -> None:
    _overwrite(path, path.stat().st_size // 2, 8192)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "database deleted": lambda path: file(path).unlink(),
    "log deleted": lambda path: file(path, "*-wal").unlink(),
    "index deleted": lambda path: file(path, "*-shm").unlink(),
    "lock deleted": lambda path: file(path, "outbox.lock").unlink(),
    "all but the lock deleted": lambda path: _delete(*files(path, "outbox-*")),
    "database emptied": lambda path: _truncate(file(path), 0),
    "database cut": lambda path: _truncate(file(path), file(path).stat().st_size // 2 // 4096 * 4096),
    "log emptied": lambda path: _truncate(file(path, "*-wal"), 0),
    "log cut": lambda path: _truncate(file(path, "*-wal"), file(path, "*-wal").stat().st_size // 2),
    "database overwritten at its head": lambda path: _overwrite(file(path), 0, 4096),
    "database overwritten": lambda path: _overwrite_middle(file(path)),
    "names in the schema overwritten": lambda path: _garble_schema(file(path)),
    "log overwritten": lambda path: _overwrite_middle(file(path, "*-wal")),
    "a text for a number in the lock": lambda path: _edit_lock(path, 2, {"pending": "x"}),
    "a number for a name in the lock": lambda path: _edit_lock(path, 0, 7),
    "a lock of too many levels": lambda path: file(path, "outbox.lock").write_text("[" * 100_000),
    "something else in its place": lambda path: file(path).write_text("hello" * 1000),
    "another database in its place": lambda path: _replace(file(path)),
}


def _edit_lock(path: Path, position: int, wrong: object) -> None:
    lock = file(path, "outbox.lock")
    parts = json.loads(lock.read_bytes())
    parts[position] = wrong
    lock.write_text(json.dumps(parts))


def _garble_schema(path: Path) -> None:
    """Damage that SQLite can't even tell in words: it quotes bytes that are no text."""
    whole = path.read_bytes()
    assert b"CREATE TABLE events" in whole
    path.write_bytes(
        whole.replace(b"tableevents", b"table\xd7vents").replace(b"CREATE TABLE events", b"CREATE \xd7ABLE ev")
    )


def _delete(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def _replace(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs(a)")
    connection.close()


@pytest.mark.parametrize("end", ["kill", "close"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_damaged_while_nobody_ran_is_saved_or_said_to_be_missing(
    damage: str, end: str, tmp_path: Path, start: Callable[[], Other], caplog: pytest.LogCaptureFixture
) -> None:
    """To one event: what was acknowledged waits, or is counted as missing, loudly; catches every silent loss."""
    path = tmp_path / "outbox"
    kept = [f"event-{number}" for number in range(300)]
    first = start()
    first("put", *kept[:200])
    first("close")
    first("put", *kept[200:])
    if end == "close":
        first("close")
        if "log" in damage or "index" in damage:
            pytest.skip("there is none")
    first.kill()
    DAMAGE[damage](path)
    caplog.clear()

    box = Box(path)
    waiting, counts = box.waiting(), box.counts
    box.put("next")
    box.database.close()
    again = Box(path)
    counts_again = again.counts
    again.database.close()

    assert set(waiting) <= set(kept)
    assert len(waiting) + counts.missing == len(kept)
    assert (counts.pending, counts.accepted) == (len(waiting), 300)
    assert counts_again == Counts(pending=counts.pending + 1, missing=counts.missing, size=counts.size + 2)
    assert (f"{counts.missing} events that were acknowledged are missing" in caplog.text) == (counts.missing > 0)
    if damage in {"nothing", "index deleted", "lock deleted"}:
        assert counts.missing == 0
    for aside in box.database.directory.set_aside():  # nothing is ever deleted
        assert aside.stat().st_size > 0


def test_a_copy_without_its_lock_file_works(box: Box, tmp_path: Path) -> None:
    """A backup of the database alone is restored by putting it into an empty directory."""
    box.put("a", "b")
    box.database.close()
    restored = tmp_path / "restored"
    restored.mkdir(mode=0o700)
    shutil.copy(file(tmp_path / "outbox"), restored)

    copy = Box(restored)

    assert copy.waiting() == ["a", "b"]
    assert copy.counts == Counts(pending=2, size=4)
    copy.database.close()


def test_a_copy_of_everything_knows_that_nobody_holds_its_leases(box: Box, tmp_path: Path) -> None:
    """Taken while in use; catches a copy that waits for a process that never had it open."""
    box.put("a", "b")
    box.take(seconds=600.0)
    shutil.copytree(tmp_path / "outbox", tmp_path / "copy")

    copy = Box(tmp_path / "copy")

    assert ids(copy.take()) == ["a", "b"]
    copy.database.close()


def test_a_lost_database_that_is_put_back_is_taken_in(box: Box, tmp_path: Path) -> None:
    """What was missing is found; catches events that are counted twice."""
    box.put("a", "b")
    box.database.close()
    path = file(tmp_path / "outbox")
    path.rename(tmp_path / path.name)
    box.put("c")
    lost = box.counts
    box.database.close()
    shutil.copy(tmp_path / path.name, path)

    found = box.counts

    assert (lost.missing, lost.pending) == (2, 1)
    assert found == Counts(pending=3, size=6)
    assert len(files(tmp_path / "outbox", "*.sqlite3")) == 1


def test_an_older_copy_beside_it_gives_back_what_waits_in_it(box: Box, tmp_path: Path) -> None:
    """A backup laid into the directory of an outbox that goes on; an event that is in both is kept once."""
    box.put("a", "b")
    box.database.close()
    backup = tmp_path / "outbox-99999999.sqlite3"
    shutil.copy(file(tmp_path / "outbox"), backup)
    box.deliver(box.take(max_bytes=1))
    box.database.close()
    shutil.copy(backup, tmp_path / "outbox")

    counts = box.counts

    assert sorted(box.waiting()) == ["a", "b"]  # the service knows that a counted
    assert (counts.delivered, counts.pending, counts.missing) == (1, 2, 0)


TAKEN = {
    "all": ["*"],
    "the database": ["*.sqlite3"],
    "the log": ["*-wal"],
    "the index": ["*-shm"],
    "the lock": ["outbox.lock"],
    "the locks of the processes": ["process-*"],
    "database and lock": ["*.sqlite3", "outbox.lock"],
    "log and lock": ["*-wal", "outbox.lock"],
    "all but the database": ["*-wal", "*-shm", "*.lock"],
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("first", ["the one that had it", "another", "a new one"])
@pytest.mark.parametrize("taken", TAKEN)
def test_files_that_are_taken_away_in_use_are_written_anew_with_all_that_was_kept(
    taken: str, first: str, box: Box, start: Callable[[], Other], tmp_path: Path
) -> None:
    """F73: whoever puts first afterwards, all that was acknowledged is found under its name, once.

    Catches a process that overwrites what another kept, and SQLite's own writing into files that have no name any more.
    """
    other = start()
    box.put("a")
    other("put", "b")
    for pattern in TAKEN[taken]:
        for path in files(tmp_path / "outbox", pattern):
            path.unlink()
    new = start()
    puts: dict[str, Callable[[], object]] = {
        "the one that had it": lambda: box.put("c"),
        "another": lambda: other("put", "d"),
        "a new one": lambda: new("put", "e"),
    }
    order = sorted(puts, key=lambda name: name != first)
    for name in order:
        puts[name]()
    box.put("f")
    box.database.has_changed()  # as each process looks once a second
    other("look")
    other("put", "g")
    waiting = sorted(box.waiting())
    other.kill()
    new.kill()
    box.database.close()

    after = Box(tmp_path / "outbox")
    assert waiting == sorted(after.waiting()) == list("abcdefg")
    assert after.counts == Counts(pending=7, size=14)
    after.database.close()
    assert len(files(tmp_path / "outbox", "*.sqlite3")) == 1


def test_an_idle_process_carries_over_what_it_has(box: Box, tmp_path: Path) -> None:
    """F73: without a put of its own, at its next look or its end; catches events that go with a long outage."""
    for end in (box.database.has_changed, box.database.close):
        box.put(f"before {end.__name__}")
        for path in files(tmp_path / "outbox"):
            path.unlink()
        end()

    after = Box(tmp_path / "outbox")
    assert after.waiting() == ["before has_changed", "before close"]
    after.database.close()


def test_a_vanished_directory_is_an_error_until_it_is_back(box: Box, tmp_path: Path) -> None:
    """F73: no answer without a name on the disk; what was kept before is not forgotten."""
    box.put("a")
    (tmp_path / "outbox").rename(tmp_path / "away")

    with pytest.raises(PerkamoOutboxError):
        box.put("b")
    (tmp_path / "outbox").mkdir(mode=0o700)
    box.put("c")

    assert sorted(box.waiting()) == ["a", "c"]


def test_a_database_that_breaks_in_use_is_set_aside_and_what_can_be_read_is_saved(box: Box, tmp_path: Path) -> None:
    """The call that met the damage keeps nothing and says so; the next one works."""
    events = [f"event-{number}" for number in range(500)]
    box.put(*events)
    box.database.close()
    box.waiting()
    path = file(tmp_path / "outbox")
    _overwrite(path, 4096, path.stat().st_size - 4096)

    with pytest.raises(PerkamoOutboxCorruptError) as caught:
        box.put(*events)
    box.put("next")

    assert caught.value.retryable
    counts = box.counts
    assert counts.accepted == counts.pending + counts.missing == 501
    assert counts.pending >= 1
    assert len(box.database.directory.set_aside()) == 1


def test_a_damaged_database_of_an_older_state_hides_nothing_that_was_lost(box: Box, tmp_path: Path) -> None:
    """What was delivered since stands in it and waits again; catches that it is taken for what was put since."""
    path = tmp_path / "outbox"
    box.put(*(f"delivered-{number}" for number in range(100)), space=HERE)
    box.database.close()
    older = file(path).read_bytes()
    box.deliver(box.take())
    box.put(*(f"lost-{number}" for number in range(30)), space=HERE)
    box.database.close()
    file(path).write_bytes(older)
    _garble_index(file(path))

    after = Box(path)
    assert len(after.waiting()) == 100
    assert (after.counts.missing, after.counts.accepted) == (30, 130)
    after.database.close()


def test_what_a_predecessors_predecessor_delivered_is_counted_once(box: Box, tmp_path: Path) -> None:
    """Its files come back when its successor's are damaged; catches counts that are added to those that hold them."""
    path = tmp_path / "outbox"
    box.put(*(f"delivered-{number}" for number in range(100)), space=HERE)
    box.deliver(box.take())
    box.database.close()
    first = file(path)
    content = first.read_bytes()
    first.unlink()
    second = Box(path)
    second.put("lost")
    second.database.close()
    file(path).write_bytes(b"")
    first.write_bytes(content)

    third = Box(path)
    assert third.counts == Counts(delivered=100, missing=1)
    third.database.close()


def test_an_old_copy_does_not_hide_what_is_missing(box: Box, tmp_path: Path) -> None:
    """What it holds was taken in and delivered before; catches a loss that is made up for by what comes back twice."""
    path = tmp_path / "outbox"
    box.put("a", "b", space=HERE)
    box.database.close()
    copy = file(path)
    content = copy.read_bytes()

    def lose_all() -> None:
        for one in path.glob("outbox-*"):
            one.unlink()

    lose_all()
    first = Box(path)
    assert first.counts == Counts(missing=2)
    first.database.close()
    copy.write_bytes(content)
    second = Box(path)
    second.deliver(second.take(HERE))
    second.put("c", "d", "e")
    assert second.counts == Counts(delivered=2, pending=3, size=6)
    second.database.close()
    lose_all()
    copy.write_bytes(content)

    third = Box(path)
    assert third.waiting() == ["a", "b"]
    assert third.counts == Counts(pending=2, missing=3, size=4)
    third.database.close()


def test_counts_that_are_no_numbers_keep_nobody_from_what_can_be_read(box: Box, tmp_path: Path) -> None:
    """They stand in a damaged database, which is set aside; catches an outbox that never opens again."""
    path = tmp_path / "outbox"
    box.put("a", "b")
    box.database.close()
    with closing(sqlite3.connect(file(path), isolation_level=None)) as connection:
        connection.execute("UPDATE counts SET delivered = 'garbage'")
    _garble_index(file(path))

    after = Box(path)
    assert (after.waiting(), after.counts.missing) == (["a", "b"], 0)
    after.database.close()


@pytest.mark.parametrize(
    "damage", ["UPDATE counts SET pending = 'garbage'", "UPDATE counts SET size = 1e300", "DELETE FROM counts"]
)
@pytest.mark.parametrize("in_use", [True, False])
def test_damage_of_the_counts_alone_is_noticed_though_the_database_seems_sound(
    damage: str, in_use: bool, box: Box, tmp_path: Path
) -> None:
    """SQLite's own check passes; catches puts that fail forever with a ValueError."""
    path = tmp_path / "outbox"
    box.put("a", "b")
    if not in_use:
        box.database.close()
    with closing(sqlite3.connect(file(path), isolation_level=None)) as connection:
        connection.execute(damage)

    with suppress(PerkamoOutboxCorruptError):  # whoever meets it in use is told
        box.put("c")
    box.put("c", "d")

    assert set(box.waiting()) == {*"abcd"}
    assert box.counts.missing == 0
    box.database.close()


def _garble_index(path: Path) -> None:
    """Damage that leaves all rows readable."""
    with closing(sqlite3.connect(path)) as connection:
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'waiting'")
    _overwrite(path, (root - 1) * 4096, 4096)
