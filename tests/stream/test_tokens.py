"""The token of a customer stream: where it comes from, when it is renewed, and that nothing shows it."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from perkamo import (
    BrowserToken,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoPermissionError,
    PerkamoStreamError,
    PerkamoValidationError,
)
from tests.canary import PACKAGE
from tests.faults.rawserver import RawServer, answer, answering
from tests.stream.scripts import (
    OwnedTime,
    collect,
    event,
    gone,
    points,
    refusing,
    sending,
    stalling,
    subscribe,
)

pytestmark = pytest.mark.anyio
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
    """Two refusals in a row are final; nothing asks forever."""
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
