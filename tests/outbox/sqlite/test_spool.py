"""One file of waiting events: real SQLite, real damage."""

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perkamo.outbox.errors import (
    PerkamoOutboxConflictError,
    PerkamoOutboxCorruptError,
    PerkamoOutboxError,
    PerkamoOutboxFullError,
)
from perkamo.outbox.sqlite.ownership import Counts, SpoolDirectory
from perkamo.outbox.sqlite.spool import SCHEMA_VERSION, SpoolFile
from perkamo.outbox.sqlite.storage import SlotUnavailableError, rescued

HERE = b"here"
ROOM = 1 << 30


def open_slot(path: Path, slot: int = 0) -> SpoolFile:
    """Claim and open one slot."""
    claim = SpoolDirectory(path).claim(slot)
    assert claim is not None
    return SpoolFile(claim)


def put(file: SpoolFile, *ids: str, body: bytes = b"{}", room: int = ROOM) -> None:
    """Keep events in one commit."""
    with file.transaction():
        for one in ids:
            file.put(one, None, body, room)


def waiting(file: SpoolFile) -> list[str]:
    """Return the ids of what waits, oldest first."""
    with file.transaction():
        return [event.transaction_id for event in file.take(HERE, 10_000, ROOM)]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpoolFile]:
    """Open slot 0 of a fresh directory."""
    file = open_slot(tmp_path)
    yield file
    file.close()


def test_what_was_put_is_there_after_opening_again(file: SpoolFile, tmp_path: Path) -> None:
    """Order, bytes and counts survive a close."""
    put(file, "b", "a", "c", body=b'{"exact":1}')
    file.close()

    again = open_slot(tmp_path)

    with again.transaction():
        events = again.take(HERE, 10, ROOM)
    assert [(event.transaction_id, event.body) for event in events] == [(one, b'{"exact":1}') for one in "bac"]
    assert again.committed == Counts(accepted=3, pending=3, size=33)
    again.close()


