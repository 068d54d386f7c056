"""client: no key and no personal data in any text that others may read (P10)."""

import copy
import json
import logging
import pickle
import re
import threading
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from perkamo import (
    AsyncPerkamoClient,
    Event,
    PerkamoClient,
    PerkamoConfigurationError,
    PerkamoError,
    PerkamoStreamError,
    RetryPolicy,
)
from perkamo.sandbox import Delay, Lost, Reset, Sandbox, Status, Truncate
from tests.canary import CANARY_EMAIL, CANARY_KEY, CanaryHandler, find_canary, frames
from tests.faults.rawserver import Connection, RawServer, answer, answering
from tests.waiting import cancelled_once

pytestmark = pytest.mark.anyio

Call = Callable[[AsyncPerkamoClient], Awaitable[object]]
CALLS: list[tuple[str, Call]] = [
    ("identify", lambda client: client.identify(CANARY_EMAIL, {"email": CANARY_EMAIL})),
    ("emit", lambda client: client.emit(CANARY_EMAIL, "e", {"email": CANARY_EMAIL}, transaction_id=CANARY_EMAIL)),
    ("batch", lambda client: client.batch([{"user_id": CANARY_EMAIL, "event": "e", "transaction_id": CANARY_EMAIL}])),
    ("customer", lambda client: client.customer(CANARY_EMAIL)),
    ("token", lambda client: client.create_browser_token("pk_test_x", CANARY_EMAIL)),
    ("request", lambda client: client.request("POST", "/v1/rewards/redeem", {"user_id": CANARY_EMAIL})),
]


@pytest.fixture
def canary_client(sandbox: Sandbox) -> AsyncPerkamoClient:
    """A client whose key is the canary; the sandbox refuses it, which is an answer like any other."""
    return AsyncPerkamoClient(CANARY_KEY, base_url=sandbox.base_url, retry=RetryPolicy.none(), timeout=5)


FAULTS = [None, Status(500), Status(302), Lost(), Reset(before="apply"), Reset(after="apply"), Truncate(3)]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
async def test_no_key_is_in_any_frame_of_an_error(
    name: str, call: Call, fault: Status | None, canary_client: AsyncPerkamoClient, sandbox: Sandbox
) -> None:
    """What Sentry would collect from each failure holds no key; catches a header or a key in a local variable."""
    if fault is not None:
        sandbox.faults.rate(1.0, fault, seed=1)

    async with canary_client:
        with pytest.raises(PerkamoError) as caught:
            await call(canary_client)

    sandbox.faults.clear()
    shown = [text for text in frames(caught.value) if CANARY_KEY in text]
    assert shown == []
    assert find_canary(str(caught.value)) is None
    assert find_canary(repr(caught.value)) is None


async def test_no_key_is_in_any_frame_of_a_cancelled_call(sandbox: Sandbox) -> None:
    """A cancellation carries its traceback, too; catches frames of the connection with their headers."""
    sandbox.faults.next("POST /v1/events", Delay(30))
    client = AsyncPerkamoClient(CANARY_KEY, base_url=sandbox.base_url)
    seen: list[str] = []

    async def emit() -> None:
        try:
            await client.emit("u", "e")
        except BaseException as error:
            seen.extend(frames(error))
            raise

    async with client, cancelled_once(lambda: sandbox.requests):
        await emit()

    assert seen
    assert [text for text in seen if CANARY_KEY in text] == []
    sandbox.faults.clear()


