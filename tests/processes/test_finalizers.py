"""A user's finalizer that makes a sync call, which the collector runs in the middle of anything: an answer or an error.

Where it runs is not left to the collector's moment: each program collects at a named point.
"""

from pathlib import Path

from perkamo.sandbox import Sandbox
from tests.processes.script import run

BUFFER = """
import gc, sys, tempfile, threading
import anyio
from perkamo import Event, PerkamoClient, PerkamoError, SyncOutbox

class Buffer:
    def __init__(self, flush):
        self.itself = self  # only the collector finds it
        self.flush = flush

    def __del__(self, PerkamoError=PerkamoError):
        try:
            print("finalizer", self.flush())
        except PerkamoError as error:
            print(type(error).__name__, error.outcome)

gc.disable()
"""

STARTING = (
    BUFFER
    + """
client = PerkamoClient(sys.argv[2], base_url=sys.argv[1], timeout=20)
begin = anyio.run

def run(*arguments, **options):
    if threading.current_thread() is not threading.main_thread():
        gc.collect()
    return begin(*arguments, **options)

anyio.run = run
Buffer(lambda: client.emit("ada", "purchase.completed").accepted)
print(client.emit("ada", "purchase.completed").accepted)
client.close()
"""
)


def test_a_call_in_the_loop_s_thread_before_there_is_a_loop_fails_at_once(sandbox: Sandbox) -> None:
    """And the first call goes on; catches a thread that waits for itself, and everybody with it."""
    ended = run(STARTING, sandbox.base_url, sandbox.api_key, options=())

    assert (ended.code, ended.out, ended.err) == (0, "PerkamoError not_sent\nTrue\n", "")


IMPORTING = (
    BUFFER
    + """
from perkamo.sync import loop_thread

loop_thread._STARTING = 1.0
client = PerkamoClient(sys.argv[2], base_url=sys.argv[1], timeout=20)
Buffer(lambda: client.emit("ada", "purchase.completed").accepted)

import importlib.abc, importlib.util

class Loader(importlib.abc.Loader):
    def __init__(self, inner):
        self.inner = inner

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        gc.collect()
        self.inner.exec_module(module)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "anyio._backends._asyncio":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader)
        return spec

sys.meta_path.insert(0, Finder())
import anyio._backends._asyncio
print(client.emit("ada", "purchase.completed").accepted)
client.close()
"""
)


def test_a_call_that_keeps_its_own_loop_from_starting_ends(sandbox: Sandbox) -> None:
    """Where it interrupts the import of what the loop needs; catches a wait without an end."""
    ended = run(IMPORTING, sandbox.base_url, sandbox.api_key, options=())

    assert (ended.code, ended.out, ended.err) == (0, "PerkamoError not_sent\nTrue\n", "")


WRITING = (
    BUFFER
    + """
from perkamo.outbox.sqlite.tables import Tables

put = Tables.put

def collect_and_put(*arguments):
    gc.collect()
    put(*arguments)

Tables.put = collect_and_put
outbox = SyncOutbox(sys.argv[1])
Buffer(lambda: outbox.put(Event("ada", "purchase.completed", "of the finalizer")))
Buffer(outbox.close)
outbox.put(Event("ada", "purchase.completed", "first"))
outbox.put(Event("ada", "purchase.completed", "second"))
print(outbox.stats().pending)
outbox.close()
"""
)


def test_a_put_in_the_outbox_s_own_thread_fails_at_once(tmp_path: Path) -> None:
    """And others' puts go on; catches a writer that waits for itself, and an outbox that is dead from then on."""
    ended = run(WRITING, str(tmp_path / "outbox"), options=())

    assert (ended.code, ended.out, ended.err) == (0, "PerkamoOutboxError not_sent\n" * 2 + "2\n", "")


TORN_DOWN = (
    BUFFER
    + """
client = PerkamoClient(sys.argv[2], base_url=sys.argv[1], timeout=20)
if sys.argv[3] == "used":
    client.emit("ada", "purchase.completed")
outbox = SyncOutbox(sys.argv[4])
outbox.put(Event("ada", "purchase.completed", "before"))
buffers = [
    Buffer(lambda client=client: client.emit("ada", "purchase.completed").accepted),
    Buffer(lambda outbox=outbox, event=Event("ada", "purchase.completed", "late"): outbox.put(event)),
]
for buffer in buffers:
    buffer.itself = None
del buffer
"""
)


def test_a_call_when_modules_are_torn_down_fails_as_one_at_exit(sandbox: Sandbox, tmp_path: Path) -> None:
    """A client's, used or not, and an outbox's; catches an ImportError, and a wait for a thread that never runs."""
    for before in ("used", "not used"):
        ended = run(TORN_DOWN, sandbox.base_url, sandbox.api_key, before, str(tmp_path / before), options=())

        assert (ended.code, ended.out, ended.err) == (0, "PerkamoClosedError not_sent\n" * 2, ""), before
