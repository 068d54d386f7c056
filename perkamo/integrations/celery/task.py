"""Errors of this library -> what happens to a task, and the client of a worker's process."""

import logging
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from celery import Celery, Task, shared_task
from celery.exceptions import Reject
from celery.signals import worker_process_shutdown, worker_shutdown

from perkamo.batching.split import classify_result
from perkamo.errors import PerkamoError
from perkamo.events import Event
from perkamo.integrations.once_per_process import OncePerProcess
from perkamo.integrations.retrying import wait_after
from perkamo.runtime.forks import ForkGuard
from perkamo.sync_client import PerkamoClient

_LOGGER: Final = logging.getLogger("perkamo.celery")

if TYPE_CHECKING:
    _Task = Task[..., object]
else:
    _Task = Task  # which is generic for type checkers only

_clients: "WeakKeyDictionary[Celery, OncePerProcess[PerkamoClient]]" = WeakKeyDictionary()
_guard: Final = ForkGuard()


class PerkamoTask(_Task):
    """The base of tasks that call Perkamo: ``@app.task(base=PerkamoTask, bind=True)``.

    What may succeed later is tried again for as long as it takes: after ``.retry_after_seconds``, or after waits that
    grow to five minutes. What Perkamo refused is rejected, so that a broker with dead letters keeps it; the log
    ``perkamo.celery`` has the reason. A task is acknowledged when it has ended, and goes back to the broker when its
    process is killed. Where Celery runs tasks eagerly, as in tests, what may succeed later is raised.

    Perkamo counts a transaction id once, so give each event the business's own, or ``self.transaction_id``, which stays
    the same in all tries.

        @app.task(base=PerkamoTask, bind=True)
        def paid(self, order_id):
            self.perkamo.emit("customer_123", "purchase.completed", transaction_id=order_id)
    """

    abstract: bool = True
    acks_late: bool = True
    reject_on_worker_lost: bool | None = True
    max_retries: int | None = None

    @property
    def perkamo(self) -> PerkamoClient:
        """The client of this process, from the environment, or from ``app.conf.perkamo_client``, a function.

        It works in the pools prefork, threads, gevent and solo, and is closed when the worker shuts down.

        Raises:
            PerkamoConfigurationError: The client's options can't work.
        """
        app = self.app
        with _guard:
            made = _clients.get(app)
            if made is None:
                make = app.conf.get("perkamo_client") or PerkamoClient
                made = _clients[app] = OncePerProcess(make)
        return made.get()

    @property
    def transaction_id(self) -> str:
        """An id for one event of this task, the same in each of its tries."""
        return f"celery_{self.request.id}"

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the task; the worker calls this."""
        try:
            return self.run(*args, **kwargs)
        except PerkamoError as error:
            if self.request.called_directly:
                raise
            failure = error
        self._settle(failure)
        return None

    def _settle(self, error: PerkamoError) -> None:
        """Reject the task or try it again, by raising what tells the worker so."""
        if classify_result(error) == "accepted":
            return
        wait = wait_after(error, self.request.retries)
        if wait is None:
            _LOGGER.error("%s was rejected: %s", self.name, error)
            raise Reject(str(error), requeue=False)
        if self.request.is_eager:
            raise error  # Celery would try again at once, and again, until the stack is full
        if not error.retryable:
            _LOGGER.error("%s waits: %s", self.name, error)  # such as the key, which is not the fault of an event
        raise self.retry(exc=error, countdown=wait)


class _Deliver(PerkamoTask):
    """Hides the event from everybody who looks at the worker."""

    abstract: bool = True

    if not TYPE_CHECKING:  # called with the signature of Celery's own

        def apply_async(self, args: object = None, kwargs: object = None, **options: object) -> object:
            """Send the task, with a text in place of its arguments for whoever watches."""
            return super().apply_async(args, kwargs, **{"argsrepr": "(<event>,)", "kwargsrepr": "{}", **options})


@shared_task(name="perkamo.deliver", base=_Deliver, bind=True, ignore_result=True)
def deliver(self: PerkamoTask, event: bytes | str) -> None:
    """Deliver an event: ``deliver.delay(event.to_bytes())``, after the commit.

    Args:
        self: The task.
        event: The bytes of ``Event.to_bytes()``, or these as text.
    """
    self.perkamo.emit_event(Event.from_bytes(event.encode() if isinstance(event, str) else event))


def _close_clients(**_: object) -> None:
    for made in tuple(_clients.values()):
        client = made.take()
        if client is not None:
            client.close()


worker_process_shutdown.connect(_close_clients, weak=False, dispatch_uid="perkamo")
worker_shutdown.connect(_close_clients, weak=False, dispatch_uid="perkamo")
