"""Rules A to C of the stream: what a connection asks for, and which answers are streams.

Not tested, because there is nothing to test: A5 (the caller gives no headers or parameters).
"""

import gzip
import json
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    BrowserToken,
    PerkamoApiError,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoPermissionError,
    PerkamoRedirectError,
    PerkamoServerError,
    PerkamoStreamError,
    PerkamoValidationError,
    ReconnectPolicy,
)
from perkamo.stream.sse import MAX_EVENT_SIZE
from perkamo.stream.stream import CustomerStream
from tests.canary import PACKAGE
from tests.faults.rawserver import Connection, RawServer, answer, answering
from tests.stream.scripts import (
    CHUNKED,
    HEAD,
    OwnedTime,
    collect,
    customer,
    event,
    gone,
    points,
    refusing,
    resumed_at,
    sending,
    stalling,
    subscribe,
    until,
)

pytestmark = pytest.mark.anyio


# A. The request


async def test_every_connection_asks_for_a_stream_with_the_same_headers() -> None:
    """One Accept, no-cache, identity, the token and no server key, at the assumed path, each time; A1, A2, A4."""
    heads: list[list[str]] = []

    def raw(connection: Connection) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.read_some(65_536)
        heads.append(data.decode("latin-1").lower().rstrip().split("\r\n"))
        connection.send(HEAD + event(1))

    with RawServer(raw, raw, gone) as server:
        await collect(subscribe(server, token="token_1"))

    for line, *headers in heads:
        assert line == "get /v1/client/customer/customer_123/stream http/1.1"
        assert [one for one in headers if one.startswith("accept:")] == ["accept: text/event-stream"]
        assert "cache-control: no-cache" in headers
        assert "accept-encoding: identity" in headers
        assert "authorization: bearer token_1" in headers
        assert not [one for one in headers if "sk_test" in one or "perkamo-signature" in one or "api-key" in one]
    assert len(heads) == 2


async def test_a_fresh_subscription_asks_for_now() -> None:
    """The first request has no Last-Event-ID; A3."""
    with RawServer(gone) as server:
        await collect(subscribe(server))

    assert resumed_at(server) == [None]


async def test_a_given_id_is_sent_and_stays_in_force() -> None:
    """An id of the caller counts as if it had been received: sent, reported and sent again; A3."""
    with RawServer(sending(event(1)), gone) as server:
        [update] = await collect(stream := subscribe(server, last_event_id="41"))

    assert resumed_at(server) == ["41", "41"]
    assert update.id == "41"
    assert stream.last_event_id == "41"


@pytest.mark.parametrize("wrong", ["a\r\nx: y", "a\nb", "a\0b", "\ud800", 7])
async def test_an_id_that_would_be_another_header_is_refused(wrong: str) -> None:
    """CR, LF, NUL and what is no text never reach a header; E8."""
    with RawServer(gone) as server, pytest.raises(PerkamoValidationError) as caught:
        subscribe(server, last_event_id=wrong)

    assert caught.value.field == "last_event_id"


async def test_the_path_is_an_option_of_the_client() -> None:
    """What is assumed can be corrected without a new version; the id is encoded, and a base URL's prefix is kept."""
    with RawServer(gone) as server:
        client = AsyncPerkamoClient(
            "sk_test_x", base_url=f"{server.base_url}/pfx", stream_path="/v1/live/{user_id}/events"
        )
        await collect(client.subscribe_customer("a/b c", "token_1"))

    assert server.requests[0].line == "GET /pfx/v1/live/a%2Fb%20c/events HTTP/1.1"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "/v2/{user_id}",
        "/v1/stream",
        "/v1/x{user_id}",
        "/v1/{user_id}/../x",
        "/v1/{user_id}?a=1",
        "/v1/{user_id}/{user_id}",
        5,
    ],
)
def test_a_path_that_can_not_be_is_refused(wrong: str) -> None:
    """A path without the id, or one that leads elsewhere, fails when the client is built."""
    with pytest.raises(PerkamoConfigurationError):
        AsyncPerkamoClient("sk_test_x", stream_path=wrong)


# The token


Suppliers = list[
    Callable[[], str]
    | Callable[[], BrowserToken]
    | Callable[[], Awaitable[str]]
    | Callable[[], Awaitable[BrowserToken]]
]


