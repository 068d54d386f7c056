"""What a test holds in its hand: state, log, clock, tokens, reset, the control plane, the in-process transport."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest

from perkamo.sandbox import Clock, Sandbox
from perkamo.sandbox.ledger import CustomerChange, LedgerCleared
from perkamo.sandbox.messages import StreamingResponse
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.requestlog import MAX_RECORDED_BYTES, MAX_RECORDS, RequestLog, RequestRecord
from perkamo.sandbox.tokens import MAX_TOKENS, Token, TokenBook, TokenError
from tests.sandbox.caller import event
from tests.sandbox.wire import Sender, signed_headers

JUNE = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
CANARY = "canary@example.com"


def test_a_customer_shows_what_a_test_asks_for(sandbox: Sandbox, wire: Sender) -> None:
    """Expect balances, level, keys of perks and achievements, and traits; an empty one for a stranger."""
    wire.post("/v1/identify", {"user_id": "a", "traits": {"plan": "premium"}})
    wire.post("/v1/events", event(user_id="a", event="purchase.completed", context={"amount": 12900}))

    customer = sandbox.customer("a")

    assert (customer.user_id, customer.traits, customer.wallets) == ("a", {"plan": "premium"}, {"points": 129})
    assert (customer.level, customer.perks) == (2, ("welcome_member", "free_shipping"))
    assert customer.achievements == ("first_purchase",)
    stranger = sandbox.customer("nobody")
    assert (stranger.wallets, stranger.level, stranger.perks) == ({}, None, ())


def test_events_are_kept_in_order_and_by_customer(sandbox: Sandbox, wire: Sender) -> None:
    """Expect applied events only, oldest first, with what they earned."""
    for number, user_id in enumerate(["a", "b", "a"]):
        wire.post("/v1/events", event(user_id=user_id, transaction_id=str(number), context={"n": number}))
    wire.post("/v1/events", event(user_id="a", transaction_id="0"))

    assert [applied.transaction_id for applied in sandbox.events()] == ["0", "1", "2"]
    mine = sandbox.events("a")
    assert [(applied.context, applied.delta) for applied in mine] == [
        ({"n": 0}, {"points": 50}),
        ({"n": 2}, {"points": 50}),
    ]
    assert mine[0].occurred_at == "2026-06-01T10:00:00.000Z"


def test_an_event_without_a_time_gets_the_sandboxs(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the clock's time, as the API writes it."""
    sandbox.clock.freeze(JUNE)
    wire.post("/v1/events", event(occurred_at=...))

    applied = sandbox.events()[0]

    assert (applied.occurred_at, applied.received_at) == ("2026-06-01T10:00:00.000Z", JUNE.timestamp())


def test_the_request_log_keeps_what_was_sent_and_masks_keys(sandbox: Sandbox, wire: Sender) -> None:
    """Expect method, route, path, body bytes, status and notes; the signature, but no key, cookie or token."""
    wire.post("/v1/events", event(), {"authorization": "Bearer secret", "cookie": "a=secret", "x-other": "kept"})
    wire.get("/v1/customer/a%20b?x=1")
    wire.get("/v1/nowhere")

    sent, read, lost = sandbox.requests
    assert (sent.method, sent.route, sent.path, sent.status) == ("POST", "POST /v1/events", "/v1/events", 200)
    assert json.loads(sent.body) == event()
    assert (read.route, read.path, read.status) == ("GET /v1/customer/{user_id}", "/v1/customer/a%20b?x=1", 200)
    assert read.notes == ("no call takes a query",)
    assert (lost.route, lost.status) == (None, 404)
    assert sent.header("x-perkamo-api-key") == sent.header("authorization") == sent.header("cookie") == "***"
    assert sent.header("x-other") == "kept"
    assert (sent.header("x-perkamo-signature") or "").startswith("v1=")
    assert sent.header("absent") is None
    assert sandbox.api_key not in repr(sent.headers) + repr(sent)


def test_nothing_personal_and_no_secret_is_in_a_repr(sandbox: Sandbox, wire: Sender) -> None:
    """Expect ids, traits, contexts, paths, bodies, keys and tokens to stay out of the reprs of everything public."""
    wire.post("/v1/identify", {"user_id": CANARY, "traits": {"email": CANARY}})
    wire.post("/v1/events", event(user_id=CANARY, transaction_id=CANARY, context={"email": CANARY}))
    wire.get(f"/v1/customer/{CANARY}")
    token = wire.post("/v1/browser-tokens", {"browser_key": sandbox.browser_key, "user_id": CANARY}).json["token"]
    assert isinstance(token, str)

    shown = repr(
        (sandbox, sandbox.requests, sandbox.events(), sandbox.customer(CANARY), sandbox.check_token(token, "browser"))
    )

    for secret in (CANARY, token, sandbox.api_key, sandbox.browser_key):
        assert secret not in shown


