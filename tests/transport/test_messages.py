"""Requests and answers whose headers are made late: what is sent, and what is read, is what httpx's own would hold."""

import gc
import pickle
import weakref

import httpx
import pytest

from perkamo.transport.head import Head
from perkamo.transport.request import Request, add_headers, raw_headers_of
from perkamo.transport.response import Response, WholeBody, fields_of
from perkamo.transport.transport import Transport
from tests.faults.rawserver import RawServer
from tests.transport.pool import client_over, echo

pytestmark = pytest.mark.anyio

HEADERS = [(b"Host", b"service.test"), (b"X-One", b"1"), (b"content-length", b"4")]
LINES = b"Date: now\r\nX-Two: a\r\nServer: \xe9\r\n"


def made(url: str = "http://service.test/") -> Request:
    """Make a request."""
    return Request("POST", httpx.URL(url), HEADERS, b"body", stream=httpx.ByteStream(b"body"), extensions={})


def answered() -> Response:
    """Make an answer."""
    return Response(Head(200, b"OK", LINES), WholeBody(b"body"))


@pytest.mark.parametrize("asked", [False, True])
def test_headers_are_set_as_httpx_sets_them(asked: bool) -> None:
    """Whether somebody has asked for them before or not; catches a header that is sent twice."""
    request, stock = made(), httpx.Request("POST", "http://service.test/", headers=HEADERS, stream=None)
    if asked:
        assert request.headers == httpx.Headers(HEADERS)

    for one in request, stock:
        add_headers(one, [(b"x-one", b"2"), (b"x-new", b"3")])

    assert sorted(raw_headers_of(request)) == sorted(raw_headers_of(stock))


async def test_what_a_hook_does_to_the_headers_is_sent() -> None:
    """Changed, removed, added, and replaced as a whole; catches sending what they were made of."""
    sent: list[dict[str, str]] = []

    async def change(request: httpx.Request) -> None:
        request.headers["X-One"] = "2"
        request.headers["X-New"] = "3"
        del request.headers["Host"]
        request.headers["Host"] = "other.test"

    async def replace(request: httpx.Request) -> None:
        request.headers = httpx.Headers({"Host": "third.test", "Content-Length": "4"})

    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            for hook in change, replace:
                client.event_hooks = {"request": [hook]}
                await client.send(made(server.base_url))
        sent = [request.headers for request in server.requests]

    assert sent == [
        {"host": "other.test", "content-length": "4", "x-one": "2", "x-new": "3"},
        {"host": "third.test", "content-length": "4"},
    ]


def test_an_answers_headers_are_those_of_its_head() -> None:
    """As httpx makes them, with the bytes as they came; catches a decoded name, and a lost one."""
    response = answered()
    stock = httpx.Response(200, headers=[(b"Date", b"now"), (b"X-Two", b"a"), (b"Server", b"\xe9")])

    assert response.headers == stock.headers
    assert response.headers.raw == stock.headers.raw
    assert dict(fields_of(answered())) == fields_of(stock) == {"date": "now", "x-two": "a", "server": "é"}


def test_what_a_hook_does_to_an_answers_headers_counts() -> None:
    """For whoever reads them by the short way, too; catches two truths about one answer."""
    response = answered()
    response.headers["X-Two"] = "b"
    other = answered()
    other.headers = httpx.Headers({"x-three": "c"})

    assert fields_of(response)["x-two"] == "b"
    assert fields_of(other) == {"x-three": "c"}


async def test_messages_have_all_that_httpx_sets() -> None:
    """They are made without httpx's own ``__init__``; catches an attribute that another version of httpx adds."""
    request = httpx.Request("POST", "http://service.test/", content=b"body")
    response = httpx.Response(200, stream=WholeBody(b"body"))
    own = {"headers", "_headers"}

    assert vars(made()).keys() - own == (vars(request).keys() | {"_raw"}) - own
    assert vars(answered()).keys() - own == (vars(response).keys() | {"_head", "_body"}) - own


async def test_an_answer_is_freed_without_the_garbage_collector() -> None:
    """It and httpx's stream refer to each other; catches an answer that stays, with its request and the key."""
    with RawServer(echo) as server:
        async with client_over(Transport()) as client:
            response = await client.get(server.base_url)
            answer = weakref.ref(response)
            gc.disable()
            try:
                del response
                assert answer() is None
            finally:
                gc.enable()


async def test_messages_can_be_pickled_as_httpx_s_own() -> None:
    """Caches and test tools do that; catches a class that can't."""
    request, response = made(), answered()
    await response.aread()

    again, answer = pickle.loads(pickle.dumps(request)), pickle.loads(pickle.dumps(response))

    assert (again.headers, again.content) == (httpx.Headers(HEADERS), b"body")
    assert (answer.headers, answer.content, answer.status_code) == (response.headers, b"body", 200)
