"""The control plane, what is assumed, and what importing the sandbox costs."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request
from tests.sandbox.caller import event
from tests.sandbox.wire import Sender

JUNE = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
CANARY = "canary@example.com"


def test_the_control_plane_tells_and_resets(sandbox: Sandbox, wire: Sender) -> None:
    """Expect health, state, requests and fidelity as JSON, no key in them, none of it in the log; reset by POST."""
    wire.post("/v1/events", event())
    sandbox.faults.rate(0.001, Status(503), seed=1, route="GET /v1/usage")

    pages = {
        name: wire.send("GET", f"/_sandbox/{name}", b"", {}) for name in ("health", "state", "requests", "fidelity")
    }

    assert pages["health"].json["status"] == "ok"
    assert [customer["wallets"] for customer in pages["state"].objects("customers")] == [{"points": 50}]
    assert [applied["transaction_id"] for applied in pages["state"].objects("events")] == ["registration_1"]
    assert pages["state"].json["faults_unfired"] == ["GET /v1/usage: Status(503) at a rate of 0.001"]
    assert [record["route"] for record in pages["requests"].objects("requests")] == ["POST /v1/events"]
    assert len(pages["fidelity"].objects("fidelity")) == len(sandbox.fidelity())
    assert not any(sandbox.api_key.encode() in page.raw for page in pages.values())
    assert len(sandbox.requests) == 1
    assert wire.send("GET", "/_sandbox/reset", b"", {}).status == 405
    assert wire.send("POST", "/_sandbox/health", b"", {}).status == 405
    assert wire.send("GET", "/_sandbox/nothing", b"", {}).status == 404
    assert wire.send("POST", "/_sandbox/reset", b"", {}).json == {"reset": True}
    assert sandbox.events() == ()


@pytest.mark.parametrize(
    ("peer", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 403), ("fe80::1%eth0", 403)]
)
def test_the_control_plane_answers_on_this_machine_only(peer: str, status: int) -> None:
    """Expect a sandbox that was opened to the network to keep its state to itself."""
    reply = Sandbox().answer(Request("GET", "/_sandbox/state", (), b"", peer))

    assert reply.response is not None
    assert reply.response.status == status


def test_fidelity_says_what_is_assumed() -> None:
    """Expect every row to be one of three, and the assumptions that matter most to be among them."""
    rows = Sandbox().fidelity()

    assert {row.known for row in rows} == {"published", "older", "assumed"}
    assumed = " ".join(row.behaviour for row in rows if row.known == "assumed")
    for word in ("300 s", "not atomic", "identify", "redeem", "stream", "rate limit", "duplicate"):
        assert word in assumed
    assert len({row.behaviour for row in rows}) == len(rows)


def test_the_sandbox_knows_nothing_of_the_client() -> None:
    """Expect importing it to load no module of the client: it must be able to prove the client wrong."""
    code = (
        "import sys, perkamo.sandbox; "
        "loaded = {name.split('.')[1] for name in sys.modules if name.startswith('perkamo.')}; "
        "print(sorted(loaded - {'sandbox', 'signing', 'events', 'encoding', 'errors'}), 'httpx' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[] False"


def test_a_missing_h11_is_explained() -> None:
    """Expect the extra to be named when h11 is not installed."""
    code = "import sys; sys.modules['h11'] = None; import perkamo.sandbox"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 1
    assert 'pip install "perkamo[sandbox]"' in done.stderr


def test_a_forgotten_sandbox_does_not_hold_the_interpreter() -> None:
    """Expect a script that never stops its sandbox to exit, without a warning."""
    code = "from perkamo.sandbox import Sandbox; s = Sandbox().start(); print(s.base_url)"

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.startswith("http://127.0.0.1:")
    assert done.stderr == ""


def test_no_module_is_longer_than_one_reading() -> None:
    """Expect the house rule of 400 lines to hold in this room."""
    room = Path(__file__).parent.parent.parent / "perkamo" / "sandbox"

    assert [path.name for path in room.glob("*.py") if len(path.read_text("utf-8").splitlines()) > 400] == []
