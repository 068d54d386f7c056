"""sync_client: forked processes get connections and a loop of their own (P14)."""

import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox
from tests.faults.rawserver import Connection, RawServer, answer
from tests.processes.script import ROOT, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def echo(connection: Connection) -> None:
    """Answer each request with the transaction id that it carries."""
    while (request := connection.read_request()) is not None:
        name = request.headers.get("x-none") or request.line.split()[1].rsplit("/", 1)[-1]
        connection.send(answer(b'{"user_id":"%s"}' % name.encode()))


FORKS = """
import os, sys, threading
from perkamo import PerkamoClient

url, count, method = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = PerkamoClient("sk_test_fork", base_url=url, timeout=20)
stop = threading.Event()
wrong = []

def own(number):
    while not stop.is_set():
        name = f"parent-{number}"
        answered = client.customer(name).user_id
        if answered != name:
            wrong.append(answered)

def child(number):
    for n in range(2):
        name = f"child-{number}-{n}"
        if client.customer(name).user_id != name:
            os._exit(7)
    os._exit(0)

client.customer("warm")
threads = [threading.Thread(target=own, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
codes = []
for first in range(0, count, 8):
    pids = []
    for number in range(first, min(first + 8, count)):
        pid = os.fork()
        if pid == 0:
            child(number)
        pids.append(pid)
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
stop.set()
for thread in threads:
    thread.join()
client.close()
print(len(codes), set(codes), wrong)
"""


@pytest.mark.release
def test_two_hundred_children_of_a_busy_parent_get_their_own_answers() -> None:
    """0 wrong answers, 0 hangs, with four threads of the parent in mid-call; catches an inherited socket or lock."""
    with RawServer(echo) as server:
        ended = run(FORKS, server.base_url, "200", "fork", options=("-W", "ignore::DeprecationWarning"))

    assert ended.out == "200 {0} []\n", ended.err


MULTI = """
import multiprocessing, sys
from perkamo import PerkamoClient

client = None

def work(job):
    url, name = job
    global client
    client = client or PerkamoClient("sk_test_fork", base_url=url, timeout=20)
    return client.customer(name).user_id

if __name__ == "__main__":
    url, method = sys.argv[1:]
    warm = work((url, "warm"))
    with multiprocessing.get_context(method).Pool(4) as pool:
        names = [f"job-{n}" for n in range(100)]
        print(pool.map(work, [(url, name) for name in names]) == names, work((url, "after")))
"""


@pytest.mark.sample(3)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_works_by_every_start_method(method: str, tmp_path: Path) -> None:
    """A pool of workers shares a module-level client; catches a child that hangs in its parent's loop."""
    script = tmp_path / "jobs.py"
    script.write_text(MULTI)
    with RawServer(echo) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(script), server.base_url, method],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.stdout == "True after\n", done.stderr


PREFORK = """
import os, sys
from perkamo import PerkamoClient

# As Celery's prefork pool does: the parent imports the tasks and makes a call, children take the jobs from a pipe.
client = PerkamoClient("sk_test_fork", base_url=sys.argv[1], timeout=20)
client.customer("warm")
jobs_read, jobs_write = os.pipe()
results_read, results_write = os.pipe()
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        os.close(jobs_write)
        while job := os.read(jobs_read, 8).decode().strip():
            os.write(results_write, client.customer(job).user_id.ljust(8).encode())
        os._exit(0)
    pids.append(pid)
names = [f"task-{n}" for n in range(50)]
for name in names:
    os.write(jobs_write, name.ljust(8).encode())
os.close(jobs_write)
answers = [os.read(results_read, 8).decode().strip() for _ in names]
codes = [os.waitpid(pid, 0)[1] for pid in pids]
print(sorted(answers) == sorted(names), codes)
client.close()
"""


def test_a_prefork_pool_like_celery_s_works() -> None:
    """Children use the client that the parent has used; catches a hang in the first task of a worker."""
    with RawServer(echo) as server:
        ended = run(PREFORK, server.base_url, options=("-W", "ignore::DeprecationWarning"))

    assert ended.out == "True [0, 0, 0]\n", ended.err


APPLICATION = """
import os
from perkamo import PerkamoClient

client = PerkamoClient()
client.program()  # with --preload, the master has used it before its workers are forked

def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    points = client.emit(name, "purchase.completed", {"amount": 100}, transaction_id=name).wallet_state["points"]
    start_response("200 OK", [("content-type", "text/plain"), ("x-pid", str(os.getpid()))])
    return [f"{client.customer(name).user_id} {points:g}".encode()]
"""


def test_gunicorn_with_preload_serves_from_every_worker(sandbox: Sandbox, tmp_path: Path) -> None:
    """A real gunicorn with --preload and two workers: each request its own answer; catches a hang after fork."""
    pytest.importorskip("gunicorn")
    (tmp_path / "shop.py").write_text(APPLICATION)
    log_file = tmp_path / "log"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "--preload", "--workers", "2"),
            *("--bind", "127.0.0.1:0", "--log-file", str(log_file), "shop:application"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": ROOT,
            "PERKAMO_SECRET_KEY": sandbox.api_key,
            "PERKAMO_BASE_URL": sandbox.base_url,
        },
        cwd=tmp_path,
    )
    try:
        deadline = time.monotonic() + 30
        while "Listening at: " not in (log := log_file.read_text() if log_file.exists() else ""):
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        url = log.split("Listening at: ")[1].split()[0]

        def ask(n: int) -> tuple[str | None, str]:
            with urllib.request.urlopen(f"{url}/buyer-{n}", timeout=20) as response:
                return response.headers["x-pid"], response.read().decode()

        workers: set[str | None] = set()
        served = 0
        with ThreadPoolExecutor(8) as pool:  # at the same time, or one worker may take them all
            while len(workers) < 2 and served < 1200:
                answers = list(pool.map(ask, range(served, served + 60)))
                assert [text for _, text in answers] == [f"buyer-{n} 1" for n in range(served, served + 60)]
                workers |= {pid for pid, _ in answers}
                served += 60
    finally:
        process.terminate()
        process.wait(20)

    assert len(workers) == 2
