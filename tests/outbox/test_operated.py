"""An outage as an operator sees it: each figure right to one event, and the oldest age to what the clocks allow."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
from attrs import define, field

from tests.canary import CANARY_EMAIL, CANARY_KEY, find_canary
from tests.outbox.operated import PUTTING, RELAYING
from tests.outbox.service import CLOSE, Service, running_service

Figures: TypeAlias = dict[str, float]
SECONDS = 60


@define
class Shop:
    """Two processes that put, one that relays, and all that was seen of them."""

    place: Path
    service: Service
    processes: dict[str, subprocess.Popen[str]] = field(factory=dict)
    url: str = ""
    seen: list[str] = field(factory=list)

    def start(self, name: str, program: str, *given: str) -> str:
        """Start a program and return the first line that it prints."""
        arguments = [str(self.place / f"{name}.jsonl"), str(self.place / "outbox"), *given]
        self.processes[name] = process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={"PERKAMO_SECRET_KEY": CANARY_KEY, "PERKAMO_BASE_URL": self.service.url, "PATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.line(process)

    def line(self, process: subprocess.Popen[str]) -> str:
        """Read one line of a process."""
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=SECONDS)
        return line

    def put(self, name: str, number: int) -> tuple[float, float]:
        """Let a process put events, and return when it began and when it had put them."""
        process = self.processes[name]
        assert process.stdin is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        began, ended = json.loads(self.line(process))
        return began, ended

    def page(self, path: str) -> httpx.Response:
        """Read a page of the relay."""
        page = httpx.get(f"{self.url}/{path}", trust_env=False)
        self.seen.append(page.text)
        return page

    def metrics(self) -> Figures:
        """Read the relay's metrics."""
        lines = [line for line in self.page("metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def stats(self) -> dict[str, Any]:
        """Ask the command in a process of its own."""
        command = [sys.executable, "-m", "perkamo", "outbox", "stats", str(self.place / "outbox"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.seen.append(done.stdout + done.stderr)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def health(self, is_so: Callable[[dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
        """Read the relay's health until it is as expected."""
        deadline = time.monotonic() + SECONDS
        while not is_so(told := (page := self.page("healthz")).json()):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        return page.status_code, told

    def spans(self, name: str) -> list[dict[str, Any]]:
        """Read the spans that a process has exported."""
        text = (self.place / f"{name}.jsonl").read_text()
        self.seen.append(text)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose service is up."""
    with running_service() as service, ExitStack() as stack:
        shop = Shop(tmp_path, service)
        for name in ("web-1", "web-2"):
            shop.start(name, PUTTING, name, CANARY_EMAIL)
        match = re.search(r"(http://127\.0\.0\.1:\d+)/healthz", shop.start("relay", RELAYING))
        for process in shop.processes.values():
            stack.callback(process.communicate, timeout=SECONDS)
            stack.callback(process.kill)
        assert match
        shop.url = match[1]
        yield shop


def check_age(read: Callable[[], float], first_put: tuple[float, float]) -> None:
    """The age is that of the first event that waits, which was put between two moments."""
    before = time.time()
    age = read()
    assert before - first_put[1] - 0.01 <= age <= time.time() - first_put[0] + 0.01


@pytest.mark.stress
def test_an_outage_is_seen_to_one_event(shop: Shop) -> None:
    """By /healthz, /metrics, stats and spans alike, through it and after it; catches a figure that lags or is off."""
    began = shop.put("web-1", 5)[0]
    shop.put("web-2", 5)
    status, told = shop.health(lambda told: told["delivered"] == 10)
    figures, stats = shop.metrics(), shop.stats()
    assert (status, told["status"], told["waiting"], told["oldest_age"]) == (200, "idle", 0, None)
    assert (figures["perkamo_outbox_waiting"], figures["perkamo_outbox_delivered_total"]) == (0, 10)
    assert (stats["accepted"], stats["pending"], stats["delivered"], stats["oldest_age"]) == (10, 0, 10, None)
    assert stats["paused"] is None
    assert stats["delivered_last_minute"] == 10 or time.time() - began > 55

    shop.service.answer = lambda _events, _key: CLOSE
    first = shop.put("web-1", 1)
    shop.health(lambda told: (told["oldest_age"] or 0) >= 1)  # so that the others are clearly younger
    shop.put("web-1", 2)
    shop.put("web-2", 4)
    status, told = shop.health(lambda told: told["status"] == "paused" and told["waiting"] == 7)
    figures, stats = shop.metrics(), shop.stats()
    assert (status, told["waiting"], told["delivered"]) == (503, 7, 10)
    assert figures["perkamo_outbox_waiting"] == 7
    assert figures['perkamo_relay_paused{error="PerkamoConnectionError"}'] == 1
    assert (stats["accepted"], stats["pending"], stats["delivered"], stats["dead"]) == (17, 7, 10, 0)
    assert stats["paused"] == stats["last_error"]
    assert {text[:23] for text in (stats["paused"], told["reason"])} == {"POST /v1/events:batch: "}
    assert sum(space["pending"] for space in stats["spaces"]) == 7
    check_age(lambda: float(shop.page("healthz").json()["oldest_age"]), first)
    check_age(lambda: shop.metrics()["perkamo_outbox_oldest_age_seconds"], first)
    check_age(lambda: float(shop.stats()["oldest_age"]), first)

    shop.service.answer = lambda _events, _key: None
    status, told = shop.health(lambda told: told["delivered"] == 17 and told["status"] == "idle")
    figures, stats = shop.metrics(), shop.stats()
    assert (status, told["waiting"], told["oldest_age"]) == (200, 0, None)
    assert (figures["perkamo_outbox_waiting"], figures["perkamo_outbox_delivered_total"]) == (0, 17)
    assert figures["perkamo_outbox_oldest_age_seconds"] == 0
    assert figures['perkamo_relay_paused{error=""}'] == 0
    assert figures['perkamo_relay_events_total{result="delivered"}'] == 17
    assert (stats["pending"], stats["delivered"], stats["paused"], stats["oldest_age"]) == (0, 17, None, None)
    assert stats["last_error"] is not None
    assert sorted(shop.service.applied.values()) == [1] * 17

    shop.processes["relay"].send_signal(signal.SIGTERM)
    for name in ("web-1", "web-2", "relay"):
        shop.seen += shop.processes[name].communicate(timeout=SECONDS)
    assert [process.returncode for process in shop.processes.values()] == [0, 0, 0]
    check_spans(shop, figures)
    assert [found for text in shop.seen if (found := find_canary(text))] == []


def check_spans(shop: Shop, figures: Figures) -> None:
    """Each order can be followed into the delivery that settled it, and each request is one span and one count."""
    orders = [span["context"]["span_id"] for name in ("web-1", "web-2") for span in shop.spans(name)]
    relayed = shop.spans("relay")
    deliveries = [span for span in relayed if span["name"] == "deliver perkamo_outbox"]
    passed = [span for span in deliveries if "error.type" not in span["attributes"]]
    failed = [span for span in deliveries if "error.type" in span["attributes"]]
    linked = [link["context"]["span_id"] for span in passed for link in span["links"]]
    assert sorted(linked) == sorted(orders)
    assert len(orders) == 17
    assert sum(span["attributes"]["perkamo.outbox.delivered"] for span in passed) == 17
    assert failed
    assert {span["attributes"]["error.type"] for span in failed} == {"PerkamoConnectionError"}

    calls = [span for span in relayed if span["parent_id"] in {one["context"]["span_id"] for one in deliveries}]
    attempts = [span for span in relayed if span["parent_id"] in {one["context"]["span_id"] for one in calls}]
    counted = {name: value for name, value in figures.items() if "request_duration_seconds_count" in name}
    assert len(calls) == len(attempts) == len(deliveries) == sum(counted.values())
    assert len(relayed) == len(calls) + len(attempts) + len(deliveries)
    assert {span["attributes"]["url.template"] for span in calls} == {"/v1/events:batch"}
