"""Promise P2, as far as software can show it: no put is answered before the disk was told to keep it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perkamo.events import Event
from tests.outbox.sqlite.box import Box

PUTS = 1000
PUTTER = """
import os, sys, anyio
from perkamo.outbox.outbox import Outbox
from perkamo.events import Event
async def main():
    ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    outbox = Outbox(sys.argv[1])
    for number in range(%d):
        await outbox.put(Event("u", "e", f"tx-{number}-"))
        os.write(ledger, f"ack {number}".encode())
anyio.run(main)
"""


def traced(path: Path, script: str) -> list[str]:
    """Run a script under strace and return its writes, syncs and acknowledgements, in order."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command = [strace, "-f", "-y", "-qq", "-s", "4096", "-o", str(path / "trace")]
    command += ["-e", "trace=write,pwrite64,fsync,fdatasync", sys.executable, "-c", script]
    done = subprocess.run(
        [*command, str(path / "box"), str(path / "ledger")], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return (path / "trace").read_text(errors="replace").splitlines()


def violations(trace: list[str]) -> tuple[int, int]:
    """Count acknowledgements, and those whose event was not synced to the log since it was written there."""
    unsynced: set[str] = set()
    begun: dict[str, set[str]] = {}
    acknowledged = bad = 0
    for line in trace:
        pid = line.split()[0]
        if "pwrite64(" in line and "-wal>" in line:
            unsynced.update(re.findall(r"tx-(\d+)-", line))
        elif re.search(r"f(data)?sync\(", line) and "-wal>" in line:
            if "<unfinished" in line:
                begun[pid] = set(unsynced)
            elif line.rstrip().endswith("= 0"):
                unsynced.clear()
        elif re.search(r"f(data)?sync resumed", line) and line.rstrip().endswith("= 0"):
            unsynced -= begun.pop(pid, set())
        elif (match := re.search(r'write\(.*"ack (\d+)"', line)) is not None:
            acknowledged += 1
            bad += match[1] in unsynced
    return acknowledged, bad


def test_every_acknowledgement_comes_after_a_sync_of_its_event(tmp_path: Path) -> None:
    """A kill is no power cut: only the order of system calls shows that nothing is acknowledged out of the cache."""
    acknowledged, bad = violations(traced(tmp_path, PUTTER % PUTS))

    assert (acknowledged, bad) == (PUTS, 0)


def test_a_weaker_setting_would_be_noticed(tmp_path: Path) -> None:
    """The planted bug: synchronous=NORMAL acknowledges what only the cache holds, and this test must see it."""
    weaker = (
        "import sqlite3\n"
        "class Weak(sqlite3.Connection):\n"
        "    def execute(self, sql, *args):\n"
        "        weak = {'PRAGMA synchronous = FULL': 'PRAGMA synchronous = NORMAL'}\n"
        "        weak['PRAGMA synchronous'] = 'SELECT 2'\n"
        "        return super().execute(weak.get(sql, sql), *args)\n"
        "connect = sqlite3.connect\n"
        "sqlite3.connect = lambda *args, **options: connect(*args, factory=Weak, **options)\n"
    )

    acknowledged, bad = violations(traced(tmp_path, weaker + PUTTER % 100))

    assert acknowledged == 100
    assert bad > 0


BULKY = """
import os, sys, anyio
from perkamo.outbox.outbox import Outbox
from perkamo.events import Event
async def main():
    ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    outbox = Outbox(sys.argv[1])
    for number in range(100):
        name = f"{sys.argv[3]}-{number}"
        await outbox.put(Event("u", "e", name, {"text": "x" * 100_000}))
        os.write(ledger, f"{name}\\n".encode())
anyio.run(main)
"""


@pytest.mark.stress
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.release)])
def test_a_kill_inside_a_checkpoint_loses_nothing(kills: int, tmp_path: Path) -> None:
    """F76: with a log beside it, the database file is written by checkpoints only; die at the nth of these writes."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    box = Box(tmp_path / "box")
    box.put("first")
    box.database.close()
    (path,) = (tmp_path / "box").glob("*.sqlite3")
    deaths = 0
    for number in range(kills):
        command = [strace, "-f", "-qq", "-o", "/dev/null", "-P", str(path)]
        command += ["-e", f"inject=pwrite64:signal=SIGKILL:when={8 + number * 11}"]
        command += [sys.executable, "-c", BULKY, str(tmp_path / "box"), str(tmp_path / "ledger"), str(number)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        if "ptrace" in done.stderr:
            pytest.skip("strace may not trace here")
        deaths += done.returncode != 0

    kept = box.waiting()
    counts, set_aside = box.counts, box.database.directory.set_aside()
    box.database.close()
    acknowledged = (tmp_path / "ledger").read_text().split()
    assert deaths == kills
    assert len(acknowledged) >= kills
    assert {"first", *acknowledged} <= set(kept)
    assert (counts.accepted, counts.missing, set_aside) == (len(kept), 0, [])


FAILING = """
import sys, anyio
from perkamo import Event, Outbox, PerkamoOutboxError
async def main():
    outbox = Outbox(sys.argv[1])
    for number in range(100):
        try:
            await outbox.put(Event("u", "e", f"tx-{number}"))
        except PerkamoOutboxError as error:
            print(number, error.outcome, error.retryable, "not known" in str(error))
    await outbox.aclose()
anyio.run(main)
"""


def test_after_a_failed_sync_nobody_knows_whether_the_event_was_kept(tmp_path: Path) -> None:
    """The put says so, the next one works, and putting the event again keeps it once."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    command += ["-e", "inject=fdatasync:error=EIO:when=30+20", sys.executable, "-c", FAILING, str(tmp_path / "box")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")

    told = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    box = Box(tmp_path / "box")
    kept = box.waiting()
    for number, _ in told:
        body = Event("u", "e", f"tx-{number}").to_bytes()
        if f"tx-{number}" not in kept:
            box.put(f"tx-{number}", body=body)
    waiting = box.waiting()
    box.database.close()
    assert done.returncode == 0, done.stderr
    assert len(told) >= 2
    assert {rest for _, rest in told} == {"unknown True True"}
    assert sorted(waiting) == sorted(f"tx-{number}" for number in range(100))