def _suppliers() -> Suppliers:
    """Sync and async suppliers, of text and of what the client returns."""
    token = BrowserToken("fresh", "Bearer", datetime(2026, 1, 1, tzinfo=UTC), 120)

    async def text() -> str:
        return "fresh"

    async def whole() -> BrowserToken:
        return token

    def plain() -> Awaitable[str]:
        return text()

    return [lambda: "fresh", lambda: token, text, whole, plain]


@pytest.mark.parametrize(
    "supplier", _suppliers(), ids=["text", "token", "async text", "async token", "plain, awaitable"]
)
async def test_a_supplier_is_asked_before_each_connection(supplier: Callable[[], str]) -> None:
    """Tokens live for minutes: each connection asks for one, however the supplier is written; A4."""
    asked: list[object] = []

    def counting() -> str:
        asked.append(None)
        return supplier()

    with RawServer(sending(event(1)), sending(event(2)), gone) as server:
        await collect(subscribe(server, counting))

    assert [request.headers["authorization"] for request in server.requests] == ["Bearer fresh"] * 3
    assert len(asked) == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_renewed_once_and_at_once(status: int) -> None:
    """401 and 403 ask the supplier again without a wait; the fresh token opens the stream; B8 and the issue."""
    tokens = iter(["stale", "fresh", "later"])
    time = OwnedTime()

    with RawServer(refusing(f"{status} No"), sending(event(1)), gone) as server:
        updates = await collect(subscribe(server, lambda: next(tokens), time=time))

    assert points(updates) == [1]
    assert [request.headers["authorization"][7:] for request in server.requests] == ["stale", "fresh", "later"]
    assert len(time.slept) == 1  # after the end of the open stream


async def test_each_open_connection_earns_another_renewal() -> None:
    """A stream that lives for days may renew more than once."""
    tokens = iter("abcdef")
    scripts = (refusing("401 No"), sending(event(1)), refusing("401 No"), sending(event(2)), gone)

    with RawServer(*scripts) as server:
        updates = await collect(subscribe(server, lambda: next(tokens)))

    assert points(updates) == [1, 2]


@pytest.mark.parametrize(("status", "requests"), [(401, 2), (403, 2)])
async def test_a_fresh_token_that_is_refused_ends_the_stream(status: int, requests: int) -> None:
    """Two refusals in a row are final; nothing asks for ever."""
    with RawServer(refusing(f"{status} No")) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server, lambda: "token_1"))

    assert caught.value.status == status
    assert len(server.requests) == requests


async def test_a_fixed_token_is_refused_once() -> None:
    """Text can't be renewed: the first 401 is final."""
    with RawServer(refusing("401 No")) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server, "token_1"))

    assert caught.value.status == 401
    assert len(server.requests) == 1


async def test_a_supplier_may_fail_for_a_while() -> None:
    """A retryable error of the supplier, such as that of an outage, is waited out as the stream's own."""
    answers = iter([PerkamoConnectionError("no network", retryable=True), None])
    time = OwnedTime()

    async def supplier() -> str:
        problem = next(answers)
        if problem is not None:
            raise problem
        return "token_1"

    with RawServer(gone) as server:
        await collect(subscribe(server, supplier, time=time))

    assert time.slept == [1]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        (PerkamoPermissionError("no", status=403), PerkamoPermissionError),
        (KeyError("token_1"), PerkamoConfigurationError),
    ],
)
async def test_a_supplier_that_fails_for_good_ends_the_stream(problem: Exception, raised: type[PerkamoError]) -> None:
    """Its own error of ours comes through, any other as a configuration error that shows no token."""

    def supplier() -> str:
        raise problem

    with RawServer(gone) as server, pytest.raises(raised) as caught:
        await collect(subscribe(server, supplier))

    assert server.accepted == 0
    assert "token_1" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", "a b", "a\nb", "é", None, 5, b"token", "sk_live_0123"])
async def test_what_is_no_token_is_refused(wrong: str) -> None:
    """Fixed or supplied, it never reaches a request, least of all a server key; the message does not show it."""
    with RawServer(gone) as server:
        with pytest.raises(PerkamoValidationError) as fixed:
            subscribe(server, wrong)
        with pytest.raises(PerkamoConfigurationError) as supplied:
            await collect(subscribe(server, lambda: wrong))

    assert server.accepted == 0
    for caught in (fixed, supplied):
        assert "0123" not in str(caught.value)


