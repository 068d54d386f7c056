"""The sandbox's page and control plane: what a browser may do, and the faults that are armed there."""

import base64
import hashlib
import json
import re

import pytest

from perkamo.sandbox import Delay, Fault, Lost, Reset, Sandbox, Stall, Status, Truncate
from perkamo.sandbox.arming import KINDS, in_words
from perkamo.sandbox.messages import Request
from perkamo.sandbox.routes import ROUTES
from tests.sandbox.caller import event
from tests.sandbox.page import EVENTS, JSON, ORDER, arm, rows
from tests.sandbox.wire import Sender, exchange

FORBIDDEN_WORDS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://")


def test_the_page_is_one_file_that_may_run_only_its_own_script(wire: Sender) -> None:
    """Expect the policy's hashes to be those of the inline script and style, and nothing else to be allowed."""
    answer = wire.send("GET", "/", b"", {})

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(directive.partition(" ")[::2] for directive in answer.headers["content-security-policy"].split("; "))
    for kind in ("script", "style"):
        inline = re.findall(rb"<%b>(.*?)</%b>" % (kind.encode(), kind.encode()), answer.raw, re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0]).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"


def test_the_page_asks_for_nothing_outside_and_makes_no_markup_of_data(wire: Sender) -> None:
    """Expect no outside asset, no handler or style in an attribute, and no way of turning text into markup."""
    html = wire.send("GET", "/", b"", {}).raw.decode()

    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=[\"'](?!data:)", html)
    assert not re.findall(r"<[a-z][^>]*\s(?:on[a-z]+|style)=", html)
    found = [word for word in FORBIDDEN_WORDS if word in html.replace("http://www.w3.org/2000/svg", "")]
    assert found == []


def test_the_page_offers_every_kind_of_fault(wire: Sender) -> None:
    """Expect the choices of the form to be those that the sandbox takes: catches a new fault forgotten on the page."""
    html = wire.send("GET", "/", b"", {}).raw.decode()

    form = html.partition('<select id="kind">')[2].partition("</select>")[0]
    assert set(re.findall(r'<option value="([^"]+)"', form)) == set(KINDS)
    assert wire.send("GET", "/_sandbox/faults", b"", {}).json["routes"] == list(ROUTES)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/_sandbox/state", {}),
        ("GET", "/_sandbox/nothing", {}),
        ("GET", "/_sandbox/reset", {}),
        ("DELETE", "/_sandbox/faults", {}),
        ("GET", "/_sandbox/customer?id=a", {}),
        ("GET", "/_sandbox/request?number=1", {}),
        ("POST", "/_sandbox/send", {}),
        ("GET", "/_sandbox/state", {"origin": "https://evil.example"}),
        ("OPTIONS", "/_sandbox/faults", {"origin": "https://evil.example", "access-control-request-method": "DELETE"}),
    ],
)
def test_every_answer_is_safe_in_a_browser(wire: Sender, method: str, path: str, headers: dict[str, str]) -> None:
    """Expect the safety headers and no CORS header with answers, errors, refusals and preflights alike."""
    answer = wire.send(method, path, b"", headers)

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"host": "localhost.evil.example"},
        {"host": "evillocalhost"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "192.0.2.7"},
        {"host": "0.0.0.0:4001"},
        {"host": "[::2]:4001"},
        {"host": "[::1"},
        {"host": "localhost:80@evil.example"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:1"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/_sandbox/reset"),
        ("POST", "/_sandbox/faults"),
        ("DELETE", "/_sandbox/faults"),
        ("GET", "/_sandbox/state"),
        ("GET", "/_sandbox/live"),
    ],
)
def test_other_web_sites_reach_nothing(
    sandbox: Sandbox, wire: Sender, headers: dict[str, str], method: str, path: str
) -> None:
    """Expect 403 and no effect for a foreign name (DNS rebinding), a foreign origin and a foreign page."""
    wire.post("/v1/events", event())
    sandbox.faults.next("GET /v1/usage", Lost())

    answer = wire.send(method, path, json.dumps(ORDER).encode(), {**JSON, **headers})

    assert answer.status == 403
    assert list(answer.json) == ["message"]
    assert sandbox.faults.unfired == ("GET /v1/usage: Lost()",)
    assert len(sandbox.events()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_other_web_sites_cannot_load_the_page(wire: Sender, headers: dict[str, str]) -> None:
    """Expect 403 for a rebound name, a script tag and a frame."""
    assert wire.send("GET", "/", b"", headers).status == 403


@pytest.mark.parametrize("name", ["origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"])
def test_a_header_that_comes_twice_is_refused(sandbox: Sandbox, name: str) -> None:
    """Expect 403 whichever comes first: catches a look at the first of two Origin headers."""
    own = {"origin": f"{sandbox.base_url}", "sec-fetch-site": "same-origin"}.get(name, "cors")
    address = sandbox.base_url.removeprefix("http://")
    for values in ((own, "https://evil.example"), ("https://evil.example", own), (own, own)):
        lines = "".join(f"{name}: {value}\r\n" for value in values)

        answer = exchange(sandbox, f"GET /_sandbox/state HTTP/1.1\r\nhost: {address}\r\n{lines}\r\n".encode())

        assert answer.startswith(b"HTTP/1.1 403")


def test_a_link_from_anywhere_opens_the_page(wire: Sender) -> None:
    """Expect a click on a link in a chat or a wiki to work: it shows the other site nothing."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}

    assert wire.send("GET", "/", b"", headers).status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "perkamo.localhost:8080", "127.0.0.1", "127.1.2.3:5", "[::1]:5"]
)
def test_the_names_of_this_machine_are_let_in(wire: Sender, host: str) -> None:
    """Expect every loopback name to do, with the page's own origin."""
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}

    assert arm(wire, ORDER, **headers)[0] == 200


