"""The sandbox's page over sockets: what is served to whom, faults armed by hand, and the live stream."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import IncompleteRead, RemoteDisconnected
from urllib.parse import quote

import httpx
import pytest

from perkamo.sandbox import Delay, Fault, Lost, Reset, Sandbox, Stall, Status, Truncate, live, shown
from perkamo.sandbox.arming import KINDS, in_words
from perkamo.sandbox.messages import Request
from perkamo.sandbox.routes import ROUTES
from tests.sandbox.browser import wait_for
from tests.sandbox.caller import event
from tests.sandbox.wire import Sender, exchange

EVENTS = "POST /v1/events"
JSON = {"content-type": "application/json"}
FORBIDDEN_WORDS = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://")
ORDER = {"route": EVENTS, "kind": "status", "value": 503}


def arm(wire: Sender, order: object, **headers: str) -> tuple[int, dict[str, object]]:
    """Send an order for a fault as the page does."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = wire.send("POST", "/_sandbox/faults", json.dumps(order).encode(), {**JSON, **names})
    return answer.status, dict(answer.json)


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
        reply = Sandbox().answer(Request("GET", path, (("host", "localhost"),), b"", "192.0.2.7"))

        assert reply.response is not None
        assert reply.response.status == 403


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


@contextmanager
def watching(sandbox: Sandbox, **wanted: str) -> Iterator[Iterator[dict[str, object]]]:
    """Open the live stream, with a filter; gives its updates as they come."""
    with (
        httpx.Client(trust_env=False, timeout=20) as http,
        http.stream("GET", f"{sandbox.base_url}/_sandbox/live", params=wanted) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        yield read_updates(answer.iter_lines())


def read_updates(lines: Iterator[str]) -> Iterator[dict[str, object]]:
    """Give the updates; twice a heartbeat instead of one is a failure, and not a test without end."""
    beats = 0
    for line in lines:
        beats += line == ": heartbeat"
        assert beats < 2, "no update came"
        if line.startswith("data: "):
            beats = 0
            yield json.loads(line.removeprefix("data: "))


def test_the_live_stream_begins_with_everything_and_goes_on_with_what_is_new(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the state at first, then an update with the event, its customer and its request, and no more than that."""
    wire.post("/v1/events", event())

    with watching(sandbox) as updates:
        first = next(updates)
        wire.post("/v1/events", event(user_id="customer_9", transaction_id="registration_2"))
        second = next(updates)

    assert first["fresh"] is True
    assert first["program"] == wire.get("/v1/program").json.get("blueprint", wire.get("/v1/program").json)
    assert first["totals"] == {"customers": 1, "events": 1, "requests": 1}
    assert second["fresh"] is False
    assert "program" not in second
    assert [(customer["user_id"], customer["wallets"]) for customer in rows(second, "customers")] == [
        ("customer_9", {"points": 50})
    ]
    assert [(applied["user_id"], applied["delta"]) for applied in rows(second, "events")] == [
        ("customer_9", {"points": 50})
    ]
    assert [(request["path"], request["status"]) for request in rows(second, "requests")] == [("/v1/events", 200)]
    assert second["totals"] == {"customers": 2, "events": 2, "requests": 2}


def test_the_live_stream_tells_of_faults_the_clock_and_resets(sandbox: Sandbox, wire: Sender) -> None:
    """Expect an update when a fault is armed, when the clock stops, and all anew after a reset."""
    wire.post("/v1/events", event())

    with watching(sandbox) as updates:
        next(updates)
        arm(wire, ORDER)
        armed = next(updates)
        sandbox.clock.freeze()
        stopped = next(updates)
        sandbox.reset()
        forgotten = next(updates)

    words = "The next call of POST /v1/events is answered with status 503; nothing is applied"
    assert [fault["words"] for fault in rows(armed, "armed")] == [words]
    assert (armed["frozen"], armed["events"]) == (None, [])
    assert str(stopped["frozen"]).endswith("Z")
    assert (forgotten["fresh"], forgotten["customers"], forgotten["armed"]) == (True, [], [])
    assert forgotten["totals"] == {"customers": 0, "events": 0, "requests": 0}


def test_an_update_is_bounded(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the newest 200 of 300 with the true numbers, at first and later, and long texts to be cut."""

    def burst(name: str) -> None:
        items = [
            event(user_id=f"{name}_{number}", transaction_id=f"{name}_{number}", context={"text": "x" * 5000})
            for number in range(300)
        ]
        with sandbox._lock:  # one burst is one update
            for start in range(0, 300, 100):
                body = json.dumps({"events": items[start : start + 100]}).encode()
                sandbox.answer(Request("POST", "/v1/events:batch", signed(wire, "/v1/events:batch", body), body))

    burst("before")
    with watching(sandbox) as updates:
        first = next(updates)
        burst("after")
        second = next(updates)

    for update, name, total in ((first, "before", 300), (second, "after", 600)):
        users = [f"{name}_{number}" for number in range(100, 300)]
        assert [customer["user_id"] for customer in rows(update, "customers")] == users
        assert [applied["user_id"] for applied in rows(update, "events")] == users
        assert update["totals"] == {"customers": total, "events": total, "requests": total // 100}
        assert {len(str(applied["context"])) for applied in rows(update, "events")} == {shown.MAX_TEXT + 1}
        assert len(json.dumps(update)) < 400_000


def test_the_live_stream_is_forgotten_when_the_page_goes(sandbox: Sandbox, wire: Sender) -> None:
    """Expect its listener to be gone: catches a sandbox that grows slower with every page that was ever open."""
    ledger = sandbox._space.ledger
    before = len(ledger._listeners)

    with watching(sandbox) as updates:
        next(updates)
        assert len(ledger._listeners) == before + 1

    wait_for(lambda: len(ledger._listeners) == before)


def test_a_silent_live_stream_beats(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a comment when nothing happens, so that no proxy and no browser gives the connection up."""
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.0)

    with (
        httpx.Client(trust_env=False, timeout=20) as http,
        http.stream("GET", f"{sandbox.base_url}/_sandbox/live") as answer,
    ):
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": heartbeat"


def filtered(sandbox: Sandbox, name: str, **wanted: str) -> list[dict[str, object]]:
    """What a filter leaves of a list."""
    with watching(sandbox, **wanted) as updates:
        return rows(next(updates), name)


def test_customers_are_found_by_a_part_of_their_id(sandbox: Sandbox, wire: Sender) -> None:
    """Expect case not to matter, percent-encoding to be undone, hostile text to be text, and traits to be searched."""
    for number, user_id in enumerate(("Ada+1@shop", "adam", "<b>eve</b>")):
        wire.post("/v1/events", event(user_id=user_id, transaction_id=f"registration_{number}"))
    wire.post("/v1/identify", {"user_id": "adam", "traits": {"plan": "Premium"}})

    def found(**wanted: str) -> list[object]:
        return [customer["user_id"] for customer in filtered(sandbox, "customers", **wanted)]

    assert found(customer="ada") == ["Ada+1@shop", "adam"]
    assert found(customer="+1@") == ["Ada+1@shop"]
    assert found(customer="<B>") == ["<b>eve</b>"]
    assert found(customer="nobody") == []
    assert found(text="premium") == ["adam"]
    assert found() == ["Ada+1@shop", "adam", "<b>eve</b>"]


NOVAK = "jan.novák@shop"


@pytest.mark.parametrize(
    ("wanted", "paths"),
    [
        ({}, ["POST", "POST", "POST", "GET", "GET", "GET"]),
        ({"customer": "novák"}, ["POST", "POST", "GET"]),
        ({"customer": NOVAK.upper()}, ["POST", "POST", "GET"]),
        ({"customer": "bob"}, ["POST"]),
        ({"event": "REGISTERED"}, ["POST", "POST", "POST"]),
        ({"event": "jan"}, []),
        ({"status": "2xx"}, ["POST", "POST", "POST", "GET"]),
        ({"status": "4xx"}, ["GET"]),
        ({"status": "404"}, ["GET"]),
        ({"status": "none"}, ["GET"]),
        ({"text": "Lost()"}, ["GET"]),
        ({"text": "registration_2", "customer": "novák"}, ["POST"]),
        ({"text": "no such path"}, ["GET"]),
    ],
)
def test_requests_are_filtered(sandbox: Sandbox, wire: Sender, wanted: dict[str, str], paths: list[str]) -> None:
    """Expect ids in bodies, escaped or not, and in paths, encoded; statuses, faults, answers and notes."""
    for number, (user_id, escaped) in enumerate(((NOVAK, True), (NOVAK, False), ("bob", True))):
        body = json.dumps(event(user_id=user_id, transaction_id=f"registration_{number + 1}"), ensure_ascii=escaped)
        wire.post("/v1/events", body.encode())
    wire.get(f"/v1/customer/{quote(NOVAK)}")
    wire.get("/v1/nothing")
    sandbox.faults.next("GET /v1/program", Lost())
    with pytest.raises(RemoteDisconnected):
        wire.get("/v1/program")

    assert [request["method"] for request in filtered(sandbox, "requests", **wanted)] == paths


def test_a_filter_holds_for_what_comes(sandbox: Sandbox, wire: Sender) -> None:
    """Expect what matches and nothing else, in every list, after the first message too."""
    with watching(sandbox, customer="ada", event="user") as updates:
        assert next(updates)["events"] == []
        wire.post("/v1/events", event(user_id="bob", transaction_id="1"))
        wire.post("/v1/events", event(user_id="ada", transaction_id="2"))
        told: list[dict[str, object]] = []
        while not told or not rows(told[-1], "events"):
            told.append(next(updates))

    assert [row["user_id"] for update in told for row in rows(update, "events")] == ["ada"]
    assert [row["user_id"] for update in told for row in rows(update, "customers")] == ["ada"]
    assert sum(len(rows(update, "requests")) for update in told) == 1


def test_a_search_lets_other_connections_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect another task to run meanwhile: catches a text filter that stops a load test."""
    monkeypatch.setattr(live, "SEARCH_STEP", 10)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def search() -> list[int]:
        task = asyncio.create_task(other())
        found = await live._search(list(range(1000)), lambda number: number % 2 == 0)
        task.cancel()
        return found

    found = asyncio.run(search())

    assert found == list(range(0, 400, 2))
    assert turns >= 30


def test_a_detail_shows_an_answer_whole(sandbox: Sandbox, wire: Sender) -> None:
    """Expect all of a request and its answer, keys and tokens masked, and 404 for what is not kept."""
    wire.post("/v1/events", event(transaction_id=...))
    token = wire.post("/v1/browser-tokens", {"browser_key": sandbox.browser_key, "user_id": "a"}).json["token"]

    refused = wire.send("GET", "/_sandbox/request?number=1", b"", {}).json
    given = wire.send("GET", "/_sandbox/request?number=2", b"", {})

    assert (refused["status"], refused["message"]) == (400, "transaction_id is missing")
    assert json.loads(str(refused["answer"])) == {"message": "transaction_id is missing"}
    assert str(refused["request_id"]).startswith("req_")
    assert ["x-perkamo-api-key", "***"] in json.loads(json.dumps(refused["headers"]))
    assert isinstance(refused["seconds"], float)
    assert str(token).encode() not in given.raw
    assert sandbox.browser_key.encode() not in given.raw
    assert b'\\"token\\": \\"***\\"' in given.raw
    for path, status in (("request?number=3", 404), ("event?number=1", 404), ("request?number=x", 400), ("event", 400)):
        assert wire.send("GET", f"/_sandbox/{path}", b"", {}).status == status
    assert wire.send("GET", "/_sandbox/customer?id=nobody", b"", {}).status == 404


def test_an_answer_that_was_cut_is_shown_as_it_was_sent(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the bytes that left, no more; and how late a late one was."""
    sandbox.faults.sequence("GET /v1/program", [Truncate(10), Delay(0.01)])
    with pytest.raises(IncompleteRead):
        wire.get("/v1/program")
    wire.close()
    wire.get("/v1/program")

    cut, late = sandbox.requests

    assert len(cut.answer) == 10
    assert late.seconds >= 0.01


def test_a_customers_history_has_everything_that_changed_them(sandbox: Sandbox, wire: Sender) -> None:
    """Expect traits, events, duplicates and redemptions, newest first, with the balances after each."""
    wire.post("/v1/identify", {"user_id": "ada", "traits": {"plan": "pro"}})
    wire.post("/v1/events", event(user_id="ada", event="referral.completed", transaction_id="r"))
    wire.post("/v1/events", event(user_id="ada", event="referral.completed", transaction_id="r"))
    wire.post("/v1/rewards/redeem", {"user_id": "ada", "reward": "voucher_10", "transaction_id": "v"})
    wire.post("/v1/rewards/redeem", {"user_id": "ada", "reward": "voucher_10", "transaction_id": "v"})
    wire.post("/v1/events", event(user_id="bob", transaction_id="b"))

    told = wire.send("GET", "/_sandbox/customer?id=ada", b"", {})

    history = told.objects("history")
    assert [(row["kind"], row["balances"]) for row in history] == [
        ("redeemed", {"points": 100}),
        ("duplicate", {}),
        ("event", {"points": 200}),
        ("identified", {}),
    ]
    assert history[1]["first"] == history[2]["number"]
    assert history[2]["unlocked"] == ["Welcome member", "Free shipping"]
    assert len(told.objects("requests")) == 5
    assert dict(objects_of(told.json["customer"]))["traits"] == {"plan": "pro"}


def test_an_event_is_sent_again_by_the_page_only(sandbox: Sandbox, wire: Sender) -> None:
    """Expect a call in the log for an own page, a clear no for wrong input, and 403 for another site."""
    wire.post("/v1/events", event())
    order = json.dumps({"number": 1}).encode()

    sent = wire.send("POST", "/_sandbox/send", order, JSON)
    foreign = wire.send("POST", "/_sandbox/send", order, {**JSON, "origin": "https://evil.example"})

    assert (sent.json["status"], sent.json["transaction_id"]) == (200, "registration_1")
    assert foreign.status == 403
    assert [record.status for record in sandbox.requests] == [200, 200]
    for wrong in ({}, {"number": "1"}, {"number": 1, "as_new": 1}, {"number": 9}):
        assert wire.send("POST", "/_sandbox/send", json.dumps(wrong).encode(), JSON).status in (400, 404)


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


def test_keys_and_tokens_that_were_sent_are_not_on_the_page(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the sandbox's own key once, where it says what to type, and never what a client sent by mistake."""
    token = wire.post("/v1/browser-tokens", {"browser_key": sandbox.browser_key, "user_id": "customer_123"})
    wire.send("GET", "/v1/program", b"", {"x-perkamo-api-key": "sk_live_sent_by_mistake"})

    with watching(sandbox) as updates:
        told = json.dumps(next(updates))
    whole = [wire.send("GET", f"/_sandbox/request?number={number}", b"", {}).raw.decode() for number in (1, 2)]

    assert "/v1/browser-tokens" in told
    assert told.count(sandbox.api_key) == 1
    assert sandbox.api_key not in wire.send("GET", "/", b"", {}).raw.decode() + "".join(whole)
    assert str(token.json["token"]) not in told + "".join(whole)
    assert "sent_by_mistake" not in told + "".join(whole)


def objects_of(value: object) -> dict[str, object]:
    """The same value, known to be an object."""
    assert isinstance(value, dict)
    return value


def rows(update: dict[str, object], name: str) -> list[dict[str, object]]:
    """The list of objects under a name."""
    found = update[name]
    assert isinstance(found, list)
    return found


def signed(wire: Sender, path: str, body: bytes) -> tuple[tuple[str, str], ...]:
    """The headers of a signed request, for a call inside the process."""
    return tuple(wire.signed(path, body).items())
