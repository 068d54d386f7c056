"""client: attempts, waits, the quota, and a clock that is wrong."""

import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import httpx
import pytest
import respx

from perkamo import (
    AsyncPerkamoClient,
    Event,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoRateLimitError,
    PerkamoServerError,
    PerkamoTimeoutError,
    RetryPolicy,
)
from perkamo.sandbox import Fault, Lost, Reset, Sandbox, Status, Truncate
from tests.clocks import NotedWaits, by_clock
from tests.faults.rawserver import Connection, RawServer, answer

pytestmark = pytest.mark.anyio

BASE = "https://api.perkamo.com"
RESULT = {"applied": True, "duplicate": False, "delta": [], "leveled_up": False, "unlocked": [], "wallet_state": {}}


@pytest.fixture
def waits() -> NotedWaits:
    """The waits that a client would make, without making them."""
    return NotedWaits()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses every connection, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
async def test_a_passing_failure_is_outlived(status: int, waits: NotedWaits) -> None:
    """Twice a failure and then an answer is a success with attempts=3 (row F32); catches a status left out."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE), waits) as client:
        with respx.mock as router:
            router.post("/v1/events").mock(
                side_effect=[httpx.Response(status), httpx.Response(status), httpx.Response(200, json=RESULT)]
            )
            result = await client.emit("u", "e")

    assert result.meta.attempts == 3
    assert len(waits.asked) == 2
    assert 0 <= waits.asked[0] <= 0.5
    assert 0 <= waits.asked[1] <= 1.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 501, 505])
async def test_a_lasting_failure_is_raised_at_once(status: int, waits: NotedWaits) -> None:
    """One attempt for what would be refused again (row F34); catches a retry of everything."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE), waits) as client:
        with respx.mock as router:
            route = router.post("/v1/events").respond(status)
            with pytest.raises(PerkamoApiError) as caught:
                await client.emit("u", "e")

    assert (route.call_count, caught.value.attempts, waits.asked) == (1, 1, [])


async def test_the_last_of_three_failures_is_raised(waits: NotedWaits) -> None:
    """Attempts counts all requests; catches a fourth, and an error of the first."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE), waits) as client:
        with respx.mock as router:
            router.post("/v1/events").mock(side_effect=[httpx.Response(502), httpx.ReadError, httpx.Response(503)])
            with pytest.raises(PerkamoServerError) as caught:
                await client.emit("u", "e")

    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (503, 3, True)


@pytest.mark.parametrize(
    ("header", "wait"), [("7", 7.0), ("60", 60.0), ("0", None), ("soon", None)], ids=["7", "60", "0", "invalid"]
)
async def test_retry_after_is_honoured(header: str, wait: float | None, waits: NotedWaits) -> None:
    """The service's wait wins over a shorter draw; catches a wait that starts over at zero."""
    policy = RetryPolicy(base_delay=0.5)
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE, timeout=None, retry=policy), waits) as client:
        with respx.mock as router:
            busy = httpx.Response(429, headers={"retry-after": header})
            router.post("/v1/events").mock(side_effect=[busy, httpx.Response(200, json=RESULT)])
            await client.emit("u", "e")

    assert waits.asked == [wait] if wait is not None else 0 <= waits.asked[0] <= 0.5


