"""A fork waits until nobody is inside of what a child must not inherit halfway."""

import os
import subprocess
import sys
import threading
import time

import pytest

from perkamo.runtime.forks import ForkGuard

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def fork_and_wait(child: "object") -> int:
    """Fork; let the child call a function that returns its exit code; return that."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            assert callable(child)
            code = int(child())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_waits_until_nobody_is_inside() -> None:
    """The child finds the work of the other thread done; catches a lock that a child inherits locked."""
    guard = ForkGuard()
    inside = threading.Event()
    done: list[int] = []

    def work() -> None:
        with guard:
            inside.set()
            time.sleep(0.2)
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)

    def child() -> int:
        with guard:
            return len(done)

    assert fork_and_wait(child) == 1
    thread.join(10)


def test_who_holds_the_guard_may_fork() -> None:
    """Its own thread is not waited for; catches a process that locks itself out."""
    guard = ForkGuard()

    with guard:
        code = fork_and_wait(lambda: 7)

    assert code == 7
    with guard:
        pass


def test_what_must_not_be_inherited_is_closed_before_and_begun_anew_after() -> None:
    """The one in the parent, the other in the child, each time."""
    calls: list[str] = []
    guard = ForkGuard(before=lambda: calls.append("before"), in_child=lambda: calls.append("child"))

    code = fork_and_wait(lambda: calls == ["before", "child"])

    assert code == 1
    assert calls == ["before"]
    with guard:
        pass


@pytest.mark.parametrize("forks", [50, pytest.param(400, marks=pytest.mark.release)])
def test_many_forks_beside_busy_threads_leave_no_child_hanging(forks: int) -> None:
    """Every child takes the guard at once; catches one that inherits it locked in one fork of a hundred."""
    script = """
import os, signal, sys, threading
from perkamo.runtime.forks import ForkGuard
guards = [ForkGuard() for _ in range(3)]
stop = False
def work(guard):
    while not stop:
        with guard:
            pass
threads = [threading.Thread(target=work, args=(guard,)) for guard in guards]
for thread in threads:
    thread.start()
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        for guard in guards:
            with guard:
                pass
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(forks)]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50 + forks)

    assert (done.returncode, done.stderr) == (0, "")
