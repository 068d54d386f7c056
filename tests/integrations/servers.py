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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """Return the ids of a process's children, without the one that multiprocessing has for itself."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after[1]) == process and after[0] != "Z" and "resource_tracker" not in command:
            found.append(int(path.parent.name))
    return found


def is_stopped(process: int) -> bool:
    """Wait until a process to which SIGSTOP was sent has stopped; return whether it has, and is not gone."""
    while True:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state in "TZX":
            return state == "T"
        time.sleep(0.0005)


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


def kill_worker(server: Server, chance: random.Random) -> bool:
    """Kill one of a master process's children; return whether there was one."""
    workers = children(server.process.pid)
    if workers:
        os.kill(chance.choice(workers), signal.SIGKILL)
    return bool(workers)


def buy_all(port: int, paths: Sequence[str], *, kills: int = 0, kill: Callable[[random.Random], bool] = bool) -> None:
    """Post to each path until it is answered with a 2xx, by 8 customers at a time; kill meanwhile.

    Args:
        port: Where the shop listens.
        paths: The paths, one for each order.
        kills: How many workers are killed, evenly spread over the orders.
        kill: Kills a worker, and returns whether there was one.
    """
    due = {(number + 1) * len(paths) // (kills + 1) for number in range(kills)}
    answered = killed = 0
    chance = random.Random(7)
    lock = threading.Lock()

    def buy(path: str) -> None:
        nonlocal answered, killed
        deadline = time.monotonic() + PATIENCE
        while not _is_answered(port, path):
            assert time.monotonic() < deadline, path
            time.sleep(0.02)
        with lock:
            answered += 1
            is_due = answered in due
        if is_due and kill(chance):  # while the others go on buying
            with lock:
                killed += 1

    with ThreadPoolExecutor(8) as customers:
        list(customers.map(buy, paths))
    assert killed == kills


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


def wait_until_applied(sandbox: Sandbox, orders: Iterable[str], patience: float = PATIENCE) -> None:
    """Wait until every order has counted, and see that each counted once, and nothing else did."""
    wanted = set(orders)
    deadline = time.monotonic() + patience
    # By the order, and not by the transaction id, which the service itself counts once.
    while wanted - (counted := Counter(str(event.context["order"]) for event in sandbox.events())).keys():
        assert time.monotonic() < deadline, sorted(wanted - counted.keys())[:10]
        time.sleep(0.05)
    assert counted == dict.fromkeys(wanted, 1)


@frozen
class Shop:
    """A shop as it is operated.

    Attributes:
        server: The module and the arguments that serve it, with two workers.
        worker_ready: What each worker prints at its start, as a pattern.
        env: The environment of its processes.
        orders: Returns the ids of the orders in its database.
        deliverer: The module and the arguments that deliver beside the server; none where the workers do it.
        deliverer_ready: What that prints at its start, as a pattern.
    """

    server: tuple[str, ...]
    worker_ready: str
    env: Mapping[str, str]
    orders: Callable[[], set[str]]
    deliverer: tuple[str, ...]
    deliverer_ready: str = "Delivering"


def besiege(
    shop: Shop,
    view: str,
    sandbox: Sandbox,
    *,
    orders: int,
    kills: int,
    kill_more: Callable[[Server, random.Random], bool] = lambda _deliverer, _chance: True,
) -> None:
    """Buy, while requests fail and workers are killed; in the end every committed order has counted once.

    Args:
        shop: The shop.
        view: The last part of the paths that are posted to.
        sandbox: What stands in for Perkamo.
        orders: How many orders there are.
        kills: How many of the server's workers are killed.
        kill_more: Kills a process of the deliverer after each of these, and returns whether there was one.
    """
    ids = [f"order_{number}" for number in range(orders)]
    paths = [f"/orders/{one}/{view}?amount=1" for one in ids]
    with five_percent_faults(sandbox), running(*shop.deliverer, env=shop.env) as deliverer:
        deliverer.find(shop.deliverer_ready)
        with running(*shop.server, env=shop.env) as server:
            port = int(server.find(r"http://127\.0\.0\.1:([0-9]+)"))
            server.find(shop.worker_ready, times=2)

            def kill(chance: random.Random) -> bool:
                return kill_worker(server, chance) and kill_more(deliverer, chance)

            buy_all(port, paths, kills=kills, kill=kill)
        assert shop.orders() == set(ids)
        wait_until_applied(sandbox, ids)
    printed = "".join((*deliverer.output, *server.output))
    assert "customer_123" not in printed
    assert "ResourceWarning" not in printed
