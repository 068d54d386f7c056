"""Rules D to F of the stream: when it connects again, from where, and after how long."""

import socket
from email.utils import formatdate
from time import time as unix_time

import anyio
import pytest

from perkamo import PerkamoConnectionError, PerkamoStreamError, ReconnectPolicy
from tests.faults.rawserver import Connection, RawServer, Script
from tests.stream.scripts import (
    CHUNKED,
    HEAD,
    PLAIN,
    OwnedTime,
    collect,
    customer,
    event,
    gone,
    points,
    refusing,
    resetting,
    resumed_at,
    sending,
    stalling,
    subscribe,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def waits(*scripts: Script, policy: ReconnectPolicy = PLAIN, seed: int = 0) -> list[float]:
    """The waits of a stream over these connections, which a 204 ends."""
    time = OwnedTime(seed)
    with RawServer(*scripts, gone) as server:
        await collect(subscribe(server, time=time, policy=policy))
    return time.slept


# D. When, and after how long


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(sending(event(1, "1")), id="end of a body without a length"),
        pytest.param(
            sending(b"%x\r\n%s\r\n0\r\n\r\n" % (len(event(1, "1")), event(1, "1")), head=CHUNKED), id="last chunk"
        ),
        pytest.param(sending(b"%x\r\n%s\r\n" % (len(event(1, "1")), event(1, "1")), head=CHUNKED), id="no last chunk"),
        pytest.param(sending(b"ffff\r\n" + event(1, "1"), head=CHUNKED), id="within a chunk"),
        pytest.param(resetting(event(1, "1")), id="reset"),
        pytest.param(
            sending(event(1, "1"), head=HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999\r\n\r\n")), id="too short"
        ),
    ],
)
async def test_every_end_of_a_connection_is_made_good(ending: Script) -> None:
    """A clean end cannot be told from a drop: all of them reconnect, without a word to the consumer; D1, D2."""
    time = OwnedTime()

    with RawServer(ending, sending(event(2, "2")), gone) as server:
        updates = await collect(subscribe(server, time=time))

    assert points(updates) == [1, 2]
    assert resumed_at(server) == [None, "1", "2"]
    assert time.slept == [1, 1]