async def test_a_working_call_logs_what_an_operator_needs_and_no_more(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, endpoint, status, attempt, wait and request id are logged; no id, no key, not even by httpx at DEBUG."""
    caplog.set_level(logging.DEBUG)
    sandbox.faults.next("GET /v1/customer/{user_id}", Status(503))
    policy = RetryPolicy(base_delay=0.001)

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=policy) as client:
        customer = await client.customer(CANARY_EMAIL)

    ours = [record.getMessage() for record in caplog.records if record.name == "perkamo"]
    plain = [re.sub(r"\d\.\d{3} s", "N s", line.replace(str(customer.meta.request_id), "ID")) for line in ours]
    assert plain[0].startswith(
        "GET /v1/customer/{user_id}: attempt 1 ended with PerkamoServerError 503 in N s (request"
    )
    assert plain[0].endswith("); attempt 2 follows in N s")
    assert plain[1:] == [
        "GET /v1/customer/{user_id}: attempt 2 succeeded: 200 in N s (request id ID)",
        "GET /v1/customer/{user_id}: the call succeeded: 200 after 2 attempts in N s",
    ]
    httpx_lines = {record.getMessage() for record in caplog.records if record.name == "httpx"}
    assert httpx_lines == {"HTTP Request: GET /v1/customer/{user_id}"}
    everything = "\n".join(record.getMessage() + repr(record.__dict__) for record in caplog.records)
    assert find_canary(everything) is None
    assert sandbox.api_key not in everything


KEY = "live_key_without_prefix_7d1f0c"
TOKEN = "stream_token_3f9a"
USER = "customer 77/ž"
FACTS = {"name": "Jana Nováková", "note": ["call at eight", {"phone": "420 777 123 456"}], "amount": 5}
TEXTS = ("Jana Nováková", "call at eight", "420 777 123 456")
USER_PATH = f"/v1/customer/{quote(USER, safe='')}"

HOLDING: list[tuple[str, Call, tuple[str, ...]]] = [
    ("identify", lambda client: client.identify(USER, FACTS), (KEY, USER, *TEXTS)),
    (
        "emit",
        lambda client: client.emit(USER, "e", FACTS, transaction_id="order-1092"),
        (KEY, USER, "order-1092", *TEXTS),
    ),
    ("batch", lambda client: client.batch([Event(USER, "e", "order-1092", FACTS)]), (KEY, USER, "order-1092", *TEXTS)),
    ("customer", lambda client: client.customer(USER), (KEY, USER, USER_PATH)),
    ("token", lambda client: client.create_stream_token("pk_test_x", USER), (KEY, USER, "pk_test_x")),
    ("PATCH", lambda client: client.request("PATCH", USER_PATH, {"facts": [*TEXTS]}), (KEY, USER, USER_PATH, *TEXTS)),
    ("GET", lambda client: client.request("GET", f"/v1/usage?user={quote(USER, safe='')}"), (KEY, USER)),
    ("stream", lambda client: client.subscribe_customer(USER, TOKEN).receive(), (TOKEN, USER)),
]
"""Calls, and the texts that each request holds."""


@pytest.mark.parametrize(
    ("call", "word"),
    [(call, word) for _, call, words in HOLDING for word in words],
    ids=[f"{name}: {number}" for name, _, words in HOLDING for number, _ in enumerate(words)],
)
async def test_what_the_service_repeats_of_a_request_is_hidden(
    call: Call, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By value, percent-encoded and cut off too, in message, log and request id; catches a search by shape."""
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"message": f"Nothing for {word} or {quote(word, safe='')} here"}).encode()
    refusal = answer(body, "400 No", [f"x-request-id: {quote(word, safe='')}"])
    with RawServer(answering(refusal)) as server:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url, retry=RetryPolicy.none()) as client:
            with pytest.raises(PerkamoError) as caught:
                await call(client)

    told = f"{caught.value}\n" + "\n".join(record.getMessage() for record in caplog.records)
    shown = "/v1/customer/" if word == USER_PATH else "***"
    assert f"Nothing for {shown}" in told
    assert word not in told
    assert quote(word, safe="") not in told
    assert KEY not in "\n".join(frames(caught.value))
    assert TOKEN not in "\n".join(frames(caught.value))


async def test_an_item_of_a_batch_that_repeats_what_was_sent_is_cleaned() -> None:
    """The reason becomes a dead letter; catches an event that is refused in words about a customer."""
    item = {"error": {"message": f"no {USER} with {KEY} for Jana Nováková", "code": "order-1092"}}
    with RawServer(answering(answer(json.dumps({"results": [item]}).encode()))) as server:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url) as client:
            result = await client.batch([Event(USER, "e", "order-1092", FACTS)])

    with pytest.raises(PerkamoError, match=r"no \*\*\* with \*\*\* for \*\*\*") as caught:
        result.raise_for_failures()
    assert "order-1092" not in str(caught.value)


@pytest.mark.parametrize("body", [b"[1", b'{"results":[{"error":"no"}]}'], ids=["unreadable", "refused"])
async def test_a_request_id_of_an_answer_is_cleaned(body: bytes) -> None:
    """Gateways make it of the transaction id; catches an id in the error about an answer that is a success."""
    with RawServer(answering(answer(body, "200 OK", ["x-request-id: req-order-1092"]))) as server:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url, retry=RetryPolicy.none()) as client:
            with pytest.raises(PerkamoError, match=r"request id req-\*\*\*\)") as caught:
                (await client.batch([Event(USER, "e", "order-1092", FACTS)])).raise_for_failures()
            with pytest.raises(PerkamoError) as unread:
                await client.emit(USER, "e", transaction_id="order-1092")

    assert "order-1092" not in f"{caught.value} {unread.value}"


TRUNCATED = b'{"token":"%s","token_type"' % TOKEN.encode()
PATIENT = ("identify", "customer", "request", "batch")
"""Calls whose answers are unpublished, so that other JSON is read, too."""
UNREADABLE = [TRUNCATED, TRUNCATED + b':"Bearer"}', b'[{"token":"%s"}]' % TOKEN.encode(), b'"%s"' % TOKEN.encode()]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(4))
@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
async def test_an_answer_that_cannot_be_read_is_in_no_frame(name: str, call: Call, body: bytes) -> None:
    """A token that came is no token for a crash reporter; catches the body in a local variable."""
    with RawServer(answering(answer(body))) as server:
        async with AsyncPerkamoClient(KEY, base_url=server.base_url) as client:
            caught: list[PerkamoError] = []
            try:
                await call(client)
            except PerkamoError as error:
                caught.append(error)

    assert caught or name in PATIENT
    assert [text for error in caught for text in frames(error) if TOKEN in text] == []