async def test_the_caller_s_own_log_lines_of_httpx_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """While a stream is open and after it, in the very task; catches a label of ours that is never taken back."""
    caplog.set_level(logging.INFO)
    with RawServer(stalling(event(1)), answering(answer()), answering(answer())) as server:
        async with subscribe(server) as stream, httpx.AsyncClient(trust_env=False) as own:
            await stream.receive()
            await own.get(f"{server.base_url}/while")
        async with httpx.AsyncClient(trust_env=False) as own:
            await own.get(f"{server.base_url}/after")

    lines = [record.getMessage() for record in caplog.records if record.name == "httpx"]
    assert [line.split('"')[0] for line in lines] == [
        "HTTP Request: GET /v1/client/customer/{user_id}/stream",
        f"HTTP Request: GET {server.base_url}/while ",
        f"HTTP Request: GET {server.base_url}/after ",
    ]


async def test_no_frame_log_or_repr_shows_token_or_id(caplog: pytest.LogCaptureFixture) -> None:
    """Errors, their causes, every frame's variables, all records and reprs are free of the token and the customer."""
    caplog.set_level(logging.DEBUG)
    token = "st_" + "secret_0123"
    problem: BaseException | None = None

    with RawServer(
        sending(event(1)), refusing("503 No"), refusing("404 No", body=b'{"message":"customer_123"}')
    ) as server:
        stream = subscribe(server, token)
        try:
            await collect(stream)
        except PerkamoStreamError as error:
            problem = error

    texts = [
        repr(stream),
        *(record.getMessage() for record in caplog.records if record.name.startswith(("perkamo", "httpx"))),
    ]
    assert problem is not None
    while problem is not None:
        texts.append(str(problem))
        trace = problem.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.startswith((PACKAGE, str(Path(httpx.__file__).parent))):
                texts.extend(repr(value) for value in trace.tb_frame.f_locals.values())
            trace = trace.tb_next
        problem = problem.__cause__ or problem.__context__
    assert not [text for text in texts if token in text]
    assert not [text for text in texts if "customer_123" in text]


# B. Statuses and redirects


async def test_204_ends_the_iteration() -> None:
    """Nothing to subscribe to is a normal end, for ever; B1."""
    with RawServer(gone) as server:
        stream = subscribe(server)
        updates = await collect(stream)

        assert await stream.receive() is None
    assert updates == []
    assert stream.state == "closed"
    assert len(server.requests) == 1


async def test_204_after_a_stream_ends_the_iteration() -> None:
    """What was delivered stays delivered, and there are exactly two requests; B2."""
    with RawServer(sending(event(1), event(2)), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1, 2]
    assert len(server.requests) == 2


@pytest.mark.parametrize("location", ["there", "", None])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int, location: str | None) -> None:
    """A token must not travel: every redirect is final, its host sees nothing; B3 to B7, where the house rule wins."""
    with RawServer(gone) as elsewhere:
        headers = [] if location is None else [f"location: {elsewhere.base_url if location else ''}"]
        with RawServer(refusing(f"{status} Moved", *headers)) as server, pytest.raises(PerkamoStreamError) as caught:
            await collect(subscribe(server))

    assert caught.value.status == status
    assert isinstance(caught.value.__cause__, PerkamoRedirectError)
    assert (len(server.requests), elsewhere.accepted) == (1, 0)


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 422, 451, 499])
async def test_a_refusal_is_final(status: int) -> None:
    """No other 4xx is tried again, on the first connection or later; the cause has status and body; B8."""
    refusal = refusing(f"{status} No", "content-type: application/json", body=b'{"message":"not today"}')

    for scripts in ((refusal,), (sending(event(1)), refusal)):
        with RawServer(*scripts) as server, pytest.raises(PerkamoStreamError) as caught:
            await collect(subscribe(server, lambda: "token_1"))

        assert caught.value.status == status
        assert not caught.value.retryable
        assert "not today" in str(caught.value)
        assert isinstance(caught.value.__cause__, PerkamoApiError)
        assert caught.value.__cause__.body == {"message": "not today"}
        assert len(server.requests) == len(scripts)


@pytest.mark.parametrize("status", [201, 202, 203, 205, 206, 210, 299])
async def test_no_other_2xx_is_a_stream(status: int) -> None:
    """Its body never reaches the decoder; B9."""
    head = HEAD.replace(b"200 OK", f"{status} Hm".encode())

    with RawServer(sending(event(1), head=head)) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server))

    assert caught.value.status == status
    assert f"status {status}" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
