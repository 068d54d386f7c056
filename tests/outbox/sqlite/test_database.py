"""The database of an outbox: durable, shared by processes, and of every version."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perkamo.outbox.directory import Directory
from perkamo.outbox.errors import (
    PerkamoOutboxError,
    PerkamoOutboxFullError,
    PerkamoOutboxStorageError,
)
from perkamo.outbox.record import Counts
from perkamo.outbox.sqlite import database as database_module
from perkamo.outbox.sqlite.database import SCHEMA_VERSION, Database
from perkamo.outbox.sqlite.tables import Tables
from tests.outbox.sqlite.box import Box, ids
from tests.outbox.sqlite.files import Other, file, files

VERSIONS = Path(__file__).with_name("versions")


def test_commits_are_durable(box: Box) -> None:
    """Pitfall 7: WAL and synchronous=FULL, on every connection."""
    box.put("a")

    with box.database.transaction() as tables:
        settings = [
            tables.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
        ]

    assert settings == [2, "wal"]


def test_a_lock_that_is_held_too_long_is_an_error_that_says_to_try_again(box: Box) -> None:
    """As by a process that is stopped within a commit; catches a put that waits without end, or loses the outbox."""
    box.put("before")
    directory = box.database.directory
    impatient = Database(Directory(directory.path))
    impatient.directory.lock._patience = 0.05

    with (
        directory.lock,
        pytest.raises(PerkamoOutboxStorageError, match=r"held the lock.* for 10 s.*try again") as caught,
        impatient.transaction() as tables,
    ):
        tables.put("meanwhile", "", b"{}", 1 << 20)
    with impatient.transaction() as tables:
        tables.put("after", "", b"{}", 1 << 20)
    impatient.close()

    assert (caught.value.retryable, caught.value.outcome) == (True, "not_sent")
    assert box.waiting() == ["before", "after"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the kernel lists descriptors")
def test_an_outbox_that_was_closed_holds_no_descriptor(tmp_path: Path) -> None:
    """Nor does one whose last use failed; catches a lock file that stays open until the process ends."""

    def ours() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [target for link in links if (target := str(link.readlink())).startswith(str(tmp_path))]

    box = Box(tmp_path / "outbox")
    box.put("a")
    assert ours()
    box.database.close()
    assert ours() == []

    (tmp_path / "outbox").rename(tmp_path / "elsewhere")
    with pytest.raises(PerkamoOutboxError):
        box.put("b")
    box.database.close()
    assert ours() == []


def test_what_one_process_keeps_the_others_see(box: Box, start: Callable[[], Other]) -> None:
    """One database for all: what waits, its counts, and that something changed."""
    other = start()
    box.put("a")
    box.database.has_changed()

    quiet = box.database.has_changed()
    other("put", "b")
    changed = box.database.has_changed()

    assert other("waiting") == "a b"
    assert (quiet, changed, box.database.has_changed()) == (False, True, False)
    assert box.counts.pending == 2


def test_what_a_killed_process_kept_is_there(box: Box, start: Callable[[], Other]) -> None:
    """Whoever comes next finds it, with the counts, and nothing of the dead is left behind."""
    other = start()
    other("put", "a", "b")
    other.kill()

    waiting = box.waiting()

    assert waiting == ["a", "b"]
    assert box.counts == Counts(pending=2, size=4)
    users = [path.name for path in files(box.database.directory.path, "process-*")]
    assert users == [box.database.directory.user]


def test_what_a_process_had_leased_when_it_died_is_taken_over_at_once(box: Box, start: Callable[[], Other]) -> None:
    """By its lock, not by the end of the lease."""
    other = start()
    other("put", "a")
    box.put("b")
    with box.database.transaction() as tables:
        tables.take(["key:here"], (100,), 1 << 20, 600.0, box.database.directory.is_dead)
        tables.connection.execute("UPDATE leases SET holder = (SELECT ?)", (_user_of(other, box),))
    is_dead = box.database.directory.is_dead
    with box.database.transaction() as tables:
        before = tables.take(["key:here"], (100,), 1 << 20, 60.0, is_dead)
    other.kill()
    with box.database.transaction() as tables:
        after = tables.take(["key:here"], (100,), 1 << 20, 60.0, is_dead)

    assert (ids(before), ids(after)) == ([], ["a", "b"])


def _user_of(_: Other, box: Box) -> str:
    (user,) = {path.name for path in files(box.database.directory.path, "process-*")} - {box.database.directory.user}
    return user


def test_a_file_of_every_version_is_read(tmp_path: Path) -> None:
    """An upgrade sends what waits byte for byte; add a file here with every new version."""
    assert [path.stem for path in files(VERSIONS)] == [f"{number:04}" for number in range(1, SCHEMA_VERSION + 1)]
    for version in files(VERSIONS):
        place = tmp_path / version.stem
        place.mkdir(mode=0o700)
        shutil.copy(version, place / "outbox-00000000.sqlite3")
        box = Box(place)

        counts = box.counts
        (letter,) = box.dead()
        (waiting,) = box.take("key:here").events

        assert counts == Counts(delivered=1, pending=1, dead=1, size=103)
        assert (letter.transaction_id, letter.reason) == ("dead", "422 no")
        assert waiting.body == b'{"user_id":"u","event":"e","transaction_id":"waits"}'
        assert box.database.directory.set_aside() == []
        box.database.close()


def test_an_older_version_is_migrated_and_a_newer_one_refused_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F79: neither is set aside. A process of the older version that runs meanwhile learns it with its next put."""
    box = Box(tmp_path / "outbox")
    box.put("a")
    monkeypatch.setattr(database_module, "_MIGRATIONS", tmp_path / "migrations")
    shutil.copytree(Path(database_module.__file__).parent / "migrations", tmp_path / "migrations")
    (tmp_path / "migrations" / f"{SCHEMA_VERSION + 1:04}.sql").write_text("ALTER TABLE events ADD COLUMN more TEXT")
    monkeypatch.setattr(database_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    newer = Database(Directory(tmp_path / "outbox"))
    with newer.transaction() as tables:
        tables.connection.execute("UPDATE events SET more = 'x'")
    newer.close()
    monkeypatch.undo()

    for _ in range(2):  # the one that has it open, and one that opens it
        with pytest.raises(PerkamoOutboxStorageError, match="newer perkamo") as caught:
            box.put("b")

    assert not caught.value.retryable
    assert len(files(tmp_path / "outbox", "*.sqlite3")) == 1
    assert box.database.directory.set_aside() == []


def test_a_full_disk_is_a_typed_error_and_passes(box: Box) -> None:
    """F72: SQLITE_FULL keeps nothing of the call, and the outbox works again when there is space."""
    box.put("a")
    with box.database.transaction() as tables:
        pages = tables.connection.execute("PRAGMA page_count").fetchone()[0]
        tables.connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(PerkamoOutboxFullError):
        box.put("b", body=b"x" * 100_000)
    with box.database.transaction() as tables:
        tables.connection.execute("PRAGMA max_page_count = 1000000")
    box.put("b", body=b"x" * 100_000)

    assert box.waiting() == ["a", "b"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from perkamo.outbox.errors import PerkamoOutboxFullError
from tests.outbox.sqlite.box import Box
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
box = Box(Path(sys.argv[1]))
box.put("a")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    box.put("b", body=b"x" * 1_000_000)
except PerkamoOutboxFullError:
    print("full")
box.put("c")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
box.put("b", body=b"x" * 1_000_000)
print(box.waiting())
"""


def test_a_write_that_the_system_refuses_is_a_typed_error_and_passes(tmp_path: Path) -> None:
    """F72: a write error below SQLite (here a limit on file size) is full, not broken, and nothing is lost."""
    root = Path(__file__).parent.parent.parent.parent
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "outbox"), str(root)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    assert done.stdout.splitlines() == ["full", "['a', 'c', 'b']"], done.stderr


def test_pages_are_given_back_after_a_flood(box: Box, tmp_path: Path) -> None:
    """A day's outage must not leave gigabytes of empty file behind."""
    for start_at in range(0, 500, 100):
        box.put(*map(str, range(start_at, start_at + 100)), body=b"x" * 20_000)
    before = file(tmp_path / "outbox").stat().st_size

    while (lease := box.take()).events:
        box.deliver(lease)

    assert before > 5_000_000
    assert file(tmp_path / "outbox").stat().st_size < 3_000_000
    assert box.waiting() == []


FORKING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.outbox.sqlite.box import Box
box = Box(Path(sys.argv[1]))
box.put("before")
box.take(seconds=600.0)
child = os.fork()
if child == 0:
    if sys.argv[3] == "puts":
        box.put("in the child")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
box.put("after")
grandchild = os.fork()
if grandchild == 0:
    if os.fork() == 0:
        box.put("in a grandchild")
        os._exit(0)
    os.wait()
    os._exit(0)
assert os.waitpid(grandchild, 0)[1] == 0
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("child", ["puts", "does nothing"])
def test_a_forked_child_uses_the_outbox_as_another_process_does(child: str, tmp_path: Path) -> None:
    """Pitfall 9: with a connection of its own; catches a child that closes, damages or locks what is its parent's."""
    root = Path(__file__).parent.parent.parent.parent
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]

    done = subprocess.run(
        [*command, str(tmp_path / "outbox"), str(root), child],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    box = Box(tmp_path / "outbox")
    waiting = box.waiting()
    box.database.close()

    expected = ["before", *(["in the child"] if child == "puts" else []), "after", "in a grandchild"]
    assert (waiting, done.returncode) == (expected, -9), done.stderr
    assert box.counts.missing == 0
    box.database.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not list what is open")
def test_an_open_that_fails_leaves_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its error is kept; catches a process whose next try takes its own connection for another's."""
    path = tmp_path / "outbox"
    box = Box(path)
    box.put("a")
    box.database.close()
    monkeypatch.delattr(Tables, "release")

    with pytest.raises(AttributeError) as kept:
        Box(path).put("b")

    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in opened if name.startswith(str(path)) and "sqlite3" in name] == []
    assert "release" in str(kept.value)