async def test_a_service_that_is_down_is_waited_for() -> None:
    """Refused connections are tried again with growing waits, on the first connection as on later ones; D3, D4."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    time = OwnedTime()
    policy = ReconnectPolicy(base_delay=1.0, jitter=0.0, attempts=6)

    with pytest.raises(PerkamoStreamError) as caught:
        await collect(subscribe(f"http://127.0.0.1:{port}", time=time, policy=policy))

    assert time.slept == [1, 2, 4, 8, 16]
    assert caught.value.retryable
    assert caught.value.attempts == 6
    assert isinstance(caught.value.__cause__, PerkamoConnectionError)


@pytest.mark.parametrize(
    ("lines", "wait"),
    [
        (b"retry: 1500\n", 1.5),  # D5
        (b"retry: 03000\n", 3),  # D5: not octal
        (b"retry:3000\nretry:1000x\n", 3),  # D6
        (b"retry: 2\n", 0.002),  # D7: the line counts, without a blank line or an event
        (b"retry: 10\n\n", 0.01),  # D8
        (b"retry: 0\n\n", 0),  # D11: the first wait may be none
        (b"retry: 99999999999999\n\n", 300),  # D12
        (b"retry: " + b"9" * 5000 + b"\n\n", 300),  # D12
        (b"retry: 20\nretry:\nretry: \n\n", 0.02),  # D13
        (b"", 1),  # D10
    ],
)
async def test_the_streams_own_reconnection_time_counts(lines: bytes, wait: float) -> None:
    """``retry`` is taken as the standard says, within bounds; D5 to D8, D10 to D13."""
    slept = await waits(sending(event(1), lines))

    assert slept == [wait]


async def test_a_reconnection_time_stays_until_another_comes() -> None:
    """It belongs to the stream and not to the connection; D9."""
    slept = await waits(sending(b"retry: 200\n", event(1)), sending(event(2)), sending(b"retry: 50\n", event(3)))

    assert slept == [0.2, 0.2, 0.05]


async def test_a_retry_of_zero_makes_no_busy_loop() -> None:
    """A server that closes at once and asks for no pause gets one from the second failed attempt on; D11."""
    slept = await waits(*[sending(b"retry: 0\n")] * 4)

    assert slept == [0, 2, 4, 8]


def test_the_default_wait_is_a_few_seconds() -> None:
    """As in browsers; D10."""
    assert ReconnectPolicy().base_delay == 3


# E. Where a connection resumes


@pytest.mark.parametrize(
    ("first", "resume"),
    [
        pytest.param(event(1, "abc"), "abc", id="E1 an id"),
        pytest.param(event(1, "abc") + event(2), "abc", id="E2 then an event without one"),
        pytest.param(event(1, "abc") + b"id: def\ndata: Good", "abc", id="E3 then an event cut off"),
        pytest.param(event(1, "abc") + b"id:\ndata: " + customer() + b"\n\n", None, id="E4 then a reset"),
        pytest.param(event(1, "abc") + b"id: 5\n\n", "5", id="E5 then an id without data"),
        pytest.param(event(1, "\u2026"), "\u2026", id="E6 in UTF-8"),
        pytest.param(event(1, "abc") + b"id: a\0b\ndata: " + customer() + b"\n\n", "abc", id="E12 then one with NUL"),
        pytest.param(event(1, " a"), None, id="E7 a space before"),
        pytest.param(event(1, "a "), None, id="E7 a space behind"),
        pytest.param(event(1, "a\x0bb"), None, id="E7 a control character"),
        pytest.param(event(1, "a\x0cb"), None, id="E7 another one"),
        pytest.param(event(1, "a\x7fb"), None, id="E7 DEL"),
        pytest.param(event(1, "a b"), "a b", id="a space within"),
        pytest.param(event(1, "x" * 4096), "x" * 4096, id="as long as allowed"),
        pytest.param(event(1, "x" * 70_000), None, id="E9 too long for a header"),
    ],
)
async def test_the_next_connection_resumes_after_what_was_seen(first: bytes, resume: str | None) -> None:
    """The header holds the last id in force, as UTF-8, or is left out where it can't; E1 to E7, E9, E12."""
    with RawServer(sending(first), gone) as server:
        await collect(stream := subscribe(server))

    sent = resumed_at(server)[1]
    assert resume is None or stream.last_event_id == resume
    assert (None if sent is None else sent.encode("latin-1").decode()) == resume


async def test_the_id_in_force_is_on_events_of_later_connections() -> None:
    """A decoder begins with the id of the one before; E10."""
    with RawServer(sending(event(1, "7")), sending(event(2)), gone) as server:
        updates = await collect(stream := subscribe(server))

    assert [update.id for update in updates] == ["7", "7"]
    assert resumed_at(server) == [None, "7", "7"]
    assert stream.last_event_id == "7"


@pytest.mark.parametrize("rest", [b"event: foo\n", b"data: \xe2\x82", b"data: x\r", b"data: x\n", b"\xef\xbb"])
async def test_nothing_of_a_cut_event_reaches_the_next_connection(rest: bytes) -> None:
    """Neither a name, nor half a letter, nor a line end goes over; E3, E11."""
    with RawServer(sending(event(1), rest), sending(b"\n", event(2)), gone) as server:
        updates = await collect(subscribe(server))

    assert [(update.event, update.customer.wallets["points"]) for update in updates] == [("message", 1), ("message", 2)]


async def test_all_of_a_connection_is_delivered_before_the_next_one_is_made() -> None:
    """Events that came in one piece before a drop are out, in order; ``last_event_id`` follows them; E13."""
    with RawServer(resetting(*(event(n, str(n)) for n in range(50))), gone) as server:
        async with subscribe(server) as stream:
            seen: list[tuple[str, str, int]] = []
            while (update := await stream.receive()) is not None:
                seen.append((update.id, stream.last_event_id, len(server.requests)))

    assert seen == [(str(n), str(n), 1) for n in range(50)]
    assert resumed_at(server) == [None, "49"]


async def test_what_is_sent_again_is_delivered_again() -> None:
    """The client drops no event by its id; E14."""
    with RawServer(sending(event(1, "1")), sending(event(1, "1"), event(2, "2")), gone) as server:
        updates = await collect(subscribe(server))

    assert points(updates) == [1, 1, 2]


