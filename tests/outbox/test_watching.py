"""relay: what the hooks of its client are told."""

import anyio
import pytest
from attrs import define, field

from perkamo import AsyncPerkamoClient, Delivery, DeliveryStart, DeliveryState, Event, Hook, Outbox, hooks
from perkamo.sandbox import Sandbox, Status
from tests.canary import CANARY_EMAIL, find_canary

pytestmark = pytest.mark.anyio

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@define(eq=False)
class Recorder(Hook):
    """Keeps what it is told of a relay."""

    contexts: list[str | None] = field(factory=list)
    starts: list[DeliveryStart] = field(factory=list)
    ends: list[Delivery] = field(factory=list)
    states: list[DeliveryState] = field(factory=list)

    def on_put(self) -> str | None:
        """See ``Hook.on_put``."""
        return self.contexts.pop(0) if self.contexts else None

    def on_delivery_start(self, delivery: DeliveryStart) -> None:
        """See ``Hook.on_delivery_start``."""
        self.starts.append(delivery)

    def on_delivery(self, delivery: Delivery) -> None:
        """See ``Hook.on_delivery``."""
        self.ends.append(delivery)

    def on_state(self, state: DeliveryState) -> None:
        """See ``Hook.on_state``."""
        self.states.append(state)


async def test_each_delivery_and_each_change_of_the_state_is_reported(sandbox: Sandbox, outbox: Outbox) -> None:
    """An outage and its end, to one event; catches a state that is told once, and one of before the outage."""
    recorder = Recorder()
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, hooks=[recorder])
    sandbox.faults.next("POST /v1/events:batch", Status(503), times=2)
    for number in range(3):
        await outbox.put(Event(CANARY_EMAIL, "review.created", f"t{number}", {"text": CANARY_EMAIL}))

    with anyio.fail_after(30):
        async with client, outbox.relay(client):
            while not (recorder.states and recorder.states[-1].delivered == 3):  # noqa: ASYNC110
                await anyio.sleep(0.01)

    assert [(end.delivered, end.dead, end.later, end.error) for end in recorder.ends] == [
        *[(0, 0, 3, "PerkamoServerError")] * 2,
        (3, 0, 0, None),
    ]
    assert [end.start for end in recorder.ends] == recorder.starts
    assert all(start.events == 3 and start.bytes > 300 for start in recorder.starts)
    first, last = recorder.states[0], recorder.states[-1]
    assert (first.waiting, first.accepted) == (3, 3)
    assert first.oldest_put_at is not None
    assert (last.waiting, last.oldest_put_at, last.paused, last.dead) == (0, None, None, 0)
    assert find_canary(repr((recorder.ends, recorder.states))) is None


async def test_a_refusal_that_lasts_is_told_as_a_pause(sandbox: Sandbox, outbox: Outbox) -> None:
    """With the error's name and for how long; catches a gauge that shows a relay at work which waits."""
    recorder = Recorder()
    client = AsyncPerkamoClient("sk_test_other", base_url=sandbox.base_url, hooks=[recorder])
    await outbox.put(Event("u", "e", "t"))

    with anyio.fail_after(30):
        async with client, outbox.relay(client):
            while not (recorder.states and recorder.states[-1].paused):  # noqa: ASYNC110
                await anyio.sleep(0.01)

    assert recorder.states[-1].paused == "PerkamoAuthenticationError"
    assert 50 < recorder.states[-1].paused_seconds <= 60


async def test_a_delivery_names_the_trace_contexts_of_those_who_put(sandbox: Sandbox, outbox: Outbox) -> None:
    """Each once, and only such as can be kept; catches links that are doubled, or a header's end in the outbox."""
    recorder = Recorder(contexts=[CONTEXT, CONTEXT, None, "a\nb", "x" * 10_000])
    hooks.install(recorder)
    try:
        for number in range(5):
            await outbox.put(Event("u", "e", f"t{number}"))
        async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
            await outbox.drain(client)
    finally:
        hooks.uninstall(recorder)

    assert [(start.events, start.trace_contexts) for start in recorder.starts] == [(5, (CONTEXT,))]


async def test_a_delivery_that_is_broken_off_ends_too(sandbox: Sandbox, outbox: Outbox) -> None:
    """Its events go on waiting; catches a span that stays open when a relay ends."""
    recorder = Recorder()
    client = AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, hooks=[recorder])
    sandbox.faults.next("POST /v1/events:batch", Status(503, {"retry-after": "0"}))
    await outbox.put(Event("u", "e", "t"))

    async with client:
        with anyio.move_on_after(30) as scope:
            async with outbox.relay(client, grace=0):
                while not recorder.starts:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
    sandbox.faults.clear()

    assert not scope.cancelled_caught
    assert len(recorder.ends) == len(recorder.starts)
    assert recorder.ends[-1].later + recorder.ends[-1].delivered == 1
