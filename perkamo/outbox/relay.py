"""Delivery of what an outbox file holds: what is let go of, what becomes a dead letter, and what waits.

| answer                                          | what becomes of the events                                     |
| ----------------------------------------------- | -------------------------------------------------------------- |
| 2xx with one result for each                    | let go of                                                      |
| 400, 413, 422                                   | halved until the rejected event is alone, which is a dead letter |
| 409                                             | halved likewise; alone and refused five times, a dead letter   |
| 500 five times while other events pass          | the event that fails alone is a dead letter                    |
| 401, 403, other 4xx, 3xx, a wrong configuration | all of it waits; tried again every minute, said loudly         |
| everything else                                 | all of it waits, longer each time, no less than retry-after    |
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

import anyio

from perkamo.batching.pacing import Pace
from perkamo.batching.split import MAX_REQUEST_BYTES, MAX_REQUEST_EVENTS, EventResult, is_refusal, judge, send_batch
from perkamo.client import AsyncPerkamoClient
from perkamo.errors import (
    PerkamoConflictError,
    PerkamoError,
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.event_loop import caller_into_loop
from perkamo.events import Event
from perkamo.outbox.sqlite.spool import StoredEvent
from perkamo.outbox.sqlite.storage import SlotUnavailableError
from perkamo.outbox.sqlite.writer import Writer, ask
from perkamo.request.retry import RetryPolicy

MAX_SOLO_FAILURES: Final = 5
"""How often an event may fail alone before it is a dead letter, where a failure may yet pass."""
PAUSE: Final = 60.0
"""Seconds between two tries while something is wrong that time alone does not mend."""
_SERVER_ERROR: Final = 500

_LOGGER: Final = logging.getLogger("perkamo.outbox")


class Wakeup:
    """Wakes one task from any thread."""

    def __init__(self) -> None:
        """Hang the wakeup in the event loop of whoever will wait for it."""
        self._in_loop = caller_into_loop()
        self._rung = anyio.Event()

    def notify(self) -> None:
        """Wake the task, now or when it next waits."""
        if not self._rung.is_set():
            self._in_loop(self._rung.set)

    async def wait(self, seconds: float) -> None:
        """Wait for the wakeup, and no longer than so many seconds."""
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        self._rung = anyio.Event()


class Relay:
    """Delivers waiting events with one client, at one pace.

    Attributes:
        trouble: The error for which everything waits at the moment, or None while events pass.
    """

    def __init__(self, client: AsyncPerkamoClient, *, raises: bool = False) -> None:
        """Prepare, in the event loop that will deliver, without the client's retries: the outbox has its own.

        Args:
            client: Sends the events.
            raises: Trouble that time alone does not mend is raised by whoever delivers, and so not logged here.
        """
        self.trouble: PerkamoError | None = None
        self.wakeup: Wakeup = Wakeup()
        self._stop = anyio.Event()
        self._pace = Pace()
        self._raises = raises
        self._client = client.with_options(retry=RetryPolicy.none())
        self._failed_alone: Counter[str] = Counter()
        self._server_errors = 0
        self._mentioned_others = False

    async def deliver_some(self, writer: Writer) -> int:
        """Send the oldest events of a file in one request, and settle what was answered.

        Args:
            writer: The file's writer.

        Returns:
            How many events were taken out of the file to be sent; 0 when there were none for this client.
        """
        try:
            return await self._deliver_some(writer)
        except (PerkamoError, SlotUnavailableError) as error:
            # The disk, the key supplier or the client itself failed; nothing is lost, and nobody else would say so.
            self._adapt(error if isinstance(error, PerkamoError) else None)
            return 0

    @property
    def stopping(self) -> bool:
        """Whether the relay was told to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End after the request that is on its way."""
        self._stop.set()
        self.wakeup.notify()

    async def wait_for_backoff(self) -> None:
        """Wait until a request may leave, or the relay is told to stop."""
        while not self.stopping and (seconds := self._pace.seconds) > 0:
            await self.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait for so long, or until the relay is told to stop."""
        with anyio.move_on_after(seconds):
            await self._stop.wait()

    async def _deliver_some(self, writer: Writer) -> int:
        space = bytes.fromhex(await self._client.space_fingerprint())
        rows = await ask(writer, lambda file: file.take(space, MAX_REQUEST_EVENTS, MAX_REQUEST_BYTES))
        if not rows:
            await self._mention_others(writer, space)
            return 0
        readable, refused = _read(rows)
        told = await self._send([event for _, event in readable])
        answers = [(row, answer) for (row, _), answer in zip(readable, told, strict=True)]
        delivered = [row for row, answer in answers if judge(answer) == "accepted"]
        trouble: PerkamoError | None = None
        for row, answer in answers:
            if isinstance(answer, PerkamoError) and judge(answer) != "accepted":
                if self._is_dead(row, answer, is_alone=len(answers) == 1):
                    refused.append((row, str(answer)))
                else:
                    trouble = trouble or answer
        await ask(writer, lambda file: file.settle(delivered, refused))
        for row, reason in refused:
            self._failed_alone.pop(row.transaction_id, None)
            _LOGGER.error("An event was refused and is a dead letter now: %s", reason)
        self._adapt(trouble)
        return len(rows)

    async def _mention_others(self, writer: Writer, space: bytes) -> None:
        if self._mentioned_others:
            return
        if elsewhere := await ask(writer, lambda file: file.elsewhere(space)):
            self._mentioned_others = True
            _LOGGER.error(
                "%d events wait that belong to another service or Space key; they are kept, and not sent with this one."
                " After a change of the key, see Outbox.rebind",
                elsewhere,
            )

    async def _send(self, events: Sequence[Event]) -> list[EventResult]:
        if not events:
            return []
        return await send_batch(self._client, events, halve=self._may_be_one_event, continue_on_error=False)

    def _may_be_one_event(self, error: PerkamoError) -> bool:
        is_server_error = isinstance(error, PerkamoServerError) and error.status == _SERVER_ERROR
        return (
            is_refusal(error)
            or isinstance(error, PerkamoConflictError)
            or (is_server_error and self._server_errors >= MAX_SOLO_FAILURES)
        )

    def _is_dead(self, row: StoredEvent, error: PerkamoError, *, is_alone: bool) -> bool:
        """Tell whether it will never pass; once it failed alone while others passed, its later failures count."""
        verdict = judge(error)
        if verdict == "undecided" or (is_alone and self._failed_alone[row.transaction_id]):
            self._failed_alone[row.transaction_id] += 1
            return self._failed_alone[row.transaction_id] >= MAX_SOLO_FAILURES
        return verdict == "rejected"

    def _adapt(self, trouble: PerkamoError | None) -> None:
        is_new = type(trouble) is not type(self.trouble)
        self.trouble = trouble
        if trouble is None:
            self._server_errors = 0
            self._pace.succeeded()
            if is_new:
                _LOGGER.info("Events pass again")
            return
        is_server_error = isinstance(trouble, PerkamoServerError) and trouble.status == _SERVER_ERROR
        self._server_errors = self._server_errors + 1 if is_server_error else 0
        if trouble.retryable or isinstance(trouble, PerkamoConflictError):
            self._pace.failed(trouble)
        else:
            self._pace.hold(PAUSE)
        if is_new and (trouble.retryable or not self._raises):
            _LOGGER.log(logging.WARNING if trouble.retryable else logging.ERROR, "Events wait: %s", trouble)


def _read(rows: Sequence[StoredEvent]) -> tuple[list[tuple[StoredEvent, Event]], list[tuple[StoredEvent, str]]]:
    readable: list[tuple[StoredEvent, Event]] = []
    refused: list[tuple[StoredEvent, str]] = []
    for row in rows:
        try:
            readable.append((row, Event.from_bytes(row.body)))
        except PerkamoValidationError as error:
            refused.append((row, str(error)))
    return readable, refused