async def test_an_outage_is_waited_out(status: int) -> None:
    """These are tried again, with a wait, also on the first connection; B10, D4."""
    time = OwnedTime()

    with RawServer(refusing(f"{status} Later"), sending(event(1)), refusing(f"{status} Later"), gone) as server:
        updates = await collect(subscribe(server, time=time))

    assert points(updates) == [1]
    assert time.slept == [1, 1, 1]
    assert len(server.requests) == 4


async def test_a_conflict_is_waited_out_where_it_says_when() -> None:
    """409 with Retry-After is tried again as in a call, without it it is final; catches two tables."""
    time = OwnedTime()
    scripts = (refusing("409 No", "retry-after: 7"), refusing("409 No"))
    with RawServer(*scripts) as server, pytest.raises(PerkamoStreamError, match="409") as caught:
        await collect(subscribe(server, time=time))

    assert time.slept == [7]
    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (409, 2, False)


@pytest.mark.parametrize("before", [0, 1, 4])
async def test_a_fatal_error_counts_the_attempts_in_a_row(before: int) -> None:
    """What failed since the last update and the attempt that ended it; catches a count that is one too low."""
    failing = [refusing("503 Later")] * before
    with RawServer(sending(event(1)), *failing, refusing("404 No")) as server:
        stream = subscribe(server)
        with pytest.raises(PerkamoStreamError, match="404") as caught:
            await collect(stream)

    assert caught.value.attempts == before + 1
    assert len(server.requests) == before + 2


@pytest.mark.parametrize("status", [503, 404, 299, 400])
async def test_a_body_that_looks_like_a_stream_is_none_without_a_200(status: int) -> None:
    """Only 200 is a stream, whatever the content type; an endless body is not read either; B11."""
    head = HEAD.replace(b"200 OK", f"{status} No".encode())

    with RawServer(stalling(event(1), head=head), gone) as server:
        if status == 503:
            assert await collect(subscribe(server)) == []
        else:
            with pytest.raises(PerkamoStreamError):
                await collect(subscribe(server))

    assert len(server.requests) == (2 if status == 503 else 1)


async def test_an_error_names_the_status_and_not_the_content_type() -> None:
    """A gateway's page in HTML is an outage, not a wrong type; B12."""
    page = refusing("503 Service Unavailable", "content-type: text/html", body=b"<h1>Sorry</h1>")

    with RawServer(page) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server, policy=ReconnectPolicy(attempts=1)))

    assert caught.value.status == 503
    assert "503" in str(caught.value)
    assert "type" not in str(caught.value)
    assert isinstance(caught.value.__cause__, PerkamoServerError)


# C. Content type and decoding


@pytest.mark.parametrize(
    "kind",
    [
        "text/event-stream",
        "text/event-stream;charset=utf-8",
        "text/event-stream ; charset=utf-8",
        "text/event-stream;",
        "Text/Event-Stream",
        "text/event-stream; charset=windows-1252",
        "text/event-stream; charset=utf-16",
        "text/event-stream; charset=nonsense",
    ],
)
async def test_an_event_stream_is_utf_8_whatever_its_label_says(kind: str) -> None:
    """The essence of the type counts, in any case, and no charset changes the text; C1, C4."""
    head = HEAD.replace(b"text/event-stream", kind.encode())
    body = '{"user_id":"u","traits":{"name":"Žofie 😀"}}'.encode()

    with RawServer(sending(b"data: " + body + b"\n\n", head=head), gone) as server:
        [update] = await collect(subscribe(server))

    assert update.customer.traits == {"name": "Žofie 😀"}


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/json",
        "text/html",
        "x bogus",
        "",
        None,
        "text/event-streamx",
        "xtext/event-stream",
        "application/text/event-stream",
        "text/event-stream, text/html",
    ],
)
async def test_any_other_type_is_final(kind: str | None) -> None:
    """Neither a prefix nor a part of the name will do, and no event comes of it; C2, C3."""
    line = b"" if kind is None else f"content-type: {kind}\r\n".encode()
    head = HEAD.replace(b"content-type: text/event-stream\r\n", line)

    with RawServer(sending(event(1), head=head)) as server, pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(server))

    assert "content type" in str(caught.value)
    assert caught.value.status == 200
    assert len(server.requests) == 1


