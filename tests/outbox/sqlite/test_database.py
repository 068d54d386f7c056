"""The one database of an outbox: how it is opened, what several processes see of it, and what happens to its files."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perkamo.outbox.directory import Directory
from perkamo.outbox.errors import (
    PerkamoOutboxCorruptError,
    PerkamoOutboxError,
    PerkamoOutboxFullError,
    PerkamoOutboxStorageError,
)
from perkamo.outbox.record import Counts
from perkamo.outbox.sqlite import database as database_module
from perkamo.outbox.sqlite.database import SCHEMA_VERSION, Database
from tests.outbox.sqlite.box import Box, ids

VERSIONS = Path(__file__).with_name("versions")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An empty outbox."""
    box = Box(tmp_path / "outbox")
    yield box
    box.database.close()


def files(path: Path, pattern: str = "*") -> list[Path]:
    """Return the files of an outbox."""
    return sorted(path.glob(pattern))


def file(path: Path, pattern: str = "*.sqlite3") -> Path:
    """Return the one file of this name."""
    (found,) = files(path, pattern)
    return found


PUTTER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.outbox.sqlite.box import Box
box = Box(Path(sys.argv[2]))
for line in sys.stdin:
    words = line.split()
    if words[0] == "put":
        box.put(*words[1:])
    elif words[0] == "close":
        box.database.close()
    elif words[0] == "look":
        box.database.has_changed()
    elif words[0] == "waiting":
        print(*box.waiting(), flush=True)
        continue
    print("done", flush=True)
"""


class Other:
    """Another process that uses the same outbox."""

    def __init__(self, path: Path) -> None:
        root = Path(__file__).parent.parent.parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUTTER, str(root), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str) -> str:
        """Let it do something, and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Other]]:
    """Start other processes, and leave none behind."""
    others: list[Other] = []

    def start() -> Other:
        others.append(Other(tmp_path / "outbox"))
        return others[-1]

    yield start
    for other in others:
        other.kill()


def test_commits_are_durable(box: Box) -> None:
    """Pitfall 7: WAL and synchronous=FULL, on every connection."""
    box.put("a")

    with box.database.transaction() as tables:
        settings = [
            tables.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
        ]

    assert settings == [2, "wal"]


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


# What something outside does to the files while nobody runs


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
    "log overwritten": lambda path: _overwrite_middle(file(path, "*-wal")),
    "something else in its place": lambda path: file(path).write_text("hello" * 1000),
    "another database in its place": lambda path: _replace(file(path)),
}


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


# What something outside does to the files while processes run

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


# Versions


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


# Disks


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


# Forks


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
