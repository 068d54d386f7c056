"""portal: Ctrl-C while a call is under way."""

import signal
import time

from tests.processes.lines import Echo
from tests.processes.script import finish, start

TIMES = 5


def test_ctrl_c_ends_the_call_and_its_connection_and_the_next_call_works(echo: Echo, port: str) -> None:
    """SIGINT raises KeyboardInterrupt within half a second and the server sees the end; catches a call that runs on."""
    program = "from tests.processes.portal_programs import main; main()"
    took: list[float] = []

    process = start(program, ["interrupted", port, str(TIMES)], ["-X", "dev", "-W", "error"])
    assert process.stdout is not None
    for n in range(1, TIMES + 1):
        echo.wait_until(held=n, let_go=n - 1)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        took.append(float(process.stdout.readline()) - sent)
    echo.wait_until(held=TIMES, let_go=TIMES)
    ended = finish(process)

    assert (ended.code, ended.out) == (0, "END\n"), ended.err
    assert min(took) < 0.5, took  # below 0.05 on a quiet machine
