"""perkamo outbox relay --listen: what probes and scrapers are shown, and how a relay ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from perkamo import Event, PerkamoClient, SyncOutbox
from perkamo.cli.duration import duration, readable
from perkamo.cli.listening import address
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request
from tests.canary import CANARY_EMAIL, find_canary
from tests.outbox.service import HANG, running_service

KEY = "sk_test_relay_pages"


@contextmanager
def relay(outbox: Path, url: str, key: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A relay as a process of its own, and where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perkamo", "outbox", "relay", str(outbox), "--listen", "127.0.0.1:0", *options],
        env={"PERKAMO_SECRET_KEY": key, "PERKAMO_BASE_URL": url, "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.match(r"Health and metrics: (http://127\.0\.0\.1:\d+)/healthz", process.stdout.readline())
        assert match, process.communicate(timeout=30)
        yield process, match[1]
    finally:
        process.kill()
        process.communicate(timeout=30)


def reach(url: str, is_so: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Read a page until it is as expected."""
    deadline = time.monotonic() + 30
    while True:
        page = httpx.get(url, trust_env=False)
        assert find_canary(page.text) is None
        if is_so(page):
            return page
        assert time.monotonic() < deadline, page.text
        time.sleep(0.02)


def figures(page: httpx.Response) -> dict[str, float]:
    """Read the Prometheus text format."""
    lines = [line for line in page.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_health_and_metrics_follow_an_outage(sandbox: Sandbox, tmp_path: Path) -> None:
    """Idle, paused with the reason, too old, and idle again; catches a probe that stays green, or red."""
    path = tmp_path / "outbox"
    with SyncOutbox(path) as outbox, relay(path, sandbox.base_url, sandbox.api_key, "--fail-if-older", "1h") as told:
        process, url = told
        idle = reach(f"{url}/healthz", lambda page: page.status_code == 200).json()
        sandbox.faults.rate(1.0, Status(503, {"retry-after": "0"}), seed=1)
        for number in range(3):
            outbox.put(Event(CANARY_EMAIL, "review.created", f"review_{number}", {"text": CANARY_EMAIL}))
        paused = reach(f"{url}/healthz", lambda page: page.status_code == 503).json()
        during = figures(httpx.get(f"{url}/metrics", trust_env=False))
        sandbox.faults.clear()
        reach(f"{url}/healthz", lambda page: page.json()["delivered"] == 3 and page.status_code == 200)
        after = figures(reach(f"{url}/metrics", lambda page: page.status_code == 200))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)

    assert idle == {"status": "idle", "waiting": 0, "oldest_age": None, "delivered": 0, "dead": 0}
    assert (paused["status"], paused["waiting"]) == ("paused", 3)
    assert "503" in paused["reason"]
    assert during["perkamo_outbox_waiting"] == 3
    assert during['perkamo_relay_paused{error="PerkamoServerError"}'] == 1
    assert after['perkamo_relay_paused{error=""}'] == 0
    assert (after["perkamo_outbox_waiting"], after["perkamo_outbox_delivered_total"]) == (0, 3)
    assert after["perkamo_outbox_oldest_age_seconds"] == 0
    assert after['perkamo_relay_events_total{result="delivered"}'] == 3
    answered = [name for name in after if name.startswith("perkamo_request_duration_seconds_count")]
    assert any('endpoint="/v1/events:batch"' in name and 'status="200"' in name for name in answered)
    assert process.returncode == 0
    assert "Stopped. What waits is kept.\n" in out
    assert find_canary(out + err) is None


