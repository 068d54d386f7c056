"""Shops under their real servers, driven over HTTP while requests fail and workers are killed."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from attrs import field, frozen

from perkamo.sandbox import Lost, Reset, Sandbox, Status

ROOT: Final = Path(__file__).parent.parent.parent
PATIENCE: Final = 60.0


@frozen
class Server:
    """A process that runs.

    Attributes:
        process: The process.
        output: What it has printed so far, line by line.
    """

    process: subprocess.Popen[str]
    output: list[str] = field(factory=list[str])

    def find(self, pattern: str, *, times: int = 1) -> str:
        """Wait until a pattern was printed so often; return its first group, or all of it."""
        deadline = time.monotonic() + PATIENCE
        while len(found := list(re.finditer(pattern, "".join(self.output)))) < times:
            assert time.monotonic() < deadline, "".join(self.output)
            assert self.process.poll() is None, "".join(self.output)
            time.sleep(0.02)
        return found[0][found[0].lastindex or 0]


def environment(sandbox: Sandbox, **more: str) -> dict[str, str]:
    """Return an environment for a shop of the sandbox."""
    return {
        **os.environ,
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PYTHONUNBUFFERED": "1",
        **more,
    }


@contextmanager
def running(*words: str, env: Mapping[str, str], end: signal.Signals = signal.SIGTERM) -> Iterator[Server]:
    """Run a Python module as a process for as long as the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    server = Server(process)
    reader = threading.Thread(target=server.output.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        yield server
    finally:
        process.send_signal(end)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("".join(server.output)) from None
        finally:
            reader.join(30)
            process.stdout.close()


def children(process: int) -> list[int]:
    """Return the ids of a process's children."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after[1]) == process and after[0] != "Z":
            found.append(int(path.parent.name))
    return found


@contextmanager
def five_percent_faults(sandbox: Sandbox) -> Iterator[None]:
    """Let one request in twenty fail: not answered, answered after it was lost, or applied and not answered."""
    sandbox.faults.rate(0.02, Status(503), seed=1)
    sandbox.faults.rate(0.015, Reset(after="apply"), seed=2)
    sandbox.faults.rate(0.015, Lost(), seed=3)
    try:
        yield
    finally:
        sandbox.faults.clear()


def buy_all(port: int, paths: Iterable[str], *servers: Server, kills: int) -> None:
    """Post to each path until it is answered with a 2xx, by 8 customers at a time; kill workers meanwhile.

    Args:
        port: Where the shop listens.
        paths: The paths, one for each order.
        servers: The shop's master processes, whose children are killed.
        kills: How many workers are killed, evenly spread over the orders.
    """
    waiting = list(paths)
    due = {(number + 1) * len(waiting) // (kills + 1) for number in range(kills)}
    answered = 0
    chance = random.Random(7)
    lock = threading.Lock()

    def buy(path: str) -> None:
        nonlocal answered
        deadline = time.monotonic() + PATIENCE
        while not _is_answered(port, path):
            assert time.monotonic() < deadline, f"{path}: {''.join(servers[0].output)}"
            time.sleep(0.02)
        with lock:
            answered += 1
            if answered in due:
                workers = [worker for server in servers for worker in children(server.process.pid)]
                os.kill(chance.choice(workers), signal.SIGKILL)

    with ThreadPoolExecutor(8) as customers:
        list(customers.map(buy, waiting))


def _is_answered(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body=b"")
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        return False
    else:
        return 200 <= answer.status < 300
    finally:
        connection.close()


def wait_until_applied(sandbox: Sandbox, orders: Iterable[str]) -> None:
    """Wait until every order has counted, and see that each counted once, and nothing else did."""
    wanted = set(orders)
    deadline = time.monotonic() + PATIENCE
    # By the order, and not by the transaction id, which the service itself counts once.
    while wanted - (counted := Counter(str(event.context["order"]) for event in sandbox.events())).keys():
        assert time.monotonic() < deadline, sorted(wanted - counted.keys())[:10]
        time.sleep(0.05)
    assert counted == dict.fromkeys(wanted, 1)