@pytest.mark.parametrize(("header", "budget"), [("61", None), ("30", 20.0), ("99999999", 30.0)])
async def test_a_wait_beyond_the_bounds_is_handed_to_the_caller(
    header: str,
    budget: float | None,
    waits: NotedWaits,
) -> None:
    """Above the cap or the deadline the 429 is raised at once, with the wait (P8); catches an hour's sleep."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE, timeout=budget), waits) as client:
        with respx.mock as router:
            route = router.post("/v1/events").respond(429, headers={"retry-after": header})
            with pytest.raises(PerkamoRateLimitError) as caught:
                await client.emit("u", "e")

    assert (route.call_count, waits.asked) == (1, [])
    assert caught.value.retry_after_seconds == float(header)
    assert f"try again in {header} s" in str(caught.value)


async def test_a_conflict_is_retried_only_when_it_says_when(waits: NotedWaits) -> None:
    """Row F33: 409 with Retry-After is tried again; catches a blind retry of an unpublished meaning."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE), waits) as client:
        with respx.mock as router:
            conflict = httpx.Response(409, headers={"retry-after": "1"})
            router.post("/v1/events").mock(side_effect=[conflict, httpx.Response(200, json=RESULT)])
            result = await client.emit("u", "e")

    assert (result.meta.attempts, waits.asked) == (2, [1.0])


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([503, 400], "unknown"),
        ([503, 503, 503], "unknown"),
        ([429, 429, 429], "rejected"),
        ([429, 400], "rejected"),
        ([400], "rejected"),
    ],
)
async def test_one_uncertain_attempt_leaves_the_outcome_unknown(
    answers: list[int], outcome: str, waits: NotedWaits
) -> None:
    """What an earlier attempt may have applied is not denied by a later refusal; catches the last attempt's word."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=BASE), waits) as client:
        with respx.mock as router:
            router.post("/v1/events").mock(side_effect=[httpx.Response(status) for status in answers])
            with pytest.raises(PerkamoApiError) as caught:
                await client.emit("u", "e")

    assert caught.value.outcome == outcome


async def test_nothing_was_sent_to_a_port_that_refuses(dead_port: int, waits: NotedWaits) -> None:
    """Row F01: three attempts, a connection error, outcome not_sent; catches an outcome made of caution."""
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=f"http://127.0.0.1:{dead_port}"), waits) as client:
        with pytest.raises(PerkamoConnectionError, match="Nothing was sent") as caught:
            await client.emit("u", "e")

    assert (caught.value.outcome, caught.value.attempts, caught.value.retryable) == ("not_sent", 3, True)
    assert caught.value.__context__ is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses connections")
async def test_nothing_was_sent_where_no_connection_came_about_in_time() -> None:
    """Time ran out while connecting, before the body; catches an outcome of unknown for what never left."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0)
            filling.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with AsyncPerkamoClient("sk_test", base_url=url, timeout=0.3) as client:
            with pytest.raises(PerkamoTimeoutError, match=r"ran out of time\. Nothing was sent") as caught:
                await client.emit("u", "e")

    assert (caught.value.outcome, caught.value.retryable) == ("not_sent", True)


@pytest.mark.parametrize("calls", [1_000, pytest.param(10_000, marks=pytest.mark.release)])
async def test_an_outage_sees_hardly_more_attempts_than_calls(calls: int, dead_port: int, waits: NotedWaits) -> None:
    """Calls into a dead service make at most 200 attempts more than calls (P7); catches retries without a quota."""
    attempts = 0
    async with by_clock(AsyncPerkamoClient("sk_test", base_url=f"http://127.0.0.1:{dead_port}"), waits) as client:
        for _ in range(calls):
            try:
                await client.program()
            except PerkamoConnectionError as error:
                attempts += error.attempts

    assert calls < attempts <= calls + 200