def test_the_request_log_is_bounded_in_number_and_in_bytes() -> None:
    """Expect the oldest to go: catches a load test that eats the machine's memory."""
    log = RequestLog()
    for _ in range(MAX_RECORDS + 5):
        log.add(record())
    assert len(log.records()) == MAX_RECORDS
    for _ in range(40):
        log.add(record(body=bytes(2_000_000)))
    assert sum(kept.size for kept in log.records()) <= MAX_RECORDED_BYTES
    assert len(log.records()) == MAX_RECORDED_BYTES // 2_000_001


@pytest.mark.parametrize("part", ["path", "name", "value"])
def test_the_request_log_counts_heads_and_paths(part: str) -> None:
    """Expect 64 kB in a path or a header to count as in a body: catches 10,000 heads of 640 MB."""
    log, long = RequestLog(), "a" * 64_000
    made = {
        "path": record(path=long),
        "name": record(headers=((long, ""),)),
        "value": record(headers=(("x", long),)),
    }[part]

    for _ in range(1100):
        log.add(made)

    assert 990 < len(log.records()) <= 1000


def record(path: str = "/", headers: tuple[tuple[str, str], ...] = (), body: bytes = b"") -> RequestRecord:
    """A request of no interest but for its size."""
    return RequestRecord("GET", None, path, headers, body, 200, None, (), 0.0)


def test_reset_forgets_everything_quickly(sandbox: Sandbox, wire: Sender) -> None:
    """Expect a sandbox as new, on the same port with the same keys: state, log, faults, clock, ids."""
    keys = (sandbox.api_key, sandbox.browser_key, sandbox.base_url)
    first = wire.post("/v1/events", event()).headers["x-perkamo-request-id"]
    for number in range(200):
        wire.post("/v1/events", event(user_id=str(number), transaction_id=str(number)))
    sandbox.clock.advance(1000)

    began = time.thread_time()
    sandbox.reset()

    assert time.thread_time() - began < 0.1
    assert (sandbox.events(), sandbox.requests, sandbox.customer("1").wallets) == ((), (), {})
    assert abs(sandbox.clock.time() - time.time()) < 60
    again = wire.post("/v1/events", event())
    assert (again.json["duplicate"], again.headers["x-perkamo-request-id"]) == (False, first)
    assert (sandbox.api_key, sandbox.browser_key, sandbox.base_url) == keys


def test_reset_forgets_tokens(sandbox: Sandbox, wire: Sender) -> None:
    """Expect a token from before to be unknown."""
    token = wire.post("/v1/browser-tokens", {"browser_key": sandbox.browser_key, "user_id": "a"}).json["token"]
    assert isinstance(token, str)

    sandbox.reset()

    with pytest.raises(TokenError, match="unknown"):
        sandbox.check_token(token, "browser")


def test_keys_follow_from_the_seed() -> None:
    """Expect the same keys in every run, other ones for another seed, and server and browser key told apart."""
    assert Sandbox().api_key == Sandbox().api_key
    assert Sandbox(seed=1).api_key != Sandbox().api_key
    assert Sandbox().api_key.startswith("sk_test_")
    assert Sandbox().browser_key.startswith("pk_test_")


def test_the_clock_stands_runs_and_moves() -> None:
    """Expect freeze, advance, resume and reset to do what they say, forwards and back."""
    clock = Clock(ProcessLock(), JUNE)
    assert (clock.frozen, clock.now()) == (True, JUNE)

    clock.advance(90)
    clock.advance(timedelta(minutes=-1))
    assert clock.now() == JUNE + timedelta(seconds=30)

    clock.resume()
    assert not clock.frozen
    assert timedelta(seconds=30) <= clock.now() - JUNE < timedelta(seconds=90)

    clock.advance(timedelta(days=1))
    assert clock.now() - JUNE >= timedelta(days=1)

    clock.resume()
    clock.freeze()
    assert clock.now() == clock.now()

    clock.reset()
    assert abs(clock.time() - time.time()) < 60


@pytest.mark.parametrize(
    "wrong",
    [
        lambda clock: clock.freeze(datetime(2026, 6, 1)),  # noqa: DTZ001 - the naive time is the point
        lambda clock: clock.advance(float("nan")),
        lambda clock: clock.advance(float("inf")),
        lambda _: Sandbox(now=datetime(2026, 6, 1)),  # noqa: DTZ001 - as above
    ],
)
def test_the_clock_refuses_what_is_no_time(wrong: Callable[[Clock], object]) -> None:
    """Expect ValueError for a time without a zone and for endless moves."""
    with pytest.raises(ValueError):
        wrong(Clock(ProcessLock()))


def test_the_clock_drives_date_signatures_and_tokens() -> None:
    """Expect a signature to grow old and a token to expire when the sandbox's time moves, without waiting."""
    with Sandbox(now=JUNE) as sandbox:
        wire = Sender(sandbox)
        raw = json.dumps(event()).encode()
        headers = wire.signed("/v1/events", raw)
        wish = {"browser_key": sandbox.browser_key, "user_id": "a", "purpose": "stream", "ttl_seconds": 60}
        token = wire.post("/v1/browser-tokens", wish).json["token"]
        assert isinstance(token, str)

        sandbox.clock.advance(59)
        assert sandbox.check_token(token, "stream").user_id == "a"
        assert wire.send("POST", "/v1/events", raw, headers).status == 200
        sandbox.clock.advance(1)
        with pytest.raises(TokenError, match="expired"):
            sandbox.check_token(token, "stream")
        sandbox.clock.advance(241)
        late = wire.send("POST", "/v1/events", raw, headers)

        assert (late.status, late.headers["date"]) == (401, "Mon, 01 Jun 2026 10:05:01 GMT")
        assert "301 s behind" in late.message
        sandbox.reset()
        assert sandbox.clock.now() == JUNE
        wire.close()


