"""Which directories an outbox takes, and what it does to them: real modes, owners and file systems."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perkamo.outbox.directory import Directory, copy_outbox, holds_outbox
from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.file_system import check_file_system
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.sqlite.database import Database
from tests.outbox.sqlite.box import Box

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000], ids=oct)
def _umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_directory_and_files_are_private(tmp_path: Path) -> None:
    """F80: events hold personal data, so nobody else may look in, whatever the umask."""
    box = Box(tmp_path / "parent" / "box")
    box.put("a")

    modes = {path.name: mode(path) for path in box.database.directory.path.iterdir()}
    box.database.close()

    assert mode(tmp_path / "parent" / "box") == 0o700
    assert len(modes) == 5
    assert set(modes.values()) == {0o600}


@pytest.mark.usefixtures("_umask")
def test_the_group_may_read_where_that_was_asked_for(tmp_path: Path) -> None:
    """For a process beside this one; nobody else may, and the group may not write."""
    directory = Directory(tmp_path / "box", group_readable=True)
    with directory.lock:
        pass

    again = Directory(tmp_path / "box", group_readable=True)

    assert mode(again.path) == 0o750
    assert mode(again.path / "outbox.lock") == 0o640
    with pytest.raises(PerkamoOutboxStorageError, match="chmod 700"):
        Directory(tmp_path / "box")


@pytest.mark.parametrize("open_mode", [0o755, 0o1777, 0o770, 0o750, 0o701])
def test_an_open_directory_is_refused_with_the_remedy_and_left_as_it_is(tmp_path: Path, open_mode: int) -> None:
    """Only what the outbox made is its own; catches /tmp and /var/www that nobody can enter any more."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(open_mode)

    with pytest.raises(PerkamoOutboxStorageError) as caught:
        Outbox(place)

    assert "chmod 700" in str(caught.value)
    assert "does not exist yet" in str(caught.value)
    assert (mode(place), list(place.iterdir())) == (open_mode, [])
    place.chmod(0o700)
    Outbox(place)


def test_a_directory_with_files_of_something_else_is_refused(tmp_path: Path) -> None:
    """Whatever its mode; a subdirectory of it is the remedy."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    (place / "index.html").write_text("x")

    with pytest.raises(PerkamoOutboxStorageError, match="'outbox' within it"):
        Outbox(place)

    assert [path.name for path in place.iterdir()] == ["index.html"]
    Outbox(place / "outbox")


def test_further_files_do_not_shut_out_an_outbox_that_is_there(tmp_path: Path) -> None:
    """An operator's notes beside the database; nor does what mkfs makes at the root of a file system."""
    box = Box(tmp_path / "box")
    box.put("a")
    box.database.close()
    (tmp_path / "box" / "notes.txt").write_text("x")
    (tmp_path / "volume").mkdir(mode=0o700)
    (tmp_path / "volume" / "lost+found").mkdir()

    again = Box(tmp_path / "box")
    Outbox(tmp_path / "volume")

    assert again.waiting() == ["a"]
    again.database.close()


def test_looking_for_an_outbox_touches_nothing(tmp_path: Path) -> None:
    """Neither in an empty place nor in an outbox."""
    box = Box(tmp_path / "box")
    box.put("a")
    box.database.close()
    names = sorted(path.name for path in (tmp_path / "box").iterdir())
    (tmp_path / "place").mkdir()

    assert holds_outbox(tmp_path / "box")
    assert not holds_outbox(tmp_path / "place")
    assert not holds_outbox(tmp_path / "nowhere")
    assert sorted(path.name for path in (tmp_path / "box").iterdir()) == names
    assert list((tmp_path / "place").iterdir()) == []


def test_a_path_that_can_not_be_a_directory_is_refused_with_the_reason(tmp_path: Path) -> None:
    """F75: a typed error at the start, not a lost event later."""
    (tmp_path / "file").write_text("x")

    for path in (tmp_path / "file", tmp_path / "file" / "box"):
        with pytest.raises(PerkamoOutboxStorageError, match=r"[Nn]ot a directory"):
            Directory(path)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs /proc")
def test_a_read_only_file_system_is_refused() -> None:
    """F75: /proc takes no directories, as a read-only mount takes none."""
    with pytest.raises(PerkamoOutboxStorageError):
        Directory("/proc/perkamo-outbox")


@pytest.fixture
def everybodys_path() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


