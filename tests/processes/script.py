"""Runs Python code in a process of its own, against a service that the test holds."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

ROOT = str(Path(__file__).resolve().parents[2])


@frozen
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; negative for a signal.
        out: What it printed.
        err: What it complained about. Python's dev mode remarks on each slow step of a loop; a slow machine is no news.
        after_end: Seconds from the line ``END`` that it printed last to its end.
    """

    code: int
    out: str
    err: str
    after_end: float


def start(
    code: str, arguments: Sequence[str] = (), options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start Python code in a process of its own; its first line should be waited for."""
    return subprocess.Popen(
        [sys.executable, "-u", *options, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": ROOT, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", seconds: float = 60) -> Ended:
    """Wait for the end; a process that prints ``END`` says so when its own work is done."""
    assert process.stdout is not None
    lines: list[str] = []
    said = time.monotonic()
    hung = threading.Event()

    def kill() -> None:
        hung.set()
        os.killpg(process.pid, signal.SIGKILL)  # its children, too: they hold its output open

    timer = threading.Timer(seconds, kill)
    timer.start()
    for line in process.stdout:
        lines.append(line)
        said = time.monotonic()
    _, err = process.communicate()
    ended = time.monotonic()
    timer.cancel()
    assert not hung.is_set(), f"the process hangs: {''.join(lines)}{err}"
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("Executing <"))
    return Ended(process.returncode, "".join(lines), err, ended - said)


def run(code: str, *arguments: str, options: Sequence[str] = ("-X", "dev", "-W", "error")) -> Ended:
    """Run Python code to its end."""
    return finish(start(code, arguments, options))