@pytest.mark.slow_on_each_backend
async def test_a_few_failures_do_not_use_up_the_quota(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """At 10 % errors a call ends early for no quota; catches one that starves a healthy client."""
    sandbox.faults.rate(0.1, Status(503), seed=7)

    given_up: list[int] = []
    async with client:
        for n in range(1_000):
            try:
                await client.emit("u", "e", transaction_id=f"t{n}")
            except PerkamoServerError as error:
                given_up.append(error.attempts)

    sandbox.faults.clear()
    assert set(given_up) <= {3}
    assert len(sandbox.events("u")) == 1_000 - len(given_up) > 980


@pytest.mark.parametrize("seconds", [600, -600, 3600 * 24 * 365])
async def test_a_wrong_clock_is_corrected_once_and_for_the_client(
    seconds: int, client: AsyncPerkamoClient, sandbox: Sandbox
) -> None:
    """A 401 with another Date is signed again, and the next call is right at once (row F39); catches a ping-pong."""
    sandbox.clock.advance(seconds) if seconds > 0 else sandbox.clock.freeze(datetime.now(UTC) + timedelta(0, seconds))

    async with client:
        first = await client.emit("u", "purchase.completed", {"amount": 100}, transaction_id="t1")
        second = await client.emit("u", "purchase.completed", {"amount": 100}, transaction_id="t2")

    assert (first.meta.attempts, second.meta.attempts) == (2, 1)
    assert [request.status for request in sandbox.requests] == [401, 200, 200]


async def test_twenty_calls_correct_a_wrong_clock_together(client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """All that were signed with the wrong time are signed again; catches an offset that is added twice."""
    sandbox.clock.advance(600)

    async with client:
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(lambda n: client.emit("u", "e", transaction_id=f"t{n}"), n)
        last = await client.emit("u", "e", transaction_id="last")

    assert len(sandbox.events("u")) == 21
    assert last.meta.attempts == 1


DATES: list[tuple[str, list[dict[str, str]], int]] = [
    ("no date", [{}], 1),
    ("no date at all that can be read", [{"date": "yesterday"}], 1),
    ("a date that is right", [{"date": "now"}], 1),
    ("a cached answer", [{"date": "Mon, 01 Jun 2020 10:00:00 GMT", "age": "100"}], 1),
    ("a wrong date, twice the same", [{"date": "Mon, 01 Jun 2020 10:00:00 GMT"}] * 2, 2),
    (
        "a date that flips",
        [{"date": "Mon, 01 Jun 2020 10:00:00 GMT"}, {"date": "Tue, 01 Jun 2100 10:00:00 GMT"}],
        2,
    ),
]


@pytest.mark.parametrize(("name", "headers", "attempts"), DATES, ids=[row[0] for row in DATES])
async def test_a_401_is_signed_again_at_most_once(name: str, headers: list[dict[str, str]], attempts: int) -> None:
    """No Date, garbage, a cached answer: no second try; one that flips: one (P9); catches an endless correction."""
    now = format_datetime(datetime.now(UTC), usegmt=True)
    answers = [{key: now if value == "now" else value for key, value in one.items()} for one in headers]
    async with AsyncPerkamoClient("sk_test", base_url=BASE, retry=RetryPolicy.none()) as client:
        with respx.mock as router:
            route = router.post("/v1/events").mock(side_effect=[httpx.Response(401, headers=one) for one in answers])
            with pytest.raises(PerkamoAuthenticationError, match="clock") as caught:
                await client.emit("u", "e")

    assert (route.call_count, caught.value.attempts) == (attempts, attempts)


LOCATIONS: list[tuple[str, str]] = [
    ("same host", BASE + "/v1/other"),
    ("relative", "/v1/other"),
    ("other host", "https://evil.test/v1/events"),
    ("other port", "https://api.perkamo.com:8443/v1/events"),
    ("plain http", "http://api.perkamo.com/v1/events"),
    ("without scheme", "//evil.test/v1/events"),
    ("userinfo", "https://api.perkamo.com@evil.test/v1/events"),
    ("loop", BASE + "/v1/events"),
    ("missing", ""),
]


@pytest.mark.parametrize("own_client", [False, True], ids=["default client", "own http_client that follows"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status: int, own_client: bool) -> None:
    """Whatever the target, one request leaves and the error names the host (P11); catches a key that travels on."""
    http_client = httpx.AsyncClient(follow_redirects=True) if own_client else None
    async with AsyncPerkamoClient("sk_test", base_url=BASE, http_client=http_client) as client:
        for _, location in LOCATIONS:
            with respx.mock as router:
                headers = {"location": location} if location else {}
                route = router.post(BASE + "/v1/events").respond(status, headers=headers)
                elsewhere = router.route().respond(json=RESULT)
                with pytest.raises(PerkamoApiError, match="redirect") as caught:
                    await client.emit("u", "e")
                assert (route.call_count, elsewhere.call_count) == (1, 0)
                assert caught.value.attempts == 1
                assert type(caught.value).__name__ == "PerkamoRedirectError"
                assert ("evil.test" in str(caught.value)) == ("evil.test" in location)
                router.reset()
                router.clear()
    if http_client is not None:
        await http_client.aclose()


async def test_a_redirect_to_nowhere_is_raised_at_once() -> None:
    """A Location that is no URL makes httpx itself fail; catches three attempts at the same redirect."""
    async with AsyncPerkamoClient("sk_test", base_url=BASE) as client:
        with respx.mock as router:
            route = router.post(BASE + "/v1/events").respond(302, headers={"location": "https://[::1"})
            with pytest.raises(PerkamoConnectionError, match="redirect to an invalid URL") as caught:
                await client.emit("u", "e")

    assert (route.call_count, caught.value.retryable) == (1, False)


KINDS: list[Fault] = [Status(503), Lost(), Reset(before="apply"), Reset(after="apply"), Truncate(10)]


@pytest.mark.no_cover
@pytest.mark.release
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ten_thousand_faults_apply_every_event_once(sandbox: Sandbox) -> None:
    """Whatever strikes emits and batches, each order earns once and each call ends typed and in time (P3, P6).

    Catches a new transaction id on a retry, an answer taken for another's, and an error outside the hierarchy.
    """
    for seed, kind in enumerate(KINDS):
        sandbox.faults.rate(0.12, kind, seed=seed)
    policy = RetryPolicy(attempts=10, base_delay=0, max_delay=0)
    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=policy) as client:
        struck = orders = 0
        while struck < 10_000:
            size = 1 if orders % 3 else 4
            events = [
                Event(f"customer_{n % 50}", "purchase.completed", f"order_{n}", {"order": n, "amount": 100})
                for n in range(orders, orders + size)
            ]
            orders += size
            accepted = False
            while not accepted:
                with anyio.fail_after(31):
                    try:
                        if size == 1:
                            result = await client.emit_event(events[0])
                            attempts, accepted = result.meta.attempts, result.accepted
                        else:
                            answer = await client.batch(events)
                            attempts, accepted = answer.meta.attempts, all(one.accepted for one in answer.results)
                        struck += attempts - 1
                    except PerkamoError as error:
                        struck += error.attempts

    sandbox.faults.clear()
    ledger = Counter(event.context["order"] for n in range(50) for event in sandbox.events(f"customer_{n}"))
    assert ledger == Counter(range(orders))
    assert sum(sandbox.customer(f"customer_{n}").wallets["points"] for n in range(50)) == orders


async def test_after_a_failover_the_second_attempt_connects_afresh() -> None:
    """One attempt finds out that all idle ones are dead; catches a call that tries one after another."""
    is_over = False

    def script(connection: Connection) -> None:
        is_old = not is_over
        while connection.read_request() is not None:
            if is_over and is_old:
                return connection.stall()
            connection.server.stopping.wait(0.05)  # so that as many connections are made as there are calls
            connection.send(answer())
        return None

    policy = RetryPolicy(attempt_timeout=1.5, base_delay=0, max_delay=0)
    with RawServer(script) as server:
        async with AsyncPerkamoClient("sk_test", base_url=server.base_url) as client:
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(client.identify, f"u{number}", {})
            assert server.accepted == 5
            is_over = True
            impatient = client.with_options(retry=policy)

            first = await impatient.emit("u", "e")
            second = await client.emit("u", "e")

    assert (first.meta.attempts, second.meta.attempts) == (2, 1)
    assert server.accepted == 6