def test_health_fails_where_an_event_waits_too_long_although_nothing_is_paused(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Such as events of another Space, which this relay does not send; catches a probe of the relay alone.

    At SIGTERM it ends with 0 all the same; catches a unit that counts as failed because it was stopped in an outage.
    """
    path = tmp_path / "outbox"
    with (
        SyncOutbox(path, space="other") as outbox,
        relay(path, sandbox.base_url, sandbox.api_key, "--fail-if-older", "0.1s", "--space", "mine") as (
            process,
            url,
        ),
    ):
        outbox.put(Event("u", "review.created", "review_1"))
        page = reach(f"{url}/healthz", lambda page: page.status_code == 503).json()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, "oldest" in err) == (0, False)
    assert page["status"] == "late"
    assert re.fullmatch(r"The oldest event that waits was put \d+\.\d s ago\.", page["reason"])


def test_sigterm_waits_for_answers_no_longer_than_the_grace(tmp_path: Path) -> None:
    """A request that hangs is given up after it, and its event kept; catches a container that is killed instead."""
    path = tmp_path / "outbox"
    with running_service() as service, SyncOutbox(path) as outbox:
        service.answer = lambda _events, _key: HANG
        with relay(path, service.url, KEY, "--grace", "0.3s") as (process, _):
            outbox.put(Event("u", "review.created", "review_1"))
            deadline = time.monotonic() + 30
            while not service.requests:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            seconds = time.monotonic() - began

        assert process.returncode == 0
        assert 0.3 <= seconds < 4.9  # the default grace is 5, and the request's own time 10
        assert outbox.stats().pending == 1
        service.answer = lambda _events, _key: None
        service.ended.set()
        with PerkamoClient(KEY, base_url=service.url) as client:
            assert outbox.drain(client).delivered == 1


def processor_seconds(process: subprocess.Popen[str]) -> float:
    """How much processor time a process has used so far."""
    times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_relay_hardly_works_and_yet_sends_within_200_ms(sandbox: Sandbox, tmp_path: Path) -> None:
    """What another process puts; catches a relay that looks every few seconds, and one that looks all the time."""
    path = tmp_path / "outbox"
    arrived: list[float] = []

    def note(_: Request) -> None:
        arrived.append(time.monotonic())

    sandbox.add_handler(note)
    delays: list[float] = []
    with SyncOutbox(path) as outbox, relay(path, sandbox.base_url, sandbox.api_key) as (process, url):
        reach(f"{url}/healthz", lambda page: page.status_code == 200)
        began = processor_seconds(process)
        time.sleep(10)  # the one thing that it shall hardly do anything in
        idle = processor_seconds(process) - began
        for number in range(20):
            outbox.put(Event("u", "review.created", f"review_{number}"))
            put_at = time.monotonic()
            while len(arrived) <= number:
                assert time.monotonic() < put_at + 30
                time.sleep(0.002)
            delays.append(arrived[number] - put_at)

    assert idle < 0.5
    assert sorted(delays)[len(delays) // 2] < 0.2, delays


REQUESTS = {
    "another path": (b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "another method": (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "a head only": (b"HEAD /healthz?full HTTP/1.1\r\nHost: x\r\n\r\n", 200),
}


def test_odd_requests_are_answered_and_change_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """A scanner, a silent connection and a reader that leaves; catches a relay that a visitor brings down."""
    path = tmp_path / "outbox"
    path.mkdir(mode=0o700)
    with relay(path, sandbox.base_url, sandbox.api_key) as (process, url):
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(place), socket.create_connection(place) as leaving:
            leaving.sendall(b"GET /metrics HT")
            leaving.close()
            for request, status in REQUESTS.values():
                with socket.create_connection(place) as one:
                    one.sendall(request)
                    answer = one.makefile("rb").read()
                assert answer.startswith(f"HTTP/1.1 {status} ".encode())
                assert b"Connection: close" in answer
                assert answer.endswith(b"\r\n\r\n") == request.startswith(b"HEAD")
            reach(f"{url}/healthz", lambda page: page.status_code == 200)
        assert process.poll() is None


def test_an_address_that_is_taken_is_told_in_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    """Before anything is delivered; catches a relay that runs without the pages that were asked for."""
    path = tmp_path / "outbox"
    path.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "perkamo",
                "outbox",
                "relay",
                path,
                "--listen",
                f"127.0.0.1:{taken.getsockname()[1]}",
            ],
            env={"PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "address already in use" in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("relay.internal:1", ("relay.internal", 1))],
)
def test_an_address_has_a_host_and_a_port(text: str, value: tuple[str, int]) -> None:
    """IPv6 stands in brackets, as in URLs."""
    assert address(text) == value


@pytest.mark.parametrize("text", ["9464", ":9464", "host:", "host:99999", "host:-1", "host:٣"])
def test_anything_else_is_no_address(text: str) -> None:
    """Catches a port that is taken for a host, or all interfaces by accident."""
    with pytest.raises(ArgumentTypeError):
        address(text)


def test_lengths_of_time_are_written_with_units() -> None:
    """As people write them, and back; catches minutes that are taken for seconds."""
    assert [duration(text) for text in ("90", "1.5s", "10m", "2h", "1d")] == [90, 1.5, 600, 7200, 86400]
    assert [readable(seconds) for seconds in (0.04, 90, 7200, 200_000)] == ["0.0 s", "1.5 min", "2.0 h", "2.3 d"]
    for text in ("", "m", "-1", "10 m", "1e3", "1w"):
        with pytest.raises(ArgumentTypeError):
            duration(text)
