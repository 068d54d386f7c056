"""The requests of a customer stream: headers, tokens, and which answers end it or are waited out."""

import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoApiError,
    PerkamoConfigurationError,
    PerkamoRedirectError,
    PerkamoServerError,
    PerkamoStreamError,
    PerkamoValidationError,
    ReconnectPolicy,
)
from tests.faults.rawserver import Connection, RawServer
from tests.stream.scripts import (
    HEAD,
    OwnedTime,
    collect,
    event,
    gone,
    points,
    refusing,
    resumed_at,
    sending,
    stalling,
    subscribe,
)

pytestmark = pytest.mark.anyio


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
    """CR, LF, NUL and what is not text never reach a header; E8."""
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


async def test_204_ends_the_iteration() -> None:
    """Nothing to subscribe to is a normal end, forever; B1."""
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
