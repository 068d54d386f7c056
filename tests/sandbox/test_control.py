"""The control plane, what is assumed, and what importing the sandbox costs."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox, Status, inspection
from perkamo.sandbox.messages import Request, Response
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
    instruction = Sandbox().answer(Request("GET", "/_sandbox/state", (), b"", peer))

    assert instruction.response is not None
    assert instruction.response.status == status


PRIVATE = ["localhost", "127.0.0.1:4001", "192.0.2.7:4001", "[2001:db8::1]:4001", "sandbox:4001", "shop_sandbox_1"]
PRIVATE += ["host.docker.internal", "sandbox.ci.svc.cluster.local:80", "nas.lan."]


@pytest.mark.parametrize("host", PRIVATE)
def test_an_exposed_sandbox_answers_other_machines(host: str) -> None:
    """Expect the control plane for any address, a service's name and private endings: what Compose and CI call."""
    sandbox = Sandbox(expose=True)

    instruction = sandbox.answer(Request("POST", "/_sandbox/reset", (("host", host),), b"", "192.0.2.7"))

    assert instruction.response is not None
    assert instruction.response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        (("host", "evil.example"),),
        (("host", "evil.example:4001"), ("origin", "http://evil.example:4001"), ("sec-fetch-site", "same-origin")),
        (("host", "sandbox.internal.evil.example"),),
        (("host", "internal.evil"),),
        (("host", "a b"),),
        (("host", ""),),
        (("host", "sandbox:4001"), ("origin", "https://evil.example")),
        (("host", "sandbox:4001"), ("origin", "http://sandbox:4002")),
        (("host", "sandbox:4001"), ("sec-fetch-site", "cross-site")),
    ],
)
def test_an_exposed_sandbox_keeps_web_sites_out(headers: tuple[tuple[str, str], ...]) -> None:
    """Expect 403 for a name that somebody can register (DNS rebinding) and for another origin, exposed or not."""
    instruction = Sandbox(expose=True).answer(Request("POST", "/_sandbox/reset", headers, b"", "192.0.2.7"))

    assert instruction.response is not None
    assert instruction.response.status == 403


@pytest.mark.parametrize("expose", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_healthz_answers_every_probe(expose: bool, method: str) -> None:
    """Expect 200 for another machine and any name, nothing logged and no fault: what Kubernetes and Docker ask."""
    sandbox = Sandbox(expose=expose)
    sandbox.faults.rate(1.0, Status(500), seed=1)

    instruction = sandbox.answer(Request(method, "/healthz", (("host", "10.1.2.3:4001"),), b"", "192.0.2.7"))

    assert isinstance(instruction.response, Response)
    assert (instruction.response.status, instruction.response.body) == (200, b'{"status":"ok"}')
    assert sandbox.requests == ()


def pages(wire: Sender, path: str, name: str) -> list[list[dict[str, object]]]:
    """All pages of a list."""
    found: list[list[dict[str, object]]] = []
    following: str | None = path
    while following is not None:
        page = wire.send("GET", following, b"", {})
        found.append(page.objects(name))
        assert page.json["next"] is None or isinstance(page.json["next"], str)
        following = page.json["next"]
    return found


def test_state_and_requests_come_in_pages(sandbox: Sandbox, wire: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect each customer, event and request once over all pages, in order: catches 52 MB in one answer."""
    monkeypatch.setattr(inspection, "PAGE_ITEMS", 3)
    for number in range(7):
        wire.post("/v1/events", event(user_id=f"u{number % 5}", transaction_id=f"t{number}"))

    customers, events, requests = (
        pages(wire, f"/_sandbox/{path}", name)
        for path, name in (("state", "customers"), ("state", "events"), ("requests", "requests"))
    )

    assert [[row["user_id"] for row in page] for page in customers] == [["u0", "u1", "u2"], ["u3", "u4"], []]
    assert [len(page) for page in events] == [3, 3, 1]
    assert [row["transaction_id"] for page in events for row in page] == [f"t{number}" for number in range(7)]
    assert [len(page) for page in requests] == [3, 3, 1]


def test_a_page_is_bounded_in_bytes(sandbox: Sandbox, wire: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one large event a page and none left out: catches a bound on the number alone."""
    monkeypatch.setattr(inspection, "PAGE_BYTES", 1000)
    for number in range(3):
        wire.post("/v1/events", event(transaction_id=f"t{number}", context={"text": "x" * 2000}))

    events = pages(wire, "/_sandbox/state", "events")

    assert [[row["transaction_id"] for row in page] for page in events] == [["t0"], ["t1"], ["t2"]]


@pytest.mark.parametrize("query", ["customers=-1", "events=x", "events=%F0%9D%9F%8F", "customers=" + "9" * 16])
def test_a_wrong_position_is_refused(wire: Sender, query: str) -> None:
    """Expect 400 that names the parameter."""
    answer = wire.send("GET", f"/_sandbox/state?{query}", b"", {})

    assert answer.status == 400
    assert answer.message.startswith(query.partition("=")[0])


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
        "shared = {'sandbox', 'contract', 'signing', 'events', 'encoding', 'errors'}; "
        "shared |= {'redaction', 'runtime'}; "
        "print(sorted(loaded - shared), 'httpx' in sys.modules)"
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
