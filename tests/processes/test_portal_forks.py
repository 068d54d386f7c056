"""portal: forked children, of a process whose threads are calling."""

import os
from pathlib import Path

import pytest

from tests.processes.script import run

PROGRAM = "from tests.processes.portal_programs import main; main()"
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")
"""Python 3.12 warns of forking with threads, which is what these tests are about."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.stress
@pytest.mark.parametrize("children", [50, pytest.param(200, marks=pytest.mark.release)])
def test_children_of_a_calling_process_get_their_own_answers(children: int, port: str) -> None:
    """Every child calls over a loop of its own, the parent undisturbed; catches a child that waits forever."""
    ended = run(PROGRAM, "forks", port, str(children), options=STRICT)

    assert (ended.code, ended.out) == (0, f"children {children}, failed 0, parent wrong 0\n"), ended.err
    assert ended.err == ""


def test_a_child_that_no_hook_has_seen_calls(port: str) -> None:
    """The process id tells, where C code forked; catches a call into a loop whose thread is the parent's."""
    ended = run(PROGRAM, "forks_unseen", port, options=STRICT)

    assert (ended.code, ended.out) == (0, "codes [0, 0, 0]\n"), ended.err


def test_an_outbox_that_no_hook_has_seen_forked_is_used_by_parent_and_children(tmp_path: Path) -> None:
    """All is kept, by a thread and a connection of each one's own; catches a put that waits for its parent's thread."""
    ended = run(PROGRAM, "forks_unseen_outbox", str(tmp_path / "outbox"), options=STRICT)

    assert (ended.code, ended.out) == (0, "codes [0, 0], waiting 8\n"), ended.err


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_a_child_takes_no_lock_of_its_parent(state: str, port: str) -> None:
    """A lock that another thread held at the fork is held forever in the child; catches a child that takes it."""
    ended = run(PROGRAM, "forks_with_lock", port, state, options=STRICT)

    assert (ended.code, ended.out) == (0, "codes [0, 0]\n"), ended.err


def test_a_fork_in_the_midst_of_a_call_leaves_the_answer_to_the_parent(port: str) -> None:
    """The child's copy of the call ends in a clear error and its next call works; catches a wait forever."""
    ended = run(PROGRAM, "forks_within_a_call", port, options=STRICT)

    assert sorted(ended.out.splitlines()) == ["PerkamoError, unknown", "codes [0]", "the parent's"], ended.err


def test_a_child_leaves_alone_what_its_parent_entered_and_began() -> None:
    """Only the parent leaves its context manager and closes its iterator; catches a child that ends the parent's."""
    ended = run(PROGRAM, "leaves_in_child", options=STRICT)

    assert ended.out.splitlines() == [
        *["refused in the child, not_sent"] * 2,
        "closed by parent",
        "left by parent",
        "codes [0, 0]",
    ], ended.err


@pytest.mark.stress
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_multiprocessing_call(method: str, port: str) -> None:
    """Pools of every kind work under a warm parent; catches state that does not survive the way to a worker."""
    ended = run(PROGRAM, "multiprocesses", port, method, options=STRICT)

    assert (ended.code, ended.out) == (0, "right 20\n"), ended.err
