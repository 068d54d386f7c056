"""Delivers what waits in a store. It knows no SQL; ``settling.py`` decides what happens to each event."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from perkamo.batching.pacing import Pace
from perkamo.batching.split import MAX_REQUEST_BYTES, EventResult, classify_result, send_batch
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoError, PerkamoRateLimitError, PerkamoTimeoutError
from perkamo.events import EncodedEvent
from perkamo.outbox.settling import LONGEST_PUT_OFF, SIZES, Settled, Settler
from perkamo.outbox.store import Changes, Lease, Settlement, Store, StoredEvent
from perkamo.outbox.watching import RelayHooks
from perkamo.request.retry import RetryPolicy
from perkamo.runtime.clock import Clock
from perkamo.runtime.event_loop import DetachedTaskGroup

PAUSE: Final = 60.0
"""Seconds between two tries while something is wrong that time alone does not repair."""
TIMEOUT: Final = 10.0
"""Seconds for a request; more where the service is seen to need more, up to the client's own timeout."""
OVERTAKE_AFTER: Final = 2.0
"""Seconds after which others no longer wait for a request to be answered."""
_MAX_ON_THEIR_WAY: Final = 8
_LOOK_AGAIN: Final = 5.0
_LONGEST_TIMEOUT: Final = 300.0
_STORE_PAUSE: Final = 1.0
FINISH_SECONDS: Final = 5.0
"""How long a relay that is told to end waits for the answers to its requests by default."""
_REMEMBERED_KEYS: Final = 8
_DAMAGED: Final = "The event was damaged on the disk. It was not sent."

_LOGGER: Final = logging.getLogger("perkamo.outbox")