async def test_the_data_of_a_stream_is_in_no_frame() -> None:
    """An event that is no customer, and one that is too large; catches a customer in a crash report."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    for data in (b"data: not %s\n\n", b"data: {}\n\ndata: " + b"%s " * 100_000 + b"\n\n"):
        stream = head + data.replace(b"%s", CANARY_EMAIL.encode())
        with RawServer(answering(stream)) as server:
            async with AsyncPerkamoClient(KEY, base_url=server.base_url) as client:
                events = client.subscribe_customer("u", TOKEN, bad_data="raise" if b"not" in data else "skip")
                with pytest.raises(PerkamoStreamError) as caught:
                    await events.receive()
        assert [text for text in frames(caught.value) if find_canary(text)] == []


def speak_http2(connection: Connection) -> None:
    """Answer each request with an empty object, over HTTP/2."""
    peer = H2Connection(H2Configuration(client_side=False))
    peer.initiate_connection()
    connection.send(peer.data_to_send())
    while data := connection.read_some(65_536):
        for happened in peer.receive_data(data):
            if isinstance(happened, StreamEnded):
                peer.send_headers(happened.stream_id, [(":status", "200")])
                peer.send_data(happened.stream_id, b"{}", end_stream=True)
        connection.send(peer.data_to_send())


async def test_no_header_is_logged_over_http2(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG the packer of headers logs all of them, also to others' log files; catches a key in one of them."""
    caplog.set_level(logging.DEBUG)
    with RawServer(speak_http2) as server:
        async with (
            httpx.AsyncClient(http1=False, http2=True, trust_env=False) as http,
            AsyncPerkamoClient(KEY, base_url=server.base_url, http_client=http) as client,
        ):
            await client.customer("alice-5e0d1")
            await client.identify("alice-5e0d1", {"name": "alice-5e0d1"})
            await http.post(server.base_url, headers={"x-other": "their own"})

    ours = [record.getMessage() for record in caplog.records if record.thread == threading.get_ident()]
    assert not [text for text in ours if KEY in text or "5e0d1" in text]
    assert [text for text in ours if "their own" in text]


async def test_other_users_of_httpx_keep_their_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Outside our calls httpx logs as ever; catches a filter that swallows foreign records."""
    caplog.set_level(logging.INFO)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(204))) as client:
        await client.get("https://other.test/path")

    assert 'HTTP Request: GET https://other.test/path "HTTP/1.1 204 No Content"' in caplog.messages


@pytest.mark.parametrize("wrong", [{"base_url": "ftp://x"}, {"timeout": -1}], ids=repr)
@pytest.mark.parametrize("cls", [AsyncPerkamoClient, PerkamoClient])
def test_a_failed_construction_shows_no_key(
    cls: type[AsyncPerkamoClient] | type[PerkamoClient], wrong: dict[str, object]
) -> None:
    """The key is an argument of the constructor, whose frame is shown; catches a key that stays in that frame."""
    with pytest.raises(PerkamoConfigurationError) as caught:
        cls(CANARY_KEY, **wrong)  # type: ignore[arg-type]  # wrong on purpose

    assert [text for text in frames(caught.value) if CANARY_KEY in text] == []


def test_no_repr_of_a_client_shows_the_key() -> None:
    """repr, str, format and vars of the client and what hangs on it; catches an attrs repr of the key."""
    client = AsyncPerkamoClient(CANARY_KEY)

    parts = [client, client._exchange, client._exchange.sender, *vars(client._exchange.sender).values()]
    texts = [text for part in parts for text in (repr(part), str(part), format(part))]
    texts += [repr(vars(part)) for part in (client, client._exchange.sender)]

    assert [text for text in texts if CANARY_KEY in text] == []
    assert repr(client) == "<AsyncPerkamoClient https://api.perkamo.com>"


@pytest.mark.parametrize("kind", [AsyncPerkamoClient, PerkamoClient])
@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_a_client_goes_into_no_pickle_and_has_no_copies(
    way: Callable[[object], object], kind: type[AsyncPerkamoClient | PerkamoClient]
) -> None:
    """A task queue is told what to do instead; catches a key in its store, or a copy that shares sockets."""
    with pytest.raises(TypeError, match="cannot be pickled or copied: build one where it is needed"):
        way(kind(CANARY_KEY))


def test_the_search_finds_what_it_looks_for() -> None:
    """The handler and the frame walk see a planted canary; catches a scan that can't fail."""
    handler = CanaryHandler()
    handler.emit(logging.makeLogRecord({"msg": "user %s", "args": (CANARY_EMAIL,)}))
    handler.emit(logging.makeLogRecord({"msg": "fine", "extra_key": CANARY_KEY}))
    handler.emit(logging.makeLogRecord({"msg": "fine"}))
    code = compile(f"key = {CANARY_KEY!r}\nraise ValueError('x')", "planted.py", "exec")

    with pytest.raises(ValueError, match="x") as caught:
        exec(code, {})

    assert len(handler.seen) == 2
    assert any(CANARY_KEY in text for text in frames(caught.value))