def test_a_token_is_good_for_its_purpose_only() -> None:
    """Expect a browser token not to open a stream, nor the other way round."""
    book = TokenBook()
    book.add(Token("text", "a", "browser", 10))

    assert book.check("text", "browser", 9.9).user_id == "a"
    with pytest.raises(TokenError, match="purpose"):
        book.check("text", "stream", 9.9)
    with pytest.raises(TokenError, match="unknown"):
        book.check("other", "browser", 9.9)


def test_the_token_book_is_bounded() -> None:
    """Expect the oldest token to go."""
    book = TokenBook()
    for number in range(MAX_TOKENS + 1):
        book.add(Token(str(number), "a", "browser", 10))

    with pytest.raises(TokenError, match="unknown"):
        book.check("0", "browser", 1)
    assert book.check(str(MAX_TOKENS), "browser", 1).user_id == "a"


def test_listeners_hear_of_changes_and_resets(sandbox: Sandbox, wire: Sender) -> None:
    """Expect one call for each change, with the customer as it is then; none for reads and duplicates."""
    heard: list[CustomerChange | LedgerCleared] = []
    end = sandbox.listen(heard.append)

    wire.post("/v1/identify", {"user_id": "a", "traits": {"plan": "premium"}})
    wire.post(
        "/v1/events:batch", {"events": [event(user_id="a"), event(user_id="a"), event(user_id="b", transaction_id="2")]}
    )
    wire.get("/v1/customer/a")
    sandbox.reset()
    wire.post("/v1/events", event(user_id="c"))
    end()
    wire.post("/v1/events", event(user_id="d", transaction_id="3"))

    serials = [(change.serial, change.user_id) if isinstance(change, CustomerChange) else None for change in heard]
    assert serials == [(1, "a"), (2, "a"), (3, "b"), None, (1, "c")]
    second = heard[1]
    assert isinstance(second, CustomerChange)
    assert second.customer["wallets"] == {"points": 50}
    assert second.customer["traits"] == {"plan": "premium"}
    assert sandbox.customer_json("c")["wallets"] == {"points": 50}


@pytest.mark.anyio
async def test_the_in_process_transport_knows_the_same_truth() -> None:
    """Expect state, signature checks, log and headers to be the socket's, on both backends, without start()."""
    sandbox = Sandbox()
    raw = json.dumps(event()).encode()
    async with httpx.AsyncClient(transport=sandbox.transport(), base_url="http://sandbox") as client:
        applied = await client.post(
            "/v1/events", content=raw, headers=signed_headers(sandbox.api_key, sandbox.clock.time(), "/v1/events", raw)
        )
        unsigned = await client.post("/v1/events", content=raw, headers={"x-perkamo-api-key": sandbox.api_key})

    assert applied.json()["applied"] is True
    assert applied.headers["x-perkamo-sandbox"] == "1"
    assert applied.headers["content-length"] == str(len(applied.content))
    assert unsigned.status_code == 401
    assert sandbox.customer("customer_123").wallets == {"points": 50}
    assert [record.status for record in sandbox.requests] == [200, 401]


@pytest.mark.anyio
async def test_the_in_process_transport_streams() -> None:
    """Expect chunks as they are made, and the generator closed when the client leaves early."""
    closed = False

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            yield b"first"
            yield b"second"
            await anyio.sleep(3600)
        finally:
            closed = True

    sandbox = Sandbox()
    sandbox.add_handler(lambda _: StreamingResponse(200, (("content-type", "text/event-stream"),), chunks))
    request = httpx.Request("GET", "http://sandbox/v1/client/customer/a/stream")

    # Not through httpx.AsyncClient: on trio, httpx leaves generators of its own behind when a stream is left early.
    answer = await sandbox.transport().handle_async_request(request)
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    received = aiter(answer.stream)
    assert [await anext(received), await anext(received)] == [b"first", b"second"]
    await answer.stream.aclose()

    assert closed


def test_a_program_of_ones_own_is_served(wire: Sender) -> None:
    """Expect rules from a dict to earn, and to be in the catalogue."""
    program = {
        "wallets": [{"key": "xp"}],
        "earningRules": [{"event": "lesson.done", "reward": {"formula": "{{minutes}} * 2"}}],
    }
    with Sandbox(program) as sandbox:
        wire = Sender(sandbox)
        answer = wire.post("/v1/events", event(event="lesson.done", context={"minutes": 7}))

        assert (answer.json["wallet_state"], answer.json["level"]) == ({"xp": 14}, None)
        assert sandbox.customer("customer_123").level is None
        assert b'"earningRules":[{"event":"lesson.done"' in wire.get("/v1/program").raw
        wire.close()