# F. Backoff


async def test_waits_grow_and_are_capped() -> None:
    """Each failed attempt doubles the wait up to the cap; F1."""
    slept = await waits(*[refusing("503 No")] * 7)

    assert slept == [1, 2, 4, 8, 16, 30, 30]


async def test_jitter_differs_from_client_to_client() -> None:
    """Each seed has its own waits, none below the plain one or above the cap; F2."""
    policy = ReconnectPolicy(base_delay=1.0, max_delay=8.0, jitter=1.0)

    one, other = [await waits(*[refusing("503 No")] * 6, policy=policy, seed=seed) for seed in (1, 2)]

    assert one != other
    for slept in (one, other):
        assert all(low <= wait <= 8 for low, wait in zip((1, 2, 4, 4, 4, 4), slept, strict=True))


async def test_progress_resets_the_count_and_a_mere_connection_does_not() -> None:
    """Accepting and closing goes on doubling the wait; an update starts it again; F3."""
    nothing, one = sending(b":\n\n"), sending(event(1))

    slept = await waits(refusing("503 No"), nothing, nothing, one, nothing, nothing)

    assert slept == [1, 2, 4, 1, 1, 2]


async def test_a_minute_of_life_is_progress_too() -> None:
    """A customer who does not change for hours loses no attempts to a proxy that cuts every connection; F3."""
    time = OwnedTime()

    def living(connection: Connection) -> None:
        connection.read_request()
        connection.send(HEAD + b":\n")
        while not stop.is_set() and not connection.server.stopping.wait(0.002):
            pass

    stop = anyio.Event()
    with RawServer(refusing("503 No"), refusing("503 No"), living, gone) as server:
        stream = subscribe(server, time=time, idle_timeout=None)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, stream)
            await until(lambda: stream.state == "open")
            time.advance(60)
            stop.set()

    assert time.slept == [1, 2, 1]


async def test_a_server_that_never_sends_anything_is_given_up() -> None:
    """Attempts without an update are bounded; the error says how many, is retryable and names its cause; F4."""
    time = OwnedTime()

    with RawServer(sending()) as server, pytest.raises(PerkamoStreamError, match="50 attempts") as caught:
        await collect(subscribe(server, time=time, policy=ReconnectPolicy(base_delay=0.1, attempts=50)))

    assert len(server.requests) == 50
    assert len(time.slept) == 49
    assert caught.value.attempts == 50
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, PerkamoConnectionError)


async def test_a_retry_that_comes_between_failures_is_the_new_base() -> None:
    """It counts from the next wait on; the count of failures goes on; F5."""
    slept = await waits(refusing("503 No"), sending(b"retry: 500\n\n"), refusing("503 No"))

    assert slept == [1, 2, 4]
    assert await waits(sending(b"retry: 5000\n\n"), refusing("503 No")) == [5, 10]


@pytest.mark.parametrize("status", ["429 Slow Down", "503 Later", "408 Again"])
@pytest.mark.parametrize(("header", "wait"), [("20", 20), ("0", 1), ("99999", 300), ("soon", 1), ("-5", 1)])
async def test_retry_after_is_honoured_within_bounds(status: str, header: str, wait: float) -> None:
    """Seconds lengthen the wait, up to five minutes; nonsense does nothing; F6."""
    assert await waits(refusing(status, f"retry-after: {header}")) == [wait]


async def test_retry_after_may_be_a_date() -> None:
    """An HTTP date counts from now; F6."""
    [slept] = await waits(refusing("503 Later", f"retry-after: {formatdate(unix_time() + 100, usegmt=True)}"))

    assert 90 <= slept <= 101


async def test_a_connection_that_stalls_in_its_head_is_given_up() -> None:
    """An answer that does not come counts as lost after the idle timeout; H3."""
    time = OwnedTime()

    with RawServer(stalling(head=b"HTTP/1.1 200"), gone) as server:
        stream = subscribe(server, time=time, idle_timeout=30)
        async with anyio.create_task_group() as group:
            group.start_soon(collect, stream)
            await until(lambda: len(server.requests) == 1)
            time.advance(31)

    assert len(server.requests) == 2