class Relay:
    """Delivers with one client, at one pace, in the order in which events were put while none fails.

    Attributes:
        trouble: The error for which everything waits at the moment, or None while events pass.
    """

    def __init__(
        self,
        store: Store,
        client: AsyncPerkamoClient,
        *,
        space: str | None = None,
        on_accepted: Callable[[str], None] = lambda _: None,
        until_empty: bool = False,
        concurrency: int = 1,
        clock: Clock = Clock(),
    ) -> None:
        """Prepare, in the event loop that will deliver.

        Args:
            store: What waits.
            client: Sends the events, without its own retries: the relay has more patience.
            space: The name of the Space; without one, the client's key tells it.
            on_accepted: Called with the Space once the service has accepted the client's key.
            until_empty: End when nothing deliverable waits, and with an error that time alone does not repair.
            concurrency: How many requests may be on their way while all of them are answered soon.
            clock: What the waits go by.
        """
        self.trouble: PerkamoError | None = None
        self._store = store
        self._client = client.with_options(retry=RetryPolicy.none())
        self._name = space
        self._on_accepted = on_accepted
        self._until_empty = until_empty
        self._concurrency = concurrency
        self._clock = clock
        self._pace = Pace(clock)
        self._settler = Settler(clock)
        exchange = client._exchange  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._hooks = RelayHooks(exchange.hooks, clock, space or "")
        self._timeout = TIMEOUT
        self._accepted: list[str] = []
        self._sent: list[float] = []
        self._news = anyio.Event()
        self._changes: Changes | None = None
        self._trouble_is_local = False
        self._is_stopping = False
        self._mentioned_others = False

    async def run(self) -> None:
        """Deliver until ``stop``, or until nothing waits.

        Raises:
            PerkamoError: With ``until_empty``: an error that time alone does not repair. Everything is kept.
        """
        with self._store.watch() as changes:
            self._changes = changes
            async with anyio.create_task_group() as tasks:
                while not self._is_stopping and await self._step(tasks, changes):
                    pass
            await self._tell_state(at_end=True)
        if self._until_empty and self.trouble is not None and not self.trouble.retryable:
            raise self.trouble

    def stop(self) -> None:
        """End after the requests that are on their way."""
        self._is_stopping = True
        self._tell()

    def _tell(self) -> None:
        """Let the loop look around."""
        self._news.set()
        self._news = anyio.Event()
        if self._changes is not None:
            self._changes.notify()

    async def _step(self, tasks: TaskGroup, changes: Changes) -> bool:
        """Send one request, or wait until there may be something to send; tell whether to continue."""
        until_state = await self._tell_state()
        if (seconds := self._seconds_to_turn()) > 0:
            with self._clock.limit(min(seconds, until_state)):
                await self._news.wait()
            return True
        try:
            spaces = await self._spaces()
            lease = await self._store.take(spaces, SIZES, MAX_REQUEST_BYTES, self._timeout + TIMEOUT)
        except Exception as error:  # noqa: BLE001 - a relay ends when it is told to
            self._note_local(error)
            return not self._is_hopeless()
        if lease.events:
            self._sent.append(self._clock.now())
            tasks.start_soon(self._deliver, lease, spaces[0], self._sent[-1])
            return True
        if self.trouble is not None and (self._trouble_is_local or not lease.waiting):
            self._note(None, self._clock.now())
        if lease.others_wait and not self._mentioned_others:
            self._mentioned_others = True
            _LOGGER.error(
                "Events wait that belong to another Space or key; they are kept, and not sent with this one. After a "
                "change of the key, see Outbox.rebind"
            )
        if not lease.waiting:
            self._settler.forget()
        if self._until_empty and not self._sent and lease.waiting <= len(self._settler.given_up):
            return False
        if lease.stands_back is not None and (due := self._settler.call_back(lease.stands_back)):
            await self._settle(Lease(), Settlement(spaces[0], due=due), until=self._clock.now())
            return True
        await changes.wait(min(_LOOK_AGAIN, until_state, _LOOK_AGAIN if lease.wait is None else lease.wait))
        return True

    async def _tell_state(self, *, at_end: bool = False) -> float:
        """Report the outbox's state to the hooks, unless that was just done; return the seconds until it is due."""
        seconds = self._hooks.seconds_to_state()
        if seconds == 0 or (at_end and seconds is not None):
            try:
                stats = await self._store.count()
            except Exception:  # noqa: BLE001 - whoever takes and settles will meet it too, and tell it
                return _LOOK_AGAIN
            self._hooks.state(stats, self.trouble, self._pace.seconds, time.time())
        return seconds or _LOOK_AGAIN

    def _seconds_to_turn(self) -> float:
        """Return for how long no request may leave, unless there are news; 0 when one may."""
        now = self._clock.now()
        if (pause := self._pace.seconds) > 0:
            return pause
        soon = [sent_at for sent_at in self._sent if now - sent_at < OVERTAKE_AFTER]
        if not self._sent or (
            self.trouble is None
            and len(soon) < self._concurrency
            and len(self._sent) < max(self._concurrency, _MAX_ON_THEIR_WAY)
        ):
            return 0.0
        return min(soon) + OVERTAKE_AFTER - now if soon and self.trouble is None else _LOOK_AGAIN

    async def _deliver(self, lease: Lease, space: str, sent_at: float) -> None:
        sound = [event for event in lease.events if not event.is_damaged]
        with self._hooks.delivery(sound) as result:
            try:
                results = await self._send(sound)
            except BaseException:
                with anyio.CancelScope(shield=True), anyio.move_on_after(_STORE_PAUSE):
                    later = [(event, event.failures, 0.0) for event in lease.events]
                    await self._settle(lease, Settlement(space, later=later), until=sent_at)
                raise
            finally:
                self._sent.remove(sent_at)
                self._tell()
            settled = result.settled = self._settler.settle(sound, results, sent_at)
        settled.dead += [(event, _DAMAGED) for event in lease.events if event.is_damaged]
        for _, reason in settled.dead:
            _LOGGER.error("An event was refused and is a dead letter now: %s", reason)
        if settled.is_answered:
            await self._accept(space)
        if settled.trouble is not None or settled.is_answered:
            self._note(settled.trouble, sent_at)
        await self._settle(lease, self._settlement(space, settled), until=sent_at + self._timeout + TIMEOUT)
        self._tell()

    async def _send(self, events: Sequence[StoredEvent]) -> Sequence[EventResult]:
        """Send one request, which is halved where it is refused for an event; return the result of each event."""
        if not events:
            return []
        limit = self._client._exchange.timeout  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        client = self._client.with_options(timeout=self._timeout if limit is None else min(limit, self._timeout))
        began = self._clock.now()
        results: Sequence[EventResult]
        try:
            results = await send_batch(
                client,
                [EncodedEvent(event.transaction_id, event.body) for event in events],
                halve=lambda error: classify_result(error) in {"rejected", "undecided"},
                continue_on_error=False,
            )
        except Exception as error:  # noqa: BLE001 - such as that of a caller's hook
            results = [_as_ours(error) for _ in events]
        if any(isinstance(result, PerkamoTimeoutError) for result in results):
            self._timeout *= 2
        else:
            self._timeout = max(TIMEOUT, 2 * (self._clock.now() - began))
        self._timeout = min(self._timeout, _LONGEST_TIMEOUT)
        return results

    def _settlement(self, space: str, settled: Settled) -> Settlement:
        trouble, wait = settled.trouble, max(0.0, self._pace.seconds)
        return Settlement(
            space,
            accepted=settled.is_answered,
            delivered=settled.delivered,
            dead=settled.dead,
            # What failed alone lets others go first, however long these have to wait for their turns.
            later=[
                (event, n, seconds and min(LONGEST_PUT_OFF, seconds + (wait * self._settler.turns if trouble else 0)))
                for event, n, seconds in settled.later
            ],
            stands_back=settled.stands_back,
            due=settled.due,
            pause=wait if isinstance(trouble, PerkamoRateLimitError) else 0.0,
            error=None if trouble is None else str(trouble),
            retry_in=wait,
        )

    async def _settle(self, lease: Lease, settlement: Settlement, until: float) -> None:
        """Settle, and try again for as long as the lease lasts: what is not settled is sent again."""
        while True:
            try:
                await self._store.settle(lease, settlement)
            except Exception as error:  # noqa: BLE001 - a relay ends when it is told to
                self._note_local(error)
                if self._clock.now() > until:
                    return
                await self._clock.sleep(_STORE_PAUSE)
            else:
                return

    async def _spaces(self) -> list[str]:
        """Return the Spaces to deliver for: this client's, and those of its former keys, which are the same one."""
        if self._name is not None:
            return [self._name]
        key = await space_of(self._client)
        return [key, *(former for former in self._accepted if former != key)]

    async def _accept(self, space: str) -> None:
        """Note that the service accepted the key; what waits under the key before it belongs to this one."""
        former = self._accepted[:1]
        if former == [space]:
            return
        self._accepted = [space, *(key for key in self._accepted if key != space)][:_REMEMBERED_KEYS]
        self._on_accepted(space)
        try:
            for key in former:
                await self._store.rebind(space, key)
        except Exception as error:  # noqa: BLE001 - a relay ends when it is told to
            self._note_local(error)

    def _is_hopeless(self) -> bool:
        return self._until_empty and self.trouble is not None and not self.trouble.retryable

    def _note(self, trouble: PerkamoError | None, sent_at: float) -> None:
        """Note why everything waits, or that events pass, and hold back accordingly."""
        self._trouble_is_local = False
        if trouble is None:
            self._pace.succeeded()
        elif trouble.retryable:
            self._pace.failed(trouble, sent_at)
        else:
            self._pace.hold(PAUSE)
        self._tell_of(trouble)

    def _note_local(self, error: Exception) -> None:
        """Note that the store or the key's supplier fails; the service has nothing to do with it."""
        trouble = _as_ours(error)
        self._trouble_is_local = True
        self._pace.hold(_STORE_PAUSE)
        self._tell_of(trouble)

    def _tell_of(self, trouble: PerkamoError | None) -> None:
        is_new = type(trouble) is not type(self.trouble)
        self.trouble = trouble
        if self._is_hopeless():
            self.stop()
        elif is_new and trouble is None:
            _LOGGER.info("Events pass again")
        elif is_new and trouble is not None:
            _LOGGER.log(logging.WARNING if trouble.retryable else logging.ERROR, "Events wait: %s", trouble)


@asynccontextmanager
async def relaying(relay: Relay, grace: float) -> AsyncGenerator[Relay]:
    """Let a relay deliver in the background for as long as the block lasts, and finish within this many seconds."""
    async with DetachedTaskGroup() as tasks:
        tasks.start_soon(relay.run)
        yield relay
        relay.stop()
        tasks.cancel_scope.deadline = anyio.current_time() + grace


async def space_of(client: AsyncPerkamoClient) -> str:
    """Return the Space that a client's key and service stand for."""
    return f"key:{(await client.space_fingerprint())[:32]}"


def _as_ours(error: Exception) -> PerkamoError:
    """Return an error of this library; of any other error only the type, because its text may say too much."""
    if isinstance(error, PerkamoError):
        return error
    return PerkamoError(f"{type(error).__name__} was raised", outcome="unknown", retryable=True)
