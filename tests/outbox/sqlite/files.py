"""The files of an outbox in these tests, and another process that uses them."""

import subprocess
import sys
from pathlib import Path


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
