"""``python -m perkamo watch``: what it says of an update, and a real process at the sandbox."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

import pytest

from perkamo import Customer, Level, PerkamoClient, UnlockedPerk
from perkamo.cli.watch import describe
from perkamo.sandbox import Sandbox, Status


def customer(
    wallets: Mapping[str, float] | None = None, level: int | None = None, perks: tuple[UnlockedPerk, ...] = ()
) -> Customer:
    """A customer with these balances, level and perks."""
    reached = None if level is None else Level("points", level, 0, 0, 0.5)
    return Customer("customer_123", wallets=wallets or {}, level=reached, perks=perks)


WELCOME = UnlockedPerk("perk", "welcome", "Welcome member")

CASES = [
    (None, customer(), "nothing yet"),
    (None, customer({"points": 12900}, 2, (WELCOME,)), "points 12,900   level 2   perk Welcome member"),
    (customer({"points": 50}), customer({"points": 170}), "points 170 (+120)"),
    (customer({"points": 170}), customer({"points": 0.5}), "points 0.5 (-169.5)"),
    (customer(), customer({"points": 5, "coins": 1}), "points 5 (+5)   coins 1 (+1)"),
    (customer({"points": 5}), customer(), "points gone"),
    (customer(level=1), customer(level=2), "level up: 1 -> 2"),
    (customer(level=2), customer(level=1), "level down: 2 -> 1"),
    (customer(), customer(perks=(WELCOME,)), "new perk Welcome member"),
    (customer(perks=(WELCOME,)), customer(perks=(WELCOME, UnlockedPerk(None, "x"))), "new perk x"),
    (customer({"points": 5}, 1), customer({"points": 5}, 1), "no change of wallets, level or perks"),
    (None, customer({"a\x1b[2Jb\n": 1}), "a?[2Jb? 1"),
]


@pytest.mark.parametrize(("before", "now", "line"), CASES, ids=[case[2] for case in CASES])
def test_an_update_reads_as_one_line(before: Customer | None, now: Customer, line: str) -> None:
    """Wallet changes, level-ups and perks, and nothing that steers the terminal."""
    assert describe(before, now) == line


class Watching:
    """The command as a process of its own."""

    def __init__(self, sandbox: Sandbox, *options: str) -> None:
        environment = {**os.environ, "PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url}
        environment["PERKAMO_BROWSER_KEY"] = sandbox.browser_key
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "perkamo", "watch", "customer_123", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.out: IO[str] = self.process.stdout

    def end(self) -> tuple[str, str, int]:
        """Press Ctrl-C; return the rest of its output, its errors and its exit code."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        return out, err, self.process.returncode


posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send")


@posix
def test_updates_are_printed_as_they_come_until_ctrl_c(sandbox: Sandbox) -> None:
    """Each change is a line at once; Ctrl-C ends it quietly with exit code 0."""
    watching = Watching(sandbox)
    first = watching.out.readline()
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.emit("customer_123", "purchase.completed", {"order_id": "1", "amount": 12900}, transaction_id="t1")
    second = watching.out.readline()

    rest, err, code = watching.end()

    assert "(+" in second
    assert "points" in first + second
    assert (rest, code) == ("", 0)
    assert err == "perkamo watch: connected\n"


@posix
def test_json_is_one_object_a_line(sandbox: Sandbox) -> None:
    """For other programs: event, id and the customer as the service sent it."""
    watching = Watching(sandbox, "--json")
    shown = json.loads(watching.out.readline())

    watching.end()

    assert shown["event"] == "customer.updated"
    assert shown["id"] == "0"
    assert shown["customer"]["user_id"] == "customer_123"


def test_a_reader_that_has_enough_ends_it_quietly(sandbox: Sandbox) -> None:
    """As with ``| head -1``: no traceback, exit code 0."""
    watching = Watching(sandbox)
    watching.out.readline()
    watching.out.close()
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.identify("customer_123", {"n": 1})

    assert watching.process.stderr is not None
    err = watching.process.stderr.read()
    watching.process.stderr.close()

    assert watching.process.wait(30) == 0
    assert "Traceback" not in err


def test_a_failure_is_explained(sandbox: Sandbox) -> None:
    """A wrong browser key, and a stream that is not there, end with a sentence and exit code 1."""
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Status(404))
    for options in (("--browser-key", "pk_test_wrong"), ()):
        watching = Watching(sandbox, *options)
        _, err = watching.process.communicate(timeout=30)

        assert watching.process.returncode == 1
        assert err.startswith("perkamo watch: ")
        assert "Traceback" not in err
        assert "customer_123" not in err


def test_without_a_browser_key_it_says_what_to_set(sandbox: Sandbox) -> None:
    """The missing variable is named."""
    watching = Watching(sandbox, "--browser-key", "")
    _, err = watching.process.communicate(timeout=30)

    assert watching.process.returncode == 1
    assert "PERKAMO_BROWSER_KEY" in err


def test_an_end_by_the_service_is_reported(sandbox: Sandbox) -> None:
    """204 ends the command with exit code 0 and a sentence."""
    sandbox.faults.next("GET /v1/client/customer/{user_id}/stream", Status(204))
    watching = Watching(sandbox)
    _, err = watching.process.communicate(timeout=30)

    assert (watching.process.returncode, err) == (0, "The service ended the stream.\n")
