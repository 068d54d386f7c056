"""Handling a delivery once, although deliveries repeat."""

import threading
from types import TracebackType
from typing import Final

import anyio
import anyio.to_thread

from perkamo.errors import PerkamoError
from perkamo.webhooks.delivery import WebhookDelivery
from perkamo.webhooks.logs import Claim, DeliveryLog, MemoryDeliveryLog

_IN_THIS_PROCESS: Final = MemoryDeliveryLog()
_NONE: Final = Claim("done")
_BUSY: Final = (
    "Another handler has this delivery at the moment. Answer with status 503: a repetition is skipped if that handler"
    " succeeds, and handled if it fails."
)


class PerkamoDeliveryBusyError(PerkamoError):
    """The same delivery is being handled at this moment.

    Answer 503, so that it is repeated: whoever handles it may still fail.
    """

    def __init__(self, message: str = _BUSY) -> None:
        """Say what to answer."""
        super().__init__(message, retryable=True)


class deduplicate:  # noqa: N801 - it reads as what is done, as contextlib's own do
    """Run the block once for each delivery.

    The block gets True if it is to do its work. A repetition of what was handled gets False; a block that raises
    or is cancelled leaves the delivery unhandled, and its repetition gets True.

        async with deduplicate(delivery) as is_new:  # or ``with``, in sync code
            if is_new:
                ...

    Args:
        delivery: What was received.
        log: Where handled deliveries are kept; one in this process's memory when not given, which several processes do
            not share: give all of them a ``SqliteDeliveryLog`` of one file, or a ``PostgresDeliveryLog``.

    Raises:
        PerkamoDeliveryBusyError: It is being handled at this moment.
        PerkamoDeliveryLogError: The log can't be used; ``.handled`` says whether the block was run.
    """

    def __init__(self, delivery: WebhookDelivery, log: DeliveryLog = _IN_THIS_PROCESS) -> None:
        self._id = delivery.delivery_id
        self._log = log
        self._claim = _NONE
        self._given_up = False
        self._step = threading.Lock()

    def __enter__(self) -> bool:
        self._take()
        if self._claim.state == "busy":
            raise PerkamoDeliveryBusyError
        return self._claim.state == "mine"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._claim.state != "mine":
            return
        if error is None:
            self._log.done(self._id)
        else:
            self._release(error)

    async def __aenter__(self) -> bool:
        try:
            return await anyio.to_thread.run_sync(self.__enter__)
        except BaseException as error:
            # asyncio's own cancel does not wait for the thread; the claim that it may still make is given back.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._give_up, error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.__exit__, kind, error, traceback)

    def _take(self) -> None:
        with self._step:
            if not self._given_up:
                self._claim = self._log.claim(self._id)

    def _give_up(self, error: BaseException) -> None:
        with self._step:
            self._given_up = True
            if self._claim.state == "mine":
                self._release(error)

    def _release(self, error: BaseException) -> None:
        """Give the claim back after an error, which a log that fails now must not replace."""
        try:
            self._log.failed(self._id, self._claim.token)
        except Exception as problem:  # noqa: BLE001 - a log of the application's own may raise anything
            error.add_note(str(problem) if isinstance(problem, PerkamoError) else type(problem).__name__)
