"""What the sandbox's page is sent: the live stream, filters, details and histories."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import IncompleteRead, RemoteDisconnected
from urllib.parse import quote

import httpx
import pytest

from perkamo.sandbox import Delay, Lost, Sandbox, Truncate, live, shown
from perkamo.sandbox.messages import Request
from tests.sandbox.browser import wait_for
from tests.sandbox.caller import event
from tests.sandbox.page import JSON, ORDER, arm, rows
from tests.sandbox.wire import Sender


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
        ({"text": "does not exist"}, ["GET"]),
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


def signed(wire: Sender, path: str, body: bytes) -> tuple[tuple[str, str], ...]:
    """The headers of a signed request, for a call inside the process."""
    return tuple(wire.signed(path, body).items())
