"""classify: the words of an error follow from what was decided, over all attempts of a call."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from perkamo import (
    AsyncPerkamoClient,
    PerkamoApiError,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    PerkamoError,
    RetryPolicy,
)
from perkamo.request.classify import Attempt, classify_failure, classify_response
from perkamo.request.endpoints import Call, other
from perkamo.request.failures import Problem
from perkamo.request.retry import FAILURES, Use
from tests.clocks import NotedWaits, by_clock
from tests.faults.rawserver import RESULT

pytestmark = pytest.mark.anyio

WRITE, READ = other("POST", "/v1/x", {}), other("GET", "/v1/x", None)
AGAIN = re.compile(
    r"try again later|try again in \d+ s|it can be sent again|sending it again .* is safe", re.IGNORECASE
)
NOT_AGAIN = re.compile(
    "the same request will be refused again|check base_url|check the server key|this key may not|check the proxy|"
    "check its hooks|set the variable to",
    re.IGNORECASE,
)


def every_failure() -> Iterator[tuple[str, Call, Use, bool, PerkamoError, bool]]:
    """Make each failure that there is, for calls and streams, on its own or after an uncertain attempt."""
    for use in ("call", "stream"):
        for call in (WRITE, READ):
            for uncertain in (False, True):
                attempt = Attempt(call, 2, uncertain, use=use)
                for status in (*range(300, 310), *range(400, 600)):
                    for headers in ({}, {"retry-after": "7"}):
                        failure = classify_response(attempt, httpx.Response(status, headers=headers), b"")
                        assert not isinstance(failure, bytes)
                        yield f"{status} {headers}", call, use, uncertain, failure.error, failure.retry  # type: ignore[union-attr]
                for kind in FAILURES:
                    for sent in (False, True):
                        made = classify_failure(attempt, Problem(kind, "because", sent))
                        yield f"{kind} sent={sent}", call, use, uncertain, made.error, made.retry


def test_no_error_says_another_thing_than_its_attributes() -> None:
    """Advice, outcome and retryable agree in each; catches "try again later" where nobody may, and the reverse."""
    seen = 0
    for name, call, use, uncertain, error, retry in every_failure():
        text, seen = str(error), seen + 1
        assert bool(AGAIN.search(text)) is error.retryable, (name, use, text)
        assert bool(NOT_AGAIN.search(text)) is not error.retryable, (name, use, text)
        assert retry <= error.retryable, (name, use)
        assert ("Nothing was applied" in text) is (error.outcome == "rejected"), (name, text)
        assert ("Nothing was sent" in text) is (error.outcome == "not_sent"), (name, text)
        assert ("It may have been applied" in text) is (error.outcome == "unknown"), (name, text)
        assert (error.outcome is None) is (call is READ), name
        assert not (uncertain and call is WRITE and error.outcome != "unknown"), name

    assert seen > 3_000


async def fail(*answers: int | Exception, key: object = "sk_x", **headers: str) -> PerkamoError:
    """Make an emit that gets these answers, and return its error."""
    left = [*answers]

    def handle(_: httpx.Request) -> httpx.Response:
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return httpx.Response(one, headers=headers, content=RESULT if one == 200 else b"")

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        by_clock(
            AsyncPerkamoClient(key, base_url="https://api.test", http_client=http),  # type: ignore[arg-type]  # a key or what makes one
            NotedWaits(),
        ) as client,
    ):
        with pytest.raises(PerkamoError) as caught:
            await client.emit("u", "e")
    assert not left
    return caught.value


async def test_an_attempt_that_may_have_been_applied_is_not_forgotten_in_words() -> None:
    """503 and then 400 may have been applied; catches "Nothing was applied" beside an outcome of unknown."""
    for answers in ((503, 400), (httpx.ReadError("broken"), 403), (408, 409)):
        error = await fail(*answers)
        assert isinstance(error, PerkamoApiError)
        assert error.outcome == "unknown"
        assert "It may have been applied" in str(error)
        assert "Nothing was applied" not in str(error)


async def test_a_connection_that_fails_after_an_uncertain_attempt_is_uncertain() -> None:
    """The last attempt never left, an earlier one did; catches "Nothing was sent" of a call that was."""
    error = await fail(503, httpx.ConnectError("refused"), httpx.ConnectError("refused"))

    assert isinstance(error, PerkamoConnectionError)
    assert error.outcome == "unknown"
    assert "Nothing was sent" not in str(error)


async def test_a_key_that_fails_after_an_uncertain_attempt_does_not_deny_it() -> None:
    """The supplier's error is raised, and says that the event may count; catches an event that is sent anew."""
    keys = iter(["sk_x"])

    def supplier() -> str:
        return next(keys, "")

    error = await fail(503, key=supplier)

    assert isinstance(error, PerkamoConfigurationError)
    assert "The server key is empty" in str(error)
    assert "Nothing was sent" not in str(error)
    assert "may have been applied" in str(error)
    assert (error.outcome, error.attempts) == ("unknown", 1)


async def test_a_key_that_fails_at_once_sent_nothing() -> None:
    """Also after an attempt that certainly did nothing; catches an outcome made of caution."""
    for answers in ((), (429,)):
        keys = iter(["sk_x"] * len(answers))
        error = await fail(*answers, key=lambda keys=keys: next(keys, ""))
        assert error.outcome == "not_sent"
        assert "Nothing was sent" in str(error)


@pytest.mark.parametrize("skew", [0, -3600, 3600, 86_400 * 400])
@pytest.mark.parametrize("age", [None, 5])
async def test_a_date_in_retry_after_counts_from_the_answers_own_date(skew: int, age: int | None) -> None:
    """Whatever this machine's clock says; catches waits of an hour, and none at all."""
    now = datetime.now(UTC) + timedelta(seconds=skew)
    headers = {"date": format_datetime(now, usegmt=True)}
    headers["retry-after"] = format_datetime(now + timedelta(seconds=30), usegmt=True)
    if age is not None:
        headers["age"] = str(age)  # a cache kept it for so long
    attempt = Attempt(WRITE, 1)

    failure = classify_response(attempt, httpx.Response(503, headers=headers), b"")

    assert failure.error.retry_after_seconds == 30 - (age or 0)  # type: ignore[union-attr]


async def test_without_a_date_that_can_be_read_this_machines_clock_counts() -> None:
    """Better than no wait; catches a wait that is lost."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    for headers in ({}, {"date": "yesterday"}, {"date": later, "age": "long"}):
        failure = classify_response(
            Attempt(WRITE, 1), httpx.Response(503, headers={"retry-after": later, **headers}), b""
        )
        assert 27 <= failure.error.retry_after_seconds <= 30  # type: ignore[union-attr]


async def test_a_425_that_was_not_retried_says_that_it_may_be() -> None:
    """One attempt, retryable, "try again later"; catches words of one table and a decision of another."""
    handle = httpx.MockTransport(lambda _: httpx.Response(425))
    async with (
        httpx.AsyncClient(transport=handle) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=RetryPolicy.none()) as client,
    ):
        with pytest.raises(PerkamoApiError, match=r"425\. Nothing was applied; try again later\.") as caught:
            await client.emit("u", "e")

    assert (caught.value.attempts, caught.value.retryable) == (1, True)
