"""Sync calls, batchers and the sandbox where a test tool has stopped every clock of Python's own."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import freezegun
import pytest
import time_machine

from perkamo import Event, PerkamoClient, PerkamoTimeoutError, RetryPolicy, SyncBatcher
from perkamo.sandbox import Delay, Sandbox, Status

MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOOLS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "freezegun": lambda: freezegun.freeze_time(MOMENT),
    "time-machine": lambda: time_machine.travel(MOMENT, tick=False),
}

pytestmark = pytest.mark.parametrize("tool", TOOLS)


@pytest.fixture
def client(sandbox: Sandbox) -> PerkamoClient:
    """A client with the waits of every day."""
    return PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, timeout=20)


def test_a_call_is_tried_again(tool: str, client: PerkamoClient, sandbox: Sandbox) -> None:
    """The wait between two attempts ends; catches a loop whose timers never fire."""
    sandbox.faults.next("GET /v1/program", Status(503))

    with TOOLS[tool](), client:
        assert client.program().meta.attempts == 2


def test_a_timeout_ends_a_call(tool: str, client: PerkamoClient, sandbox: Sandbox) -> None:
    """``timeout=`` counts seconds that pass; catches a deadline that stands still with the clock."""
    sandbox.faults.next("GET /v1/program", Delay(30))

    with TOOLS[tool](), client, pytest.raises(PerkamoTimeoutError):
        client.with_options(timeout=0.1, retry=RetryPolicy.none()).program()


def test_a_batcher_sends(tool: str, client: PerkamoClient, sandbox: Sandbox) -> None:
    """Its delay passes; catches an emit that waits for company forever."""
    with TOOLS[tool](), client, SyncBatcher(client) as batcher:
        assert batcher.emit("customer_123", "purchase.completed", {"amount": 100}).applied


def test_the_sandbox_s_own_waits_pass(tool: str, client: PerkamoClient, sandbox: Sandbox) -> None:
    """A late answer comes; catches a server that sleeps by the stopped clock."""
    sandbox.faults.next("GET /v1/program", Delay(0.05))

    with TOOLS[tool](), client:
        assert client.program().meta.attempts == 1


def test_stamps_follow_the_wall_clock(tool: str, client: PerkamoClient, sandbox: Sandbox) -> None:
    """An event is of the frozen moment, and so is the signature; catches real time in a test that has its own."""
    with TOOLS[tool](), client:
        event = Event("customer_123", "purchase.completed", "order_1", {"amount": 100})
        client.emit_event(event)
        signed_at = dict(sandbox.requests[-1].headers)["x-perkamo-timestamp"]

    assert event.occurred_at == "2026-01-01T12:00:00.000Z"
    assert float(signed_at) == MOMENT.timestamp()


FIRST_IMPORT = """
import sys
{start}
from perkamo import PerkamoClient
with PerkamoClient(sys.argv[1], base_url=sys.argv[2], timeout=20) as client:
    print(client.program().meta.attempts)
"""
STARTS = {
    "freezegun": "import freezegun; freezegun.freeze_time('2026-01-01').start()",
    "time-machine": "import time_machine; time_machine.travel('2026-01-01T00:00Z', tick=False).start()",
}


def test_a_first_import_within_frozen_time_does_not_bind_the_stopped_clock(tool: str, sandbox: Sandbox) -> None:
    """Modules that are loaded late have the real clock, too; catches a name that is taken from a patched module."""
    sandbox.faults.next("GET /v1/program", Status(503))
    sandbox.clock.freeze(datetime(2026, 1, 1, tzinfo=UTC))

    done = subprocess.run(
        [sys.executable, "-c", FIRST_IMPORT.format(start=STARTS[tool]), sandbox.api_key, sandbox.base_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.stdout, done.stderr) == ("2\n", "")
