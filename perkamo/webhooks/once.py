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
    "Another handler has this delivery now. Answer with status 503: the repetition is skipped if that handler succeeds,"
    " and handled if it fails."
)


class PerkamoDeliveryBusyError(PerkamoError):
    """The same delivery is being handled now.

    Answer 503, so that it is repeated: the other handler may still fail.
    """

    def __init__(self, message: str = _BUSY) -> None:
        """Make the text: what happens, and what to answer."""
        super().__init__(message, retryable=True)


class deduplicate:  # noqa: N801 - named like a function, as in contextlib
    """Run the block once for each delivery.

    The block gets True if it must handle the delivery, and False if the delivery was handled already. If the block
    raises or is cancelled, the delivery is not handled, and its repetition gets True.

        async with deduplicate(delivery) as is_new:  # or ``with``, in sync code
            if is_new:
                ...

    Args:
        delivery: The delivery.
        log: Keeps handled deliveries; by default in the memory of this process. If several processes receive
            deliveries, give all of them a ``SqliteDeliveryLog`` of one file, or a ``PostgresDeliveryLog``.

    Raises:
        PerkamoDeliveryBusyError: It is being handled now.
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
            # asyncio's own cancel does not wait for the thread, which may still make a claim: that is released.
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
        """Release the claim after an error; an error of the log must not replace it."""
        try:
            self._log.failed(self._id, self._claim.token)
        except Exception as problem:  # noqa: BLE001 - an application's own log may raise anything
            error.add_note(str(problem) if isinstance(problem, PerkamoError) else type(problem).__name__)
