"""portal: how processes end that used it."""

import signal

import pytest

from tests.processes.lines import Echo
from tests.processes.script import finish, run, start

PROGRAM = "from tests.processes.portal_programs import main; main()"

LINGER = 5.0
"""Seconds; a process ends within 1 s of its own end on a quiet machine. A call under way takes 60."""

CODES = {"return": 0, "sys.exit": 3, "exception": 1, "SIGTERM": -signal.SIGTERM, "os._exit": 4}


@pytest.mark.sample(2)
@pytest.mark.parametrize("state", ["idle", "held by the server", "refusing to end"])
@pytest.mark.parametrize("ending", CODES)
def test_a_process_ends_at_its_end(ending: str, state: str, echo: Echo, port: str) -> None:
    """Neither the loop nor a call under way delays the end or leaves a word; catches a thread that is waited for."""
    process = start(PROGRAM, ["exits", ending, state, port], ["-X", "dev", "-W", "error"])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if state == "held by the server":
        echo.wait_until(held=1, let_go=0)
    if ending == "SIGTERM":
        process.send_signal(signal.SIGTERM)

    ended = finish(process)

    assert ended.code == CODES[ending]
    assert ended.after_end < LINGER
    assert ended.err.splitlines()[-1:] == (["RuntimeError: on purpose"] if ending == "exception" else [])
    assert not any(word in ended.err for word in ("Task was", "ResourceWarning", "ignored"))


IN_LOOP = {"perkamo-portal", "1,2"}
TOO_LATE = {"MainThread", "PerkamoClosedError, not_sent"}
"""What a call and an iteration say where the loop runs, and where it ended or can't start any more."""


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("warm", [IN_LOOP]),
        ("registered before", [TOO_LATE]),
        ("cold", [IN_LOOP, TOO_LATE]),  # it depends on the version of Python
    ],
)
def test_a_call_from_an_exit_handler_works(when: str, said: list[set[str]]) -> None:
    """With or without the loop's thread; what needs it says that it is too late; catches a hang, and a bare error."""
    first = "import atexit; atexit.register(lambda: call_in_handler())" if when == "registered before" else ""

    ended = run(f"{first}\nfrom tests.processes.portal_programs import call_in_handler, main; main()", "at_exit", when)

    assert (ended.code, ended.err) == (0, "")
    assert set(ended.out.splitlines()) - {"END"} in said
    assert ended.after_end < LINGER


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_a_thread_may_call_after_the_main_thread_ended(state: str) -> None:
    """The loop lives as long as threads that the interpreter waits for; catches one that ends with the main thread."""
    ended = run(PROGRAM, "late_caller", state)

    assert (ended.code, ended.err) == (0, "")
    assert ended.out in {"perkamo-portal\nEND\n", "of the caller\nEND\n" if state == "cold" else ""}
    assert ended.after_end < LINGER
