"""sync_client in a process whose threads gevent has replaced by greenlets, with the real gevent and gunicorn."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox
from tests.faults.rawserver import Connection, RawServer, answer
from tests.processes.script import ROOT, run

pytest.importorskip("gevent")

STRICT = ("-W", "error", "-W", "ignore:Monkey-patching:Warning")
"""gevent warns of patching after ssl was imported, which is what one of these tests is about."""


def echo(connection: Connection) -> None:
    """Answer each request with the customer that it asks for."""
    while (request := connection.read_request()) is not None:
        connection.send(answer(b'{"user_id":"%s"}' % request.line.split()[1].rsplit("/", 1)[-1].encode()))


PRELOADED = """
import sys
from perkamo import PerkamoClient
client = PerkamoClient("sk_test", base_url=sys.argv[1], timeout=20)
if sys.argv[2] == "called before":
    client.customer("before")
from gevent import monkey
monkey.patch_all()
import gevent

for number in range(3):
    names = [f"{number}-{n}" for n in range(8)]
    jobs = [gevent.spawn(client.customer, name) for name in names]
    gevent.joinall(jobs)
    print([job.get().user_id for job in jobs] == names)
client.close()
"""


@pytest.mark.parametrize("before", ["imported before", "called before"])
def test_concurrent_first_calls_after_the_patch_get_their_answers(before: str) -> None:
    """As with ``gunicorn -k gevent --preload``; catches a client that is dead since its first calls came together."""
    with RawServer(echo) as server:
        ended = run(PRELOADED, server.base_url.replace("127.0.0.1", "localhost"), before, options=STRICT)

    assert (ended.code, ended.out, ended.err) == (0, "True\n" * 3, "")


OTHERS = """
from gevent import monkey
monkey.patch_all()
import asyncio, sys, time
import gevent
from perkamo import PerkamoClient, SyncBatcher

async def other():
    await asyncio.sleep(0)
    return "fine"

def supplier():
    time.sleep(0.01)
    return "sk_test"

with PerkamoClient(supplier, base_url=sys.argv[1], timeout=20) as client:
    print(client.customer("one").user_id)
    print(asyncio.run(other()), gevent.spawn(asyncio.run, other()).get())
    with SyncBatcher(client) as batcher:
        pass
    print("left")
"""


def test_one_call_leaves_everybody_s_asyncio_alone() -> None:
    """``asyncio.run`` of others works on, here and in a greenlet; catches a loop that runs in everybody's thread."""
    with RawServer(echo) as server:
        ended = run(OTHERS, server.base_url.replace("127.0.0.1", "localhost"), options=STRICT)

    assert (ended.code, ended.out, ended.err) == (0, "one\nfine fine\nleft\n", "")


SANDBOX = """
from gevent import monkey
monkey.patch_all()
import asyncio
from perkamo import PerkamoClient
from perkamo.sandbox import Sandbox

async def other():
    return "fine"

with Sandbox() as sandbox, PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, timeout=20) as client:
    print(client.emit("ada", "purchase.completed", {"amount": 100}).applied, asyncio.run(other()))
print("stopped")
"""


def test_the_sandbox_serves_from_a_thread_of_its_own() -> None:
    """Tests of a gevent application have one too; catches a server in everybody's event loop."""
    ended = run(SANDBOX, options=STRICT)

    assert (ended.code, ended.out, ended.err) == (0, "True fine\nstopped\n", "")


WAITING = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from perkamo import PerkamoClient

ticks = []

def tick():
    while True:
        gevent.sleep(0.001)
        ticks.append(1)
        if len(ticks) == 5:
            print("ticked", flush=True)

gevent.spawn(tick)
with PerkamoClient("sk_test", base_url=sys.argv[1], timeout=20) as client:
    print(client.customer("slow").user_id)
    try:
        with gevent.Timeout(0.2):
            client.customer("never")
    except gevent.Timeout:
        print("timed out", flush=True)
    print(client.customer("next").user_id)
"""


def test_a_greenlet_that_waits_lets_others_go_on_and_may_be_interrupted() -> None:
    """Other greenlets run meanwhile, and ``gevent.Timeout`` cancels the request; catches a wait that stops the hub."""
    hung_up = threading.Event()

    def script(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            name = request.line.split()[1].rsplit("/", 1)[-1]
            if name == "never":
                if not connection.read_some(1):
                    hung_up.set()
                return
            if name == "slow":
                time.sleep(0.1)  # what the other greenlets have for themselves
            connection.send(answer(b'{"user_id":"%s"}' % name.encode()))

    with RawServer(script, script) as server:
        ended = run(WAITING, server.base_url, options=STRICT)
        assert hung_up.wait(20)

    assert (ended.code, ended.out, ended.err) == (0, "ticked\nslow\ntimed out\nnext\n", "")


KEEPING = """
import sys
from perkamo import Event, PerkamoClient, SyncBatcher, SyncOutbox