async def test_invalid_utf_8_is_replaced_and_the_stream_goes_on() -> None:
    """A broken letter costs that letter; C5, D14."""
    broken = b'data: {"user_id":"u","traits":{"name":"\xff"}}\n\n'

    with RawServer(sending(broken, b"unknown: field\n\n", event(2)), gone) as server:
        first, second = await collect(subscribe(server))

    assert first.customer.traits == {"name": "\ufffd"}
    assert points([second]) == [2]
    assert len(server.requests) == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_stream_comes_out_promptly(encoding: str) -> None:
    """A gateway may compress unasked: each event is out when its bytes are in; C6."""
    head = HEAD.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {encoding}\r\n\r\n".encode())
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    first, second = (compressor.compress(event(n)) + compressor.flush(zlib.Z_SYNC_FLUSH) for n in (1, 2))
    received = anyio.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head + first)
        while not received.is_set() and not connection.server.stopping.wait(0.005):
            pass
        connection.send(second)

    with RawServer(script, gone) as server, anyio.fail_after(30):
        async with subscribe(server) as stream:
            one = await stream.receive()
            received.set()
            two = await stream.receive()

    assert one is not None
    assert two is not None
    assert points([one, two]) == [1, 2]


async def test_a_compressed_bomb_is_taken_in_small_pieces() -> None:
    """A hundred megabytes of comments in a hundred kilobytes are read without holding them; G2."""
    bomb = gzip.compress(b":" + b"x" * 100_000_000 + b"\n" + event(1))
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")

    with RawServer(sending(bomb, head=head), gone) as server:
        tracemalloc.start()
        try:
            updates = await collect(subscribe(server))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert points(updates) == [1]
    assert peak < 8_000_000


async def test_a_broken_compression_is_a_broken_connection() -> None:
    """It is made again, like every connection that breaks."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")

    with RawServer(sending(b"this is no gzip", head=head), sending(event(1)), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1]


async def test_an_encoding_that_was_not_asked_for_is_final() -> None:
    """What can't be read is said, and not asked for again."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: br\r\n\r\n")

    with RawServer(sending(b"?", head=head)) as server, pytest.raises(PerkamoStreamError, match="encoded"):
        await collect(subscribe(server))

    assert len(server.requests) == 1


async def test_each_connection_may_begin_with_a_mark() -> None:
    """A byte-order mark is stripped once per connection; C7."""
    with RawServer(sending(b"\xef\xbb\xbf", event(1)), sending(b"\xef\xbb\xbf", event(2)), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1, 2]


# What an update is


async def test_an_update_has_customer_name_id_and_meta() -> None:
    """Unknown event names and fields pass through; the request id of the connection is at hand."""
    head = HEAD.replace(b"\r\n\r\n", b"\r\nx-perkamo-request-id: req_9\r\n\r\n")
    data = b'{"user_id":"customer_123","wallets":{"points":5},"streak":{"days":3}}'

    with RawServer(sending(b"id: 7\nevent: streak.kept\ndata: " + data + b"\n\n", head=head), gone) as server:
        [update] = await collect(subscribe(server))

    assert (update.event, update.id) == ("streak.kept", "7")
    assert update.customer.raw["streak"] == {"days": 3}
    assert update.customer.meta.request_id == "req_9"
    assert "customer_123" not in repr(update)


BAD = [
    b"data: {",
    b"data: []",
    b"data: null",
    b"data",
    b'data: {"id":5}',
    b'data: {"type":"ping"}',
    b"data: NaN",
]


@pytest.mark.parametrize("data", [b'{"user_id":5}', b'{"user_id":"u","wallets":{"points":"5"}}', b'{"perks":null}'])
async def test_an_odd_customer_is_an_update_as_it_is_an_answer(data: bytes) -> None:
    """What is not published never ends a stream; catches a stream that ends at the first perk of another shape."""
    with RawServer(sending(b"data: " + data + b"\n\n"), gone) as server:
        [update] = await collect(subscribe(server))

    assert update.customer.wallets == {}
    assert update.customer.raw == json.loads(data)


