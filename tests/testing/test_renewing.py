"""Sandbox.renew: as new, at the same address."""

from datetime import UTC, datetime

import pytest

from perkamo import PerkamoClient
from perkamo.sandbox import ProgramError, Sandbox, Status
from perkamo.sandbox.messages import Request, Response

JUNE = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
STARS = {
    "wallets": [{"key": "stars", "name": "Stars"}],
    "earningRules": [{"event": "lesson.done", "label": "Learnt", "reward": {"wallet": "stars", "amount": 7}}],
}


def earned(client: PerkamoClient, event: str) -> dict[str, float]:
    """Emit one event and return what it earned."""
    return {change.wallet: change.amount for change in client.emit("a", event, {"amount": 200}).delta}


def test_a_renewed_sandbox_has_its_address_and_keys_and_nothing_else(
    perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient
) -> None:
    """State, log, faults, clock, handlers and stream settings; catches one test's that another one finds."""
    sandbox = perkamo_sandbox
    before = (sandbox.base_url, sandbox.api_key, sandbox.browser_key)
    settings = (sandbox.streams.heartbeat, sandbox.streams.retry_ms)

    def refuse(_: Request) -> Response:
        return Response(418, (), b"{}")

    perkamo_client.emit("a", "purchase.completed", {"amount": 200}, transaction_id="order_1")
    sandbox.faults.next("POST /v1/events", Status(503))
    sandbox.clock.freeze(JUNE)
    sandbox.add_handler(refuse)
    sandbox.streams.heartbeat, sandbox.streams.retry_ms = 0.01, None

    sandbox.renew()

    assert (sandbox.base_url, sandbox.api_key, sandbox.browser_key) == before
    assert (sandbox.streams.heartbeat, sandbox.streams.retry_ms) == settings
    assert (sandbox.events(), sandbox.requests, sandbox.faults.unfired) == ((), (), ())
    assert not sandbox.clock.frozen
    assert perkamo_client.emit("a", "purchase.completed", {"amount": 200}, transaction_id="order_1").applied


def test_a_renewed_sandbox_follows_another_program(perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient) -> None:
    """Also after a plain reset, until it is renewed again; catches a reset that brings back the first program."""
    perkamo_sandbox.renew(STARS)
    assert earned(perkamo_client, "lesson.done") == {"stars": 7}

    perkamo_sandbox.reset()

    assert earned(perkamo_client, "lesson.done") == {"stars": 7}
    assert [rule.event for rule in perkamo_client.event_catalog()] == ["lesson.done"]
    perkamo_sandbox.renew()
    assert earned(perkamo_client, "lesson.done") == {}
    assert earned(perkamo_client, "purchase.completed") == {"points": 2}


def test_a_renewed_sandbox_stands_still_at_another_time(perkamo_sandbox: Sandbox) -> None:
    """Also after a plain reset; catches a clock that runs on."""
    perkamo_sandbox.renew(now=JUNE)
    perkamo_sandbox.clock.advance(60)

    perkamo_sandbox.reset()

    assert perkamo_sandbox.clock.now() == JUNE
    perkamo_sandbox.renew()
    assert not perkamo_sandbox.clock.frozen


def test_a_wrong_program_or_time_changes_nothing(perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient) -> None:
    """It is refused before anything is forgotten."""
    perkamo_client.emit("a", "purchase.completed", {"amount": 200})

    with pytest.raises(ProgramError):
        perkamo_sandbox.renew({"rules": []})
    with pytest.raises(ValueError, match="zone"):
        perkamo_sandbox.renew(STARS, now=datetime(2026, 6, 1))  # noqa: DTZ001 - what is refused

    perkamo_sandbox.assert_emitted("purchase.completed")
    assert earned(perkamo_client, "purchase.completed") == {"points": 2}
