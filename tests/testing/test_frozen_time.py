"""testing: the fixtures work where a tool has frozen or moved the time, by a decorator, a block or a mark of ours."""

from pathlib import Path

import pytest

from tests.testing.runs import run_pytest

TESTS = """
import datetime as dt
import pytest, time_machine
from freezegun import freeze_time
from perkamo import Event, SyncBatcher
from perkamo.sandbox import Lost

PAST, FUTURE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2035, 1, 1, tzinfo=dt.UTC)
FROZEN = [
    pytest.param(lambda: freeze_time(PAST), id="freezegun"),
    pytest.param(lambda: freeze_time(FUTURE, tick=True), id="freezegun that ticks"),
    pytest.param(lambda: time_machine.travel(FUTURE, tick=False), id="time-machine"),
    pytest.param(lambda: time_machine.travel(PAST), id="time-machine that ticks"),
]

def buy(client, number=1):
    client.emit("u", "purchase.completed", {"amount": 500}, transaction_id=f"order_{number}")

@pytest.mark.parametrize("frozen", FROZEN)
def test_a_block(frozen, perkamo_sandbox, perkamo_client):
    buy(perkamo_client, 1)
    with frozen():
        buy(perkamo_client, 2)
        perkamo_sandbox.faults.next("POST /v1/events", Lost())
        buy(perkamo_client, 3)
    # What was signed or answered by one clock is read by the other: one correction, and no more.
    buy(perkamo_client, 4)
    perkamo_sandbox.assert_emitted("purchase.completed", times=4)

@freeze_time(PAST)
def test_freezegun(perkamo_sandbox, perkamo_client):
    buy(perkamo_client)
    [event] = perkamo_sandbox.events()
    assert (event.occurred_at, len(perkamo_sandbox.requests)) == ("2020-01-01T00:00:00.000Z", 1)

@time_machine.travel(FUTURE, tick=False)
def test_time_machine(perkamo_sandbox, perkamo_client):
    buy(perkamo_client)
    [event] = perkamo_sandbox.events()
    assert (event.occurred_at, len(perkamo_sandbox.requests)) == ("2035-01-01T00:00:00.000Z", 1)

@pytest.mark.perkamo(now=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
@pytest.mark.parametrize("frozen", FROZEN)
def test_a_mark_of_ours_decides_about_the_sandbox(frozen, perkamo_sandbox, perkamo_client):
    with frozen():
        buy(perkamo_client)
        perkamo_sandbox.clock.advance(3600)
        buy(perkamo_client, 2)
    assert len(perkamo_sandbox.requests) == 2

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("frozen", FROZEN)
async def test_async(anyio_backend, frozen, perkamo_sandbox, async_perkamo_client):
    async def token():
        return await async_perkamo_client.create_stream_token(perkamo_sandbox.browser_key, "u")

    with frozen():
        await async_perkamo_client.emit("u", "purchase.completed", {"amount": 500})
        async with async_perkamo_client.subscribe_customer("u", token) as updates:
            async for update in updates:
                break
    assert update.customer.wallets["points"] == 5

@pytest.mark.parametrize("frozen", FROZEN)
def test_code_that_builds_its_own_client(frozen, perkamo_env):
    from perkamo import PerkamoClient
    with frozen(), PerkamoClient() as client:
        buy(client)
    perkamo_env.assert_emitted("purchase.completed")
"""


@pytest.mark.stress
def test_the_fixtures_hold_where_time_is_frozen(tmp_path: Path) -> None:
    """Sync and async, one request a call; catches a signature of another time, and a wait that never ends."""
    run = run_pytest(tmp_path, {"test_frozen.py": TESTS}, "--timeout=30")

    assert (run.code, run.counts) == (0, {"passed": 22}), run.text