AS_ROOT = """
import anyio, sys
from perkamo import Event, Outbox
async def main():
    async with Outbox(sys.argv[1]) as outbox:
        await outbox.put(Event("u", "e", sys.argv[2]))
anyio.run(main)
"""
AS_USER = """
import anyio, os, sys, tempfile
from perkamo import Event, Outbox
async def put(directory):
    async with Outbox(directory) as outbox:
        await outbox.put(Event("u", "e", sys.argv[2]))
        return (await outbox.stats()).pending
with tempfile.TemporaryDirectory() as elsewhere:
    anyio.run(put, elsewhere)  # loads all modules, which the user may not be allowed to read
os.setgid(12345)
os.setuid(12345)
print(anyio.run(put, sys.argv[1]))
"""


AS_GROUP = """
import anyio, os, sys, tempfile
from perkamo import Event, Outbox, PerkamoOutboxError
async def use(directory):
    async with Outbox(directory, group_readable=True) as outbox:
        try:
            await outbox.put(Event("u", "e", "t"))
        except PerkamoOutboxError as error:
            print(error.retryable)
        stats = await outbox.stats()
        print(stats.pending, stats.files, stats.spaces != ())
with tempfile.TemporaryDirectory() as elsewhere:
    anyio.run(use, elsewhere + "/box")  # loads all modules, which the user may not be allowed to read
os.setgroups([])
os.setgid(12345)
os.setuid(54321)
anyio.run(use, sys.argv[1])
"""


@as_root
def test_the_group_sees_the_counts_and_changes_nothing(everybodys_path: Path) -> None:
    """Beside the process that puts it asks for the counts; catches a mode that lets it in and an API that does not."""
    place = everybodys_path / "box"
    box = Directory(place, group_readable=True)
    os.chown(place, 12345, 12345)
    database = Database(box)
    with database.transaction() as tables:
        tables.put("a", "key:here", b"{}", 1000)
    before = sorted(path.name for path in place.iterdir())

    command = [sys.executable, "-c", AS_GROUP, str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    after = sorted(path.name for path in place.iterdir())
    database.close()

    assert done.stdout.split() == ["1", "1", "True", "False", "1", "1", "False"], done.stderr
    assert after == before


@as_root
def test_files_get_the_owner_of_the_directory(everybodys_path: Path) -> None:
    """After one 'sudo perkamo outbox relay' the application goes on; catches a lock file that is root's."""
    place = everybodys_path / "box"
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)

    def run(script: str, *words: str) -> str:
        command = [sys.executable, "-c", script, str(place), *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(AS_ROOT, "from root")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in place.iterdir()}
    first = run(AS_USER, "from the user")
    run(AS_ROOT, "from root again")
    second = run(AS_USER, "from the user again")

    assert owners == {(12345, 12345)}
    assert (first, second) == ("2\n", "4\n")


def test_a_copy_waits_for_whoever_uses_the_outbox(tmp_path: Path) -> None:
    """Expect it to be made only while nobody writes, with the log; catches one that is torn by a relay meanwhile."""
    place, target = tmp_path / "box", tmp_path / "copy"
    box = Box(place)
    box.put("a")
    with Directory(place).lock, pytest.raises(TimeoutError):
        copy_outbox(place, tmp_path / "torn", patience=0.01)

    copy_outbox(place, target)

    assert not list((tmp_path / "torn").iterdir())
    assert mode(target) == 0o700
    assert sorted(path.name for path in target.iterdir()) == sorted(
        path.name for path in place.iterdir() if path.name.endswith((".sqlite3", "-wal"))
    )


MOUNTS = """\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 25 0:26 / /run rw,nosuid - tmpfs tmpfs rw
40 25 0:50 / /mnt/share rw,relatime - nfs4 server:/export rw
41 40 254:1 / /mnt/share/local rw,relatime - ext4 /dev/vdb rw
42 25 0:51 / /mnt/with\\040space rw - cifs //server/share rw
"""


@pytest.mark.parametrize("path", ["/mnt/share", "/mnt/share/a/b", "/mnt/with space/box"])
def test_network_file_systems_are_refused(path: str) -> None:
    """F75: locks and syncs of a network file system promise nothing."""
    with pytest.raises(PerkamoOutboxStorageError) as caught:
        check_file_system(Path(path), MOUNTS)

    assert "network file system" in str(caught.value)


@pytest.mark.parametrize("path", ["/var/lib/box", "/mnt/share/local/box", "/mnt/shared"])
def test_local_file_systems_pass_without_a_word(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The innermost mount decides, by whole path components."""
    check_file_system(Path(path), MOUNTS)

    assert caplog.records == []


def test_a_file_system_in_memory_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Pitfall 20: what is kept on tmpfs is gone after a reboot; say so at the start."""
    check_file_system(Path("/run/box"), MOUNTS)

    assert "tmpfs" in caplog.text
