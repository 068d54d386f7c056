"""Why the way into the loop is our own: what anyio's portal does there. Where one of these is red, the reason is gone.

See ``perkamo/sync/loop_thread.py``. They are tests of anyio as it is installed, so they are for releases only.
"""

import ctypes
import os
import signal
import threading
import time
from contextlib import suppress

import anyio
import anyio.from_thread
import pytest

from tests.processes.script import run

pytestmark = pytest.mark.release


async def nothing() -> None:
    """Return at once."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forking is POSIX's")
def test_a_forked_child_waits_for_ever() -> None:
    """The loop's thread is its parent's, and the wait has no end; ours raises."""
    with anyio.from_thread.start_blocking_portal() as portal:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2)
            portal.call(nothing)
            os._exit(0)
        _, status = os.waitpid(child, 0)

    assert os.WTERMSIG(status) == signal.SIGALRM


def test_an_exception_that_is_set_on_the_thread_goes_unnoticed() -> None:
    """As by Celery's and Django's limits of time; ours notices within 40 ms."""
    ended = threading.Event()
    with anyio.from_thread.start_blocking_portal() as portal:
        release = portal.call(anyio.Event)

        def call() -> None:
            with suppress(SystemExit):
                portal.call(release.wait)
            ended.set()

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.2)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        was_noticed = ended.wait(1)
        portal.call(release.set)
        thread.join()

    assert not was_noticed


def test_to_start_a_task_waits_for_a_loop_that_is_busy() -> None:
    """So may no finalizer, for which that loop may be waiting; ours returns at once."""
    busy, go_on = threading.Event(), threading.Event()

    async def work() -> None:
        busy.set()
        go_on.wait(20)

    with anyio.from_thread.start_blocking_portal() as portal:
        portal.start_task_soon(work)
        assert busy.wait(20)
        starting = threading.Thread(target=portal.start_task_soon, args=(nothing,))
        starting.start()
        starting.join(0.5)
        was_waiting = starting.is_alive()
        go_on.set()
        starting.join()

    assert was_waiting


GEVENT = """
import threading
import anyio, anyio.from_thread

opened = threading.Event()

async def serve():
    global portal
    async with anyio.from_thread.BlockingPortal() as portal:
        opened.set()
        await portal.sleep_until_stopped()

threading.Thread(target=anyio.run, args=(serve,), daemon=True).start()
opened.wait()

from gevent import monkey
monkey.patch_all()

try:
    portal.call(anyio.sleep_forever)
except BaseException as error:
    print(type(error).__name__)
"""


def test_gevent_finds_that_its_waits_block_for_ever() -> None:
    """It gives up where only another thread could end the wait; ours has a limit each time."""
    pytest.importorskip("gevent")

    ended = run(GEVENT, options=("-W", "ignore:Monkey-patching:Warning"))

    assert ended.out == "LoopExit\n"