def test_commits_are_durable_and_the_file_is_locked(file: SpoolFile, tmp_path: Path) -> None:
    """Pitfall 7: WAL and synchronous=FULL, and no second connection, whose checkpoints could corrupt the file."""
    put(file, "a")

    assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    second = sqlite3.connect(tmp_path / "events-0000.sqlite3", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        second.execute("SELECT * FROM pending")
    second.close()


def test_files_are_private(file: SpoolFile, tmp_path: Path) -> None:
    """F80: neither the file nor its log may be read by others."""
    put(file, "a")

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_the_same_event_is_kept_once(file: SpoolFile) -> None:
    """Putting an event again after a doubtful answer must not make two of it, in one commit or in two."""
    put(file, "a", "a")
    put(file, "a")

    assert waiting(file) == ["a"]
    assert file.committed.accepted == 1


def test_another_event_under_a_known_id_is_refused(file: SpoolFile) -> None:
    """Only one of the two could ever be applied: the caller must know, also when the first is a dead letter."""
    put(file, "a", "b")
    with file.transaction():
        file.settle([], [(file.take(HERE, 1, ROOM)[0], "refused")])

    for known in ("a", "b"):
        with pytest.raises(PerkamoOutboxConflictError):
            put(file, known, body=b"other")

    assert file.committed == Counts(accepted=2, pending=1, dead=1, size=4)


def test_a_full_file_refuses_and_keeps_what_it_has(file: SpoolFile) -> None:
    """The limit counts bytes of events; an event that is here already needs no room."""
    put(file, "a", body=b"x" * 60, room=100)

    with pytest.raises(PerkamoOutboxFullError):
        put(file, "b", body=b"x" * 60, room=100)
    put(file, "a", body=b"x" * 60, room=100)

    assert waiting(file) == ["a"]


def test_a_full_disk_is_a_typed_error_and_passes(file: SpoolFile) -> None:
    """F72: SQLITE_FULL keeps nothing of the call, and the file works again when there is space."""
    put(file, "a")
    pages = file.connection.execute("PRAGMA page_count").fetchone()[0]
    file.connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(PerkamoOutboxFullError):
        put(file, "b", body=b"x" * 100_000)
    file.connection.execute("PRAGMA max_page_count = 1000000")
    put(file, "b", body=b"x" * 100_000)

    assert waiting(file) == ["a", "b"]
    assert file.usable


def test_a_write_that_the_system_refuses_is_a_typed_error_and_passes(tmp_path: Path) -> None:
    """F72: a write error below SQLite (here a limit on file size) is full, not broken, and nothing is lost."""
    script = """
import resource, signal, sys
from pathlib import Path
from perkamo.outbox.errors import PerkamoOutboxFullError
sys.path.insert(0, sys.argv[2])
from test_spool import open_slot, put, waiting
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = open_slot(Path(sys.argv[1]))
put(file, "a")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    put(file, "b", body=b"x" * 1_000_000)
except PerkamoOutboxFullError:
    print("full")
put(file, "c")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(file, "b", body=b"x" * 1_000_000)
print(waiting(file))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == ["full", "['a', 'c', 'b']"], done.stderr


def test_a_row_is_only_settled_if_it_is_the_same_event(file: SpoolFile, tmp_path: Path) -> None:
    """A fresh file numbers its rows from one again; an answer for the old file's row must not delete its event."""
    put(file, "old")
    with file.transaction():
        (old,) = file.take(HERE, 1, ROOM)
    other = open_slot(tmp_path, 1)
    put(other, "new")

    with other.transaction():
        other.settle([old], [(old, "refused")])

    assert waiting(other) == ["new"]
    assert other.committed == Counts(accepted=1, pending=1, size=2)
    other.close()


def test_row_numbers_are_never_used_again(file: SpoolFile) -> None:
    """An answer that comes late for a delivered row must not delete the next event that is put under its id."""
    put(file, "a")
    with file.transaction():
        (late,) = file.take(HERE, 1, ROOM)
        file.settle([late], [])
    put(file, "a")

    with file.transaction():
        file.settle([late], [])

    assert waiting(file) == ["a"]


def test_events_go_to_the_space_they_were_first_taken_for_only(file: SpoolFile) -> None:
    """Pitfall 23: rows of one Space never leave with another's key."""
    put(file, "a")
    with file.transaction():
        file.put("b", b"there", b"{}", ROOM)

    assert waiting(file) == ["a"]
    with file.transaction():
        assert [event.transaction_id for event in file.take(b"there", 10, ROOM)] == ["b"]
        assert file.elsewhere(HERE) == 1


def test_a_taken_batch_is_bounded_in_events_and_bytes(file: SpoolFile) -> None:
    """A request stays small, yet one large event is always taken."""
    put(file, "big", body=b"x" * 1000)
    put(file, "a", "b", "c", body=b"x" * 10)

    with file.transaction():
        assert [event.transaction_id for event in file.take(HERE, 2, ROOM)] == ["big", "a"]
        assert [event.transaction_id for event in file.take(HERE, 10, 20)] == ["big"]
        assert [event.transaction_id for event in file.take(HERE, 10, 1010)] == ["big", "a"]


def test_dead_letters_keep_their_reason_and_can_wait_again(file: SpoolFile) -> None:
    """Nothing that was refused is deleted; requeue lets one or all wait again."""
    put(file, "a", "b", "c")
    with file.transaction():
        file.settle([], [(event, f"reason {event.transaction_id}") for event in file.take(HERE, 10, ROOM)])

    with file.transaction():
        letters = file.dead(0, 10)
        one, rest = file.requeue("b"), file.requeue(None)

    assert [(letter.transaction_id, letter.reason) for letter in letters] == [
        (one, f"reason {one}") for one in ("a", "b", "c")
    ]
    assert (one, rest) == (1, 2)
    assert waiting(file) == ["b", "a", "c"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["deliver", "refuse"]), st.integers(1, 4)),
        st.tuples(st.just("requeue"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["reopen", "fail"]), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_accepted_is_delivered_plus_pending_plus_dead_at_every_moment(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """P4: after any steps the counts equal what an exact model says and what the tables hold."""
    path = tmp_path_factory.mktemp("box")
    file = open_slot(path)
    model: Counter[str] = Counter()
    for step, number in steps:
        with file.transaction():
            batch = file.take(HERE, number, ROOM) if step in {"deliver", "refuse"} else []
            if step == "put":
                known = file.committed.accepted
                file.put(f"tx{number}", None, b"abc", ROOM)
                model["accepted"] += file._counts.accepted - known
            elif step == "deliver":
                file.settle(batch, [])
                model["delivered"] += len(batch)
            elif step == "refuse":
                file.settle([], [(event, "no") for event in batch])
            elif step == "requeue":
                file.requeue(f"tx{number}")
        if step == "reopen":
            file.close()
            file = open_slot(path)
        elif step == "fail":
            with pytest.raises(PerkamoOutboxFullError):
                put(file, "never", room=0)

        counts = file.committed
        pending, dead = (
            file.connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("pending", "dead")
        )
        assert counts.accepted == counts.delivered + counts.pending + counts.dead == model["accepted"]
        assert (counts.delivered, counts.pending, counts.dead) == (model["delivered"], pending, dead)
        assert counts.size == 3 * (pending + dead)
    file.close()


@pytest.mark.parametrize("lost", ["events-0000.sqlite3", "events-0000.sqlite3-wal", "events-0000.sqlite3*"])
def test_a_file_that_a_cleaner_removed_is_written_again_before_the_answer(
    file: SpoolFile, tmp_path: Path, lost: str
) -> None:
    """F73: SQLite goes on writing into an unlinked file without a word; every event must be found under the name."""
    put(file, "a")
    for path in tmp_path.glob(lost):
        path.unlink()

    put(file, "b")
    put(file, "c")

    copies = tmp_path.parent / f"{tmp_path.name}-as-after-a-kill"
    copies.mkdir()
    for path in tmp_path.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    after_kill = open_slot(copies)
    assert waiting(after_kill) == ["a", "b", "c"]
    assert after_kill.committed == Counts(accepted=3, pending=3, size=6)
    after_kill.close()


def test_a_file_that_was_removed_while_nothing_was_put_is_written_again_at_the_end(
    file: SpoolFile, tmp_path: Path
) -> None:
    """F73: an idle process in a long outage must not take its events with it."""
    put(file, "a")
    for path in tmp_path.glob("events-0000.sqlite3*"):
        path.unlink()

    file.close()

    again = open_slot(tmp_path)
    assert waiting(again) == ["a"]
    again.close()


def test_a_rescue_that_was_killed_halfway_is_finished(file: SpoolFile, tmp_path: Path) -> None:
    """The complete copy takes the name, and the log of the lost file is not replayed into it."""
    put(file, "a")
    path = tmp_path / "events-0000.sqlite3"
    file.connection.execute("VACUUM INTO ?", (str(rescued(path)),))
    put(file, "only in the old log")
    log = (tmp_path / "events-0000.sqlite3-wal").read_bytes()
    file.close()
    (tmp_path / "events-0000.sqlite3-wal").write_bytes(log)

    again = open_slot(tmp_path)

    assert waiting(again) == ["a"]
    assert again.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_a_vanished_directory_is_an_error_until_it_is_back(file: SpoolFile, tmp_path: Path) -> None:
    """F73: no answer without a name on the disk; what was kept before is not forgotten."""
    put(file, "a")
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    tmp_path.rename(away)

    with pytest.raises(PerkamoOutboxError):
        put(file, "b")
    tmp_path.mkdir()
    put(file, "c")

    assert waiting(file) == ["a", "b", "c"]
    assert (tmp_path / "events-0000.sqlite3").exists()


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs(a)")
    connection.close()


def _torn(path: Path) -> None:
    file = open_slot(path.parent)
    put(file, *map(str, range(2000)))
    file.close()
    (path.with_name(f"{path.name}.lock")).unlink()
    data = bytearray(path.read_bytes())
    data[8192:16384] = bytes(8192)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_garbage, _foreign, _torn])
