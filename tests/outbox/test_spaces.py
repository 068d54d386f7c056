"""Which events belong to which key or Space."""

from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoAuthenticationError,
    PerkamoConfigurationError,
)
from perkamo.outbox.outbox import Outbox
from perkamo.sandbox import Sandbox, Status
from tests.outbox.clocks import HardlyWaiting, by_clock
from tests.outbox.putting import BATCH, event, settled
from tests.outbox.service import running_service

pytestmark = pytest.mark.anyio


async def accepted_by(outbox: Outbox, client: AsyncPerkamoClient, sandbox: Sandbox, number: int) -> None:
    """Let an event wait for this client's key: the service accepted the key, and could not take the event."""
    sandbox.faults.sequence(BATCH, [Status(200, body=UNDECIDED), Status(503)])
    await outbox.put(event(number))
    async with outbox.relay(client):
        await settled(outbox, lambda _: len(sandbox.requests) > 1)


UNDECIDED = (
    b'{"results":[{"applied":false,"duplicate":false,"delta":[],"leveled_up":false,"unlocked":[],"wallet_state":{}}]}'
)


async def test_events_are_never_sent_with_another_key(
    sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """Pitfall 23: staging's rows stay where they are when production's key comes along, in this process or the next."""
    with Sandbox(seed=1) as other_sandbox:
        async with (
            AsyncPerkamoClient(other_sandbox.api_key, base_url=other_sandbox.base_url) as other,
            Outbox(tmp_path) as outbox,
        ):
            await accepted_by(outbox, other, other_sandbox, 1)
            await outbox.aclose()
            later = Outbox(tmp_path)
            await later.put(event(2))

            stats = await later.drain(client)
            stats_of_others = await later.drain(other)
            await later.aclose()

        assert [sent.transaction_id for sent in sandbox.events()] == ["order_2"]
        assert [sent.transaction_id for sent in other_sandbox.events()] == ["order_1"]
        assert (stats.pending, stats_of_others.pending) == (1, 0)


async def test_a_relay_with_a_wrong_key_captures_nothing(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox
) -> None:
    """Events are bound to a key once the service has accepted it; catches an outbox that one wrong start blocks."""
    sandbox.faults.next(BATCH, Status(401), times=1)
    async with AsyncPerkamoClient("sk_test_wrong", base_url=sandbox.base_url) as wrong:
        await outbox.put(event(1))
        with pytest.raises(PerkamoAuthenticationError):
            await outbox.drain(wrong)
        await outbox.put(event(2))

    stats = await outbox.drain(client)

    assert (stats.delivered, stats.pending, len(sandbox.events())) == (2, 0, 2)


async def test_a_key_that_rotates_while_a_relay_runs_needs_nothing_further(outbox: Outbox, tmp_path: Path) -> None:
    """One function supplied both keys, so they are of one Space: all arrives, also what waited under the old one."""
    key = ["sk_test_old"]
    is_down = False
    by_clock(outbox, HardlyWaiting())
    with running_service() as service:
        service.answer = lambda _, __: 503 if is_down else None
        async with AsyncPerkamoClient(lambda: key[0], base_url=service.url) as rotating, outbox.relay(rotating):
            await outbox.put(event(1))
            await settled(outbox, lambda stats: not stats.pending)
            is_down = True
            await outbox.put(event(2))
            await settled(outbox, lambda _: len(service.requests) > 1)
            key[0] = "sk_test_new"
            for number in range(3, 12):
                await outbox.put(event(number))
            is_down = False
            await settled(outbox, lambda stats: not stats.pending)
            is_down = True
            await outbox.put(event(12))  # it waits, bound to the new key

        is_down = False
        async with Outbox(tmp_path / "outbox") as restarted, AsyncPerkamoClient(key[0], base_url=service.url) as new:
            stats = await restarted.drain(new)

    assert (stats.delivered, stats.pending) == (12, 0)
    assert sorted(service.applied.values()) == [1] * 12


async def test_a_named_space_needs_nothing_when_the_key_changes(
    sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """Events are bound to the name: the next key delivers them, and an outbox of another name does not."""
    async with AsyncPerkamoClient("sk_test_former", base_url=sandbox.base_url) as former:
        async with Outbox(tmp_path, space="commerce-live") as outbox:
            await accepted_by(outbox, former, sandbox, 1)
        async with Outbox(tmp_path, space="commerce-test") as other:
            elsewhere = await other.drain(client)
    sandbox.faults.clear()

    async with Outbox(tmp_path, space="commerce-live") as outbox:
        stats = await outbox.drain(client)

    assert (elsewhere.pending, stats.delivered, stats.pending) == (1, 1, 0)


@pytest.mark.parametrize("name", ["", "key:abc", "a\nb", "x" * 101, 5])
async def test_what_is_no_name_of_a_space_is_refused(name: str, tmp_path: Path) -> None:
    """A wrong name is told at once, and nothing is made."""
    with pytest.raises(PerkamoConfigurationError, match="space must"):
        Outbox(tmp_path / "outbox", space=name)

    assert not (tmp_path / "outbox").exists()


async def test_events_of_a_former_key_are_said_to_wait_and_can_be_rebound(
    sandbox: Sandbox, client: AsyncPerkamoClient, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """After a change of the key nothing is stuck in silence: it is logged once, and one call hands the events over."""
    async with AsyncPerkamoClient("sk_test_former", base_url=sandbox.base_url) as former:
        await accepted_by(outbox, former, sandbox, 1)
    sandbox.faults.clear()
    caplog.clear()

    stuck = await outbox.drain(client)
    said = [record.getMessage() for record in caplog.records if record.name == "perkamo.outbox"]
    rebound = await outbox.rebind(client)
    stats = await outbox.drain(client)

    assert (stuck.pending, rebound, stats.delivered, len(sandbox.events())) == (1, 1, 1, 1)
    assert len(said) == 1
    assert "another Space or key" in said[0]


async def test_the_key_is_nowhere_in_the_files(sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """P10: neither the key nor a plain hash of it is kept."""
    async with Outbox(tmp_path) as outbox:
        await accepted_by(outbox, client, sandbox, 1)

        kept = b"".join([await file.read_bytes() async for file in anyio.Path(tmp_path).iterdir()])

    assert b"order_1" in kept
    for secret in (sandbox.api_key, sha256(sandbox.api_key.encode()).hexdigest()):
        assert secret.encode() not in kept
    assert sha256(sandbox.api_key.encode()).digest() not in kept
