"""Locks on files: real processes, real kills."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perkamo.runtime.file_locks import HAS_FILE_LOCKS, FileLock, is_free

pytestmark = pytest.mark.skipif(not HAS_FILE_LOCKS, reason="this system has no such locks")

HOLDER = """
import os, sys
from pathlib import Path
from perkamo.runtime.file_locks import FileLock
lock = FileLock(Path(sys.argv[1]), lambda path: os.open(path, os.O_RDWR | os.O_CREAT), 20.0)
with lock:
    print("held", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
sys.stdin.readline()
"""


def file_lock(path: Path, patience: float = 0.05) -> FileLock:
    """Return a lock on a file."""
    return FileLock(path, lambda path: os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), patience)


def start(path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a process."""
    process.kill()
    process.communicate()


def test_one_process_holds_it_at_a_time(tmp_path: Path) -> None:
    """Another waits for as long as it was told, and gets it once it is let go."""
    process = start(tmp_path / "lock")
    lock = file_lock(tmp_path / "lock")

    with pytest.raises(TimeoutError), lock:
        pass
    assert not is_free(tmp_path / "lock")
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    with file_lock(tmp_path / "lock", patience=10.0):
        pass

    end(process)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_frees_the_lock_of_the_dead(tmp_path: Path, how: signal.Signals) -> None:
    """No lease and no clock: it is free with the process."""
    process = start(tmp_path / "lock")

    process.send_signal(how)
    process.wait()

    assert is_free(tmp_path / "lock")
    with file_lock(tmp_path / "lock"):
        pass
    end(process)


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    """Whoever comes later locks the file under the name; catches two who hold two locks at once."""
    lock, other = file_lock(tmp_path / "lock"), file_lock(tmp_path / "lock")
    with lock:
        pass
    (tmp_path / "lock").unlink()

    with other, pytest.raises(TimeoutError), lock:
        pass


def test_a_lock_whose_file_was_replaced_is_that_of_the_new_file(tmp_path: Path) -> None:
    """A restored copy has another inode under the same name."""
    lock, other = file_lock(tmp_path / "lock"), file_lock(tmp_path / "lock")
    with lock:
        lock.write(b"old")
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").write_bytes(b"new")

    with lock:
        assert lock.read() == b"new"
        with pytest.raises(TimeoutError), other:
            pass


def test_the_file_keeps_what_was_written_into_it(tmp_path: Path) -> None:
    """Over the end of the process that wrote it."""
    with file_lock(tmp_path / "lock") as _, file_lock(tmp_path / "other"):
        pass
    lock = file_lock(tmp_path / "lock")
    with lock:
        lock.write(b"some bytes")
    lock.forget()

    with lock:
        assert lock.read() == b"some bytes"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_that_forgets_leaves_the_parents_lock_alone(tmp_path: Path) -> None:
    """Closing an inherited file does not unlock it; catches a child that frees what its parent holds."""
    lock = file_lock(tmp_path / "lock")

    def in_child(check: Callable[[], bool]) -> bool:
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                lock.forget()
                code = int(check())
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

    with lock:
        held_in_child = in_child(lambda: not is_free(tmp_path / "lock"))
        assert not is_free(tmp_path / "lock")
    assert held_in_child
    assert is_free(tmp_path / "lock")


def test_what_is_not_there_is_not_free(tmp_path: Path) -> None:
    """Nobody can tell whether its holder lives: whoever asks must wait for the lease to end."""
    assert not is_free(tmp_path / "never made")
