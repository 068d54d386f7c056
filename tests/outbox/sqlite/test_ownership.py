"""Who owns which file: real locks, real processes, real kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perkamo.outbox.errors import PerkamoOutboxStorageError
from perkamo.outbox.sqlite.ownership import Claim, Counts, SpoolDirectory
from perkamo.outbox.sqlite.storage import check_file_system

HOLDER = """
import sys, time
from perkamo.outbox.sqlite.ownership import SpoolDirectory
claim = SpoolDirectory(sys.argv[1]).claim(0)
print("held" if claim else "refused", flush=True)
sys.stdin.read()
"""


def claimed(directory: SpoolDirectory, slot: int) -> Claim:
    """Claim a slot that must be free."""
    claim = directory.claim(slot)
    assert claim is not None
    return claim


def start_holder(path: Path) -> "subprocess.Popen[str]":
    """Start a process that tries to hold slot 0."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def stop(process: "subprocess.Popen[str]", how: int = signal.SIGKILL) -> str:
    """Kill it once it told what became of the claim."""
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(how)
    process.communicate()
    return line.strip()


def test_a_slot_has_one_owner(tmp_path: Path) -> None:
    """A second claim of the same slot, in this process or another, is refused while the first stands."""
    directory = SpoolDirectory(tmp_path / "box")

    first = claimed(directory, 0)

    assert directory.claim(0) is None
    assert stop(start_holder(tmp_path / "box")) == "refused"
    first.release()
    claimed(directory, 0).release()


def test_a_killed_owner_leaves_its_slot_free_at_once(tmp_path: Path) -> None:
    """No lease and no clock: the kernel frees the lock with the process."""
    directory = SpoolDirectory(tmp_path / "box")

    answer = stop(start_holder(tmp_path / "box"))

    assert answer == "held"
    claimed(directory, 0).release()


RACER = """
import sys
from perkamo.outbox.sqlite.ownership import SpoolDirectory
directory = SpoolDirectory(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
claim = directory.claim(0)
print("won" if claim else "lost", flush=True)
sys.stdin.read()
"""


def test_two_processes_that_adopt_at_the_same_moment_do_not_both_win(tmp_path: Path) -> None:
    """F77: exactly one of the processes that race for a slot gets it, and the others go on."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "box")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()

    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()

    results: list[str] = []
    for racer in racers:
        assert racer.stdout is not None
        results.append(racer.stdout.readline().strip())
    for racer in racers:
        racer.communicate()
    assert sorted(results) == ["lost", "lost", "lost", "won"]


def test_a_forked_child_does_not_keep_a_dead_parents_lock(tmp_path: Path) -> None:
    """Fork shares the lock of an open file; the child must drop it, or nobody adopts what the parent left."""
    script = """
import os, sys
from perkamo.outbox.sqlite.ownership import SpoolDirectory
claim = SpoolDirectory(sys.argv[1]).claim(0)
parent = os.getpid()
if os.fork() == 0:
    os.kill(parent, 9)
    print("killed", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "box")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "killed\n"
    parent.wait()

    claim = SpoolDirectory(tmp_path / "box").claim(0)

    parent.communicate()
    assert claim is not None
    claim.release()


def test_a_removed_lock_file_is_made_again(tmp_path: Path) -> None:
    """A cleaner that unlinks the lock file must not let a second process in for long."""
    directory = SpoolDirectory(tmp_path / "box")
    claim = claimed(directory, 0)
    claim.lock_path.unlink()

    claim.restore()

    assert directory.claim(0) is None
    claim.release()


def test_published_counts_are_read_by_others_and_damage_is_noticed(tmp_path: Path) -> None:
    """A torn or foreign record reads as nothing rather than as wrong numbers."""
    directory = SpoolDirectory(tmp_path / "box")
    claim = claimed(directory, 0)
    counts = Counts(accepted=5, delivered=2, pending=2, dead=1, size=99)

    claim.publish(counts, closed=True)
    published = directory.published(0)
    damaged = bytearray(claim.lock_path.read_bytes())
    damaged[9] ^= 1
    claim.lock_path.write_bytes(damaged)

    assert published is not None
    assert (published.counts, published.closed) == (counts, True)
    assert directory.published(0) is None
    claim.release()


def test_directory_and_lock_files_are_private(tmp_path: Path) -> None:
    """F80: events hold personal data, so nobody else may look in, whatever the umask."""
    (tmp_path / "box").mkdir(mode=0o755)

    directory = SpoolDirectory(tmp_path / "box")
    claim = claimed(directory, 0)

    assert (tmp_path / "box").stat().st_mode & 0o777 == 0o700
    assert claim.lock_path.stat().st_mode & 0o777 == 0o600
    claim.release()


def test_a_path_that_can_not_be_a_directory_is_refused_with_the_reason(tmp_path: Path) -> None:
    """F75: a typed error at the start, not a lost event later."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(PerkamoOutboxStorageError) as caught:
        SpoolDirectory(tmp_path / "file" / "box")

    assert "Not a directory" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self/mountinfo").exists(), reason="needs /proc")
def test_a_read_only_file_system_is_refused() -> None:
    """F75: /proc takes no directories, as a read-only mount takes none."""
    with pytest.raises(PerkamoOutboxStorageError):
        SpoolDirectory("/proc/perkamo-outbox")


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