def test_the_page_is_not_for_the_network() -> None:
    """Expect a sandbox that was opened to the network to keep its page to this machine."""
    for path in ("/", "/_sandbox/live"):
        instruction = Sandbox().answer(Request("GET", path, (("host", "localhost"),), b"", "192.0.2.7"))

        assert instruction.response is not None
        assert instruction.response.status == 403


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [
        ("status", 429, Status(429)),
        ("delay", 0.5, Delay(0.5)),
        ("delay", 2, Delay(2)),
        ("reset-before", None, Reset(before="apply")),
        ("reset-after", None, Reset(after="apply")),
        ("lost", None, Lost()),
        ("truncate", 3, Truncate(3)),
        ("stall", 0, Stall(0)),
    ],
)
def test_each_fault_can_be_armed_by_hand(
    sandbox: Sandbox, wire: Sender, kind: str, value: object, fault: object
) -> None:
    """Expect exactly the fault that was asked for, as many times as asked for."""
    status, told = arm(wire, {"route": EVENTS, "kind": kind, "value": value, "times": 2})

    assert status == 200
    [armed] = rows(told, "armed")
    assert (armed["route"], armed["faults"]) == sandbox.faults.armed[0]
    assert str(armed["words"]).startswith(f"The next 2 calls of {EVENTS} ")
    assert [sandbox.faults.take(EVENTS) for _ in range(3)] == [fault, fault, None]


