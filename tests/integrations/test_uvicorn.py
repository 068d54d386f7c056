"""integrations.fastapi under uvicorn with two workers: real processes, real sockets, clients that hang up."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from attrs import field, frozen

from perkamo.sandbox import Sandbox
from tests.canary import CANARY_EMAIL
from tests.webhooks.samples import HEADERS, body

ROOT: Final = Path(__file__).parent.parent.parent
PURCHASES: Final = 500
HANG_UP: Final = 0.2


@frozen
class Server:
    """A running uvicorn.

    Attributes:
        port: Where it listens.
        output: What it has printed so far, line by line.
    """

    port: int
    output: list[str] = field(factory=list[str])


@pytest.fixture
def server(sandbox: Sandbox) -> Iterator[Server]:
    """The shop under uvicorn with two workers on a free port."""
    environment = {
        **os.environ,
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
    }
    words = [sys.executable, "-m", "uvicorn", "tests.integrations.shop:app", "--workers", "2", "--port", "0"]
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    port = None
    started = 0
    for line in process.stdout:
        lines.append(line)
        port = port or re.search(r"running on http://127\.0\.0\.1:([0-9]+)", line)
        started += "Application startup complete" in line
        if port is not None and started == 2:
            break
    assert port is not None, "".join(lines)
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    yield Server(int(port[1]), lines)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM), "".join(lines)
    reader.join(30)
    process.stdout.close()


def request(path: str, headers: dict[str, str] | None = None, content: bytes = b"") -> bytes:
    """One POST whose connection ends with its answer."""
    lines = [f"POST {path} HTTP/1.1", "host: shop", "connection: close", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def post(
    port: int, sent: bytes, *, keep: int | None = None, patience: float | None = None
) -> dict[str, object] | None:
    """Send a request, or its beginning, and return the JSON of a 200; None for whoever hung up.

    Args:
        port: Where to.
        sent: The request.
        keep: How many bytes of it are sent before the client hangs up; None for all.
        patience: Seconds after which the client hangs up; None for never.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent[:keep])
        await writer.drain()
        if keep is not None:
            return None
        answer = await asyncio.wait_for(reader.read(), patience)
    except TimeoutError:
        return None
    finally:
        writer.transport.abort()
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], answer
    parsed: dict[str, object] = json.loads(content)
    return parsed


async def purchases(port: int) -> list[str]:
    """Make all purchases at the same time, a fifth of them by clients that hang up; return those that were answered."""
    chance = random.Random(7)

    async def buy(number: int) -> str | None:
        sent = request(f"/orders/order_{number}/paid?amount=100")
        keep = patience = None
        if chance.random() < HANG_UP:
            keep, patience = (chance.randrange(len(sent)), None) if chance.random() < 0.3 else (None, chance.random())
        answer = await post(port, sent, keep=keep, patience=patience)
        return None if answer is None else f"order_{number}"

    done = await asyncio.gather(*(buy(number) for number in range(PURCHASES)))
    return [order for order in done if order is not None]


async def both_workers(port: int) -> set[int]:
    """Buy until both workers have answered; each is asked over connections of its own choosing."""
    found: set[int] = set()
    for number in range(400):
        answer = await post(port, request(f"/orders/later_{number}/paid?amount=1"))
        assert answer is not None
        assert answer["accepted"] is True
        found.add(int(str(answer["process"])))
        if len(found) == 2:
            break
    return found


def sockets(process: int) -> int:
    """Count the sockets that a process has open."""
    paths = Path(f"/proc/{process}/fd").iterdir()
    return sum(str(path.readlink()).startswith("socket:") for path in paths if path.is_symlink())


@pytest.mark.stress
def test_five_hundred_purchases_with_clients_that_hang_up(server: Server, sandbox: Sandbox) -> None:
    """Whatever was answered counts once, and nothing twice; catches a lost or doubled event and a leaking client."""
    answered = asyncio.run(purchases(server.port))

    counted = Counter(event.transaction_id for event in sandbox.events())
    assert len(answered) >= PURCHASES * (1 - HANG_UP) * 0.8
    assert not [order for order in answered if counted[order] != 1]
    assert set(counted.values()) == {1}
    assert set(counted) <= {f"order_{number}" for number in range(PURCHASES)}
    workers = asyncio.run(both_workers(server.port))
    assert len(workers) == 2
    if sys.platform == "linux":
        # The pool's bound, the listening socket, the event loop's own pair and what a worker has open itself.
        assert all(sockets(worker) <= 100 + 20 for worker in workers)


@pytest.mark.stress
def test_tokens_and_webhooks_work_in_every_worker(server: Server, sandbox: Sandbox) -> None:
    """The other routes over real HTTP, and nothing personal in uvicorn's output; catches a leak in a log."""
    token = asyncio.run(post(server.port, request("/api/perkamo/token", {"x-user": CANARY_EMAIL})))
    hook = asyncio.run(post(server.port, request("/hooks/perkamo", HEADERS, body())))

    assert token is not None
    assert sandbox.check_token(str(token["token"]), "browser").user_id == CANARY_EMAIL
    assert hook == {"new": True}
    printed = "".join(server.output)
    assert not [secret for secret in (CANARY_EMAIL, sandbox.api_key, str(token["token"])) if secret in printed]