@pytest.mark.parametrize("line", BAD)
async def test_data_that_is_no_customer_raises(line: bytes) -> None:
    """What came before is delivered, the error shows none of the data, and resuming would begin at the bad event."""
    with RawServer(sending(event(1, "1"), b"id: 2\n", line, b"\n\n", event(3, "3"))) as server:
        stream = subscribe(server)
        async with stream:
            first = await stream.receive()
            with pytest.raises(PerkamoStreamError) as caught:
                await stream.receive()

            assert await stream.receive() is None
    assert first is not None
    assert "not a customer" in str(caught.value)
    assert stream.last_event_id == "1"


@pytest.mark.parametrize("line", BAD)
async def test_data_that_is_no_customer_may_be_skipped(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """By the caller's choice: it is passed over with a warning, and not asked for again."""
    with RawServer(sending(event(1, "1"), b"id: 2\n", line, b"\n\n"), gone) as server:
        updates = await collect(subscribe(server, bad_data="skip"))

    assert points(updates) == [1]
    assert resumed_at(server) == [None, "2"]
    assert "skipped an event" in caplog.text


# The client


async def test_a_closed_client_has_no_streams() -> None:
    """Subscribing at a closed client fails when the first update is asked for; nothing is sent."""
    with RawServer(gone) as server:
        client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url)
        await client.aclose()
        with pytest.raises(PerkamoClosedError):
            await collect(client.subscribe_customer("customer_123", "token_1"))

    assert server.accepted == 0


async def test_a_hundred_streams_leave_the_client_its_connections() -> None:
    """Streams hold their connections for hours: each has its own, so that calls still get through."""

    def either(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        if "stream" in request.line:
            connection.send(HEAD + event(1))
            connection.stall()
        else:
            connection.send(answer(customer(5)))

    with RawServer(either) as server, anyio.fail_after(60):
        async with AsyncPerkamoClient("sk_test_x", base_url=server.base_url, timeout=10) as client:
            streams: list[CustomerStream] = [client.subscribe_customer("customer_123", "token_1") for _ in range(110)]
            for stream in streams:
                await stream.receive()
            found = await client.customer("customer_123")
            for stream in streams:
                await stream.aclose()

    assert found.wallets == {"points": 5}


async def test_a_callers_own_http_client_serves_the_stream_and_stays_open() -> None:
    """Its defaults are not sent, and the stream's end does not close it; I4."""
    with RawServer(sending(event(1)), stalling(event(2)), gone) as server:
        async with httpx.AsyncClient(headers={"accept": "x/y"}, follow_redirects=True) as own:
            client = AsyncPerkamoClient("sk_test_x", base_url=server.base_url, http_client=own)
            async with client.subscribe_customer("customer_123", "token_1") as stream:
                await stream.receive()
                await stream.receive()
            assert not own.is_closed
            assert (await own.get(server.base_url)).status_code == 204

    assert server.requests[0].headers["accept"] == "text/event-stream"


async def test_each_attempt_has_a_connection_of_its_own() -> None:
    """A connection kept from before may be dead by now, which would cost an attempt; none is used again."""

    def patient(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(CHUNKED + b"0\r\n\r\n")

    with RawServer(patient, patient, gone) as server:
        await collect(subscribe(server))

    assert [request.connection for request in server.requests] == [0, 1, 2]


async def test_a_transport_may_hand_over_everything_in_one_piece() -> None:
    """Events before an oversized one come out first, also where a caller's own transport does not cut the body."""
    body = event(1) + event(2) + b"data: " + b"x" * (MAX_EVENT_SIZE + 1) + b"\n\n"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_OnePiece(body))
    )

    async with httpx.AsyncClient(transport=transport) as own:
        client = AsyncPerkamoClient("sk_test_x", base_url="http://localhost:1", http_client=own)
        async with client.subscribe_customer("customer_123", "token_1") as stream:
            first, second = await stream.receive(), await stream.receive()
            with pytest.raises(PerkamoStreamError, match="larger"):
                await stream.receive()

    assert first is not None
    assert second is not None
    assert points([first, second]) == [1, 2]


class _OnePiece(httpx.AsyncByteStream):
    """A body that comes as a whole, and then nothing."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
        await anyio.sleep_forever()


async def test_chunked_bodies_are_streams_as_well() -> None:
    """What most servers send: chunks, and an end in order."""
    one, end = event(1), b"0\r\n\r\n"
    chunked = b"%x\r\n%s\r\n" % (len(one), one)

    with RawServer(sending(chunked, end, head=CHUNKED), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1]
    await until(lambda: len(server.requests) == 2)