def test_an_armed_fault_strikes_the_next_call_until_it_is_cleared(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the fault in the answer and in the log; a rate stays on the list although it fired; clearing ends all."""
    arm(wire, ORDER)
    sandbox.faults.rate(1.0, Status(500), seed=1)

    statuses = [wire.post("/v1/events", event()).status for _ in range(2)]

    assert statuses == [503, 500]
    assert [record.fault for record in sandbox.requests] == ["Status(503)", "Status(500)"]
    armed = wire.send("GET", "/_sandbox/faults", b"", {}).json["armed"]
    words = "100 % of all calls are answered with status 500; nothing is applied"
    assert armed == [{"number": 2, "route": "any route", "faults": "Status(500) at a rate of 1", "words": words}]
    assert wire.send("DELETE", "/_sandbox/faults", b"", {}).json["armed"] == []
    assert wire.post("/v1/events", event()).status == 200


def test_waiting_faults_are_told_in_few_words(sandbox: Sandbox) -> None:
    """Expect a run of the same fault to be one entry, and a request that is let through to be named."""
    sandbox.faults.sequence(EVENTS, [Status(503), Status(503), None, Lost()])

    assert sandbox.faults.armed == ((EVENTS, "2 x Status(503), nothing, Lost()"),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"route": "POST /v1/nothing"}, "route"),
        ({"route": ["POST /v1/events"]}, "route"),
        ({"route": None}, "route"),
        ({"kind": "Status"}, "kind"),
        ({"kind": ["status"]}, "kind"),
        ({"kind": None}, "kind"),
        ({"value": 199}, "value"),
        ({"value": 600}, "value"),
        ({"value": 503.5}, "value"),
        ({"value": "503"}, "value"),
        ({"value": True}, "value"),
        ({"value": None}, "value"),
        ({"kind": "delay", "value": -1}, "value"),
        ({"kind": "delay", "value": 86_401}, "value"),
        ({"kind": "truncate", "value": -1}, "value"),
        ({"times": 0}, "times"),
        ({"times": 1001}, "times"),
        ({"times": 1.5}, "times"),
        ({"times": True}, "times"),
        ({"times": None}, "times"),
    ],
)
def test_a_wrong_order_is_refused_and_says_which_field(
    sandbox: Sandbox, wire: Sender, change: dict[str, object], reason: str
) -> None:
    """Expect 400 with the name of the field, and nothing armed."""
    status, told = arm(wire, {**ORDER, **change})

    assert status == 400
    assert str(told["message"]).startswith(reason)
    assert sandbox.faults.armed == ()


def test_an_order_is_json_that_no_form_can_send(sandbox: Sandbox, wire: Sender) -> None:
    """Expect 415 for what a form of another site could post without a preflight: the second line of defence."""
    answer = wire.send("POST", "/_sandbox/faults", json.dumps(ORDER).encode(), {"content-type": "text/plain"})

    assert answer.status == 415
    assert wire.send("POST", "/_sandbox/faults", b"[]", JSON).status == 400
    assert sandbox.faults.armed == ()


def test_using_the_page_is_neither_logged_nor_struck(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the page to work while every call fails, and to leave the log to the calls."""
    sandbox.faults.rate(1.0, Status(500), seed=1)

    statuses = [wire.send("GET", path, b"", {}).status for path in ("/", "/_sandbox/fidelity", "/_sandbox/faults")]

    assert statuses == [200, 200, 200]
    assert sandbox.requests == ()


def test_one_fault_is_removed_by_its_number(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the other one to stay, and 404 for a number that is not there."""
    arm(wire, ORDER)
    arm(wire, {**ORDER, "value": 500})

    left = wire.send("DELETE", "/_sandbox/faults?number=1", b"", {})

    assert [fault["faults"] for fault in left.objects("armed")] == ["Status(500)"]
    for number in ("1", "x", ""):
        assert wire.send("DELETE", f"/_sandbox/faults?number={number}", b"", {}).status == 404
    assert sandbox.faults.armed == ((EVENTS, "Status(500)"),)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Status(503), "is answered with status 503; nothing is applied"),
        (Delay(2), "is applied and answered 2 s late"),
        (Lost(), "is applied and loses the answer"),
        (Reset(before="apply"), "ends with a reset connection, before anything is applied"),
        (Reset(after="apply"), "ends with a reset connection, after it was applied"),
        (Truncate(3), "is applied, and the answer is cut after 3 bytes"),
        (Stall(3), "is applied and falls silent after 3 bytes of the answer"),
    ],
)
def test_each_fault_has_words(sandbox: Sandbox, fault: Fault, words: str) -> None:
    """Expect a sentence for one call: what a person reads on the page."""
    sandbox.faults.next(EVENTS, fault)

    assert in_words(sandbox.faults.listed()[0]) == f"The next call of {EVENTS} {words}"