outbox = SyncOutbox(sys.argv[1])
if sys.argv[2] == "used":
    outbox.put(Event("before", "purchase.completed", "before"))
from gevent import monkey
monkey.patch_all()
import asyncio
import gevent
from perkamo.sandbox import Sandbox

for number in range(5):
    jobs = [gevent.spawn(outbox.put, Event("ada", "purchase.completed", f"{number}-{n}")) for n in range(20)]
    gevent.joinall(jobs, timeout=20, raise_error=True)
    assert all(job.ready() for job in jobs)
print(outbox.stats().pending)
with Sandbox() as sandbox, PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, timeout=20) as client:
    outbox.drain(client)
    with SyncBatcher(client) as batcher:
        jobs = [gevent.spawn(batcher.emit, "ada", "purchase.completed", transaction_id=f"b-{n}") for n in range(20)]
        gevent.joinall(jobs, timeout=20)
        print(all(job.get(timeout=0).applied for job in jobs))
    print(len({event.transaction_id for event in sandbox.events()}))
outbox.close()

async def other():
    return "fine"

print(asyncio.run(other()))
"""


@pytest.mark.parametrize(("before", "kept"), [("made", 100), ("used", 101)])
def test_an_outbox_from_before_the_patch_keeps_and_delivers_what_greenlets_put(
    tmp_path: Path, before: str, kept: int
) -> None:
    """And a batcher gives each its own result; catches "cannot release un-acquired lock", of one put in twenty."""
    ended = run(KEEPING, str(tmp_path / "outbox"), before, options=STRICT)

    assert (ended.code, ended.out) == (0, f"{kept}\nTrue\n{kept + 20}\nfine\n"), ended.err
    assert ended.err == "" or before == "used"  # a thread from before gevent's patch can't leave Python's table


APPLICATION = """
import os
from perkamo import PerkamoClient

client = PerkamoClient(os.environ["KEY"], base_url=os.environ["URL"])

def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    user_id = client.customer(name).user_id
    start_response("200 OK", [("content-type", "text/plain")])
    return [user_id.encode()]
"""


def test_gunicorn_s_gevent_workers_serve_with_preload(sandbox: Sandbox, tmp_path: Path) -> None:
    """Sixteen requests at once to fresh workers: each its own answer; catches "The interpreter is exiting"."""
    pytest.importorskip("gunicorn")
    (tmp_path / "shop.py").write_text(APPLICATION)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "--preload", "--workers", "2"),
            *("--graceful-timeout", "1", "--bind", "127.0.0.1:0", "shop:application"),  # a worker may miss its signal
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT, "KEY": sandbox.api_key, "URL": sandbox.base_url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        url = ""
        while not url:
            line = process.stderr.readline()
            assert line, "gunicorn ended"
            if "Listening at: " in line:
                url = line.split("Listening at: ")[1].split()[0]

        def ask(name: str) -> str:
            with urllib.request.urlopen(f"{url}/{name}", timeout=30) as response:
                return str(response.read().decode())

        names = [f"customer_{number}" for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, names))
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)

    assert answers == names
    assert "Traceback" not in err


BESIDE = """
from gevent import monkey
monkey.patch_all()
import asyncio, sys
import gevent
from perkamo import PerkamoClient

entered = gevent.event.Event()

async def other():
    entered.set()
    await asyncio.sleep(60)

async def handler():
    client.customer("two")

with PerkamoClient("sk_test", base_url=sys.argv[1], timeout=20) as client:
    beside = gevent.spawn(asyncio.run, other())
    entered.wait()
    print(client.customer("one").user_id)
    beside.kill()
    asyncio.run(handler())
"""


def test_only_a_call_within_a_task_is_warned_of() -> None:
    """Another greenlet's ``asyncio.run`` is not blocked by it; catches advice to await where nobody can."""
    with RawServer(echo) as server:
        ended = run(BESIDE, server.base_url, options=("-W", "ignore:Monkey-patching:Warning"))

    assert ended.out == "one\n", ended.err
    line = BESIDE.splitlines().index('    client.customer("two")') + 1
    assert ended.err.count("PerkamoAsyncUsageWarning") == 1
    assert f"<string>:{line}: PerkamoAsyncUsageWarning" in ended.err