def test_a_damaged_or_foreign_file_is_set_aside_never_deleted(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F74: a typed error says so, the bytes are kept, and the next call writes a fresh file."""
    directory = SpoolDirectory(tmp_path)
    path = tmp_path / "events-0000.sqlite3"
    damage(path)
    before = path.read_bytes()

    with pytest.raises(PerkamoOutboxCorruptError) as caught:
        open_slot(tmp_path)
    fresh = open_slot(tmp_path)
    put(fresh, "a")

    (kept,) = directory.set_aside()
    assert kept.read_bytes() == before
    assert caught.value.retryable
    assert "moved to" in caplog.text
    assert waiting(fresh) == ["a"]
    fresh.close()


def test_damage_that_shows_later_is_set_aside_too(file: SpoolFile, tmp_path: Path) -> None:
    """The call that met it fails with a typed error and the slot can be used again."""
    put(file, *map(str, range(2000)))
    file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "events-0000.sqlite3").open("r+b") as raw:
        raw.seek(4096)
        raw.write(os.urandom(200_000))
    file.connection.execute("PRAGMA shrink_memory")

    with pytest.raises(PerkamoOutboxCorruptError):
        waiting(file)

    assert not file.usable
    fresh = open_slot(tmp_path)
    put(fresh, "a")
    assert waiting(fresh) == ["a"]
    assert len(SpoolDirectory(tmp_path).set_aside()) == 1
    fresh.close()


def test_a_file_of_a_newer_version_is_left_alone(file: SpoolFile, tmp_path: Path) -> None:
    """F79: during a deploy old and new processes share the directory; the old must not touch what it can't read."""
    put(file, "a")
    file.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    file.close()

    with pytest.raises(SlotUnavailableError):
        open_slot(tmp_path)

    assert SpoolDirectory(tmp_path).set_aside() == []
    assert (tmp_path / "events-0000.sqlite3").exists()


def test_a_file_that_somebody_reads_is_left_to_them(file: SpoolFile, tmp_path: Path) -> None:
    """F70: an operator's sqlite3 shell must not make the outbox fail or wait for ever."""
    put(file, "a")
    file.close()
    shell = sqlite3.connect(tmp_path / "events-0000.sqlite3", isolation_level=None)
    shell.execute("BEGIN")
    shell.execute("SELECT * FROM pending").fetchall()

    with pytest.raises(SlotUnavailableError):
        open_slot(tmp_path)

    shell.close()
    again = open_slot(tmp_path)
    assert waiting(again) == ["a"]
    again.close()


def test_a_forked_child_that_exits_leaves_the_parents_file_alone(tmp_path: Path) -> None:
    """Pitfall 9: the child's exit would close the inherited connection, and with it checkpoint and unlink the log."""
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_spool import open_slot, put
file = open_slot(Path(sys.argv[1]))
put(file, "before")
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
assert os.path.exists(file._claim.path.with_name(file._claim.path.name + "-wal")), "the child unlinked the log"
put(file, "after")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )

    again = open_slot(tmp_path)
    assert done.stderr == ""
    assert waiting(again) == ["before", "after"]
    again.close()


def test_pages_are_given_back_after_a_flood(file: SpoolFile, tmp_path: Path) -> None:
    """A day's outage must not leave gigabytes of empty file behind."""
    put(file, *map(str, range(500)), body=b"x" * 20_000)
    with file.transaction():
        file.settle(file.take(HERE, 1000, ROOM), [])

    with file.transaction():
        assert file.shrink()
    with file.transaction():
        assert not file.shrink()
    file.close()

    assert (tmp_path / "events-0000.sqlite3").stat().st_size < 2_000_000
