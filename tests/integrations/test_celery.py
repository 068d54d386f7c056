"""integrations.celery: tasks in a worker of this process, and what happens to each error."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from celery import Celery, Task, shared_task
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject, Retry
from celery.signals import worker_process_shutdown, worker_shutdown

from perkamo import (
    Event,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoClient,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoRateLimitError,
    PerkamoServerError,
    PerkamoValidationError,
    RetryPolicy,
)
from perkamo.integrations.celery import PerkamoTask, deliver
from perkamo.sandbox import Lost, Sandbox, Status
from tests.canary import CANARY_EMAIL, find_canary

EVENT: Final = Event(CANARY_EMAIL, "purchase.completed", "order_1", {"email": CANARY_EMAIL})


@pytest.fixture
def celery(sandbox: Sandbox) -> Iterator[Celery]:
    """An application with a broker in memory, whose client does not try again itself."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.conf.perkamo_client = lambda: PerkamoClient(
        sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy.none()
    )
    app.finalize()
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield app
    worker_shutdown.send(None)
    app.close()
    root.setLevel(level)  # a worker takes over the logging of its process
    root.handlers[:] = handlers


def test_an_event_is_delivered_in_the_end(celery: Celery, sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """After a failure and a lost answer, under one id; catches bytes that the broker changes, and a task that is lost.

    And nobody who watches the worker sees the customer.
    """
    sandbox.faults.sequence("POST /v1/events", [Status(503), Lost()])

    with caplog.at_level(logging.DEBUG, "celery"), start_worker(celery, perform_ping_check=False, pool="solo"):
        result = deliver.delay(EVENT.to_bytes())
        sandbox_has(sandbox, "order_1")

    assert result is not None
    assert len(sandbox.requests) >= 2
    assert find_canary("".join(record.getMessage() for record in caplog.records)) is None


def sandbox_has(sandbox: Sandbox, transaction_id: str) -> None:
    """Wait until an event has counted."""
    import time  # noqa: PLC0415 - here alone

    deadline = time.monotonic() + 30
    while [event.transaction_id for event in sandbox.events()] != [transaction_id]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@shared_task(base=PerkamoTask, name="tests.fails")
def fails(error: PerkamoError) -> None:
    """Fail."""
    raise error


def settle(error: PerkamoError, *, tries: int) -> BaseException:
    """Return what the worker is told when a task raises this."""
    fails.push_request(id="1", retries=tries, called_directly=False, is_eager=False, args=("an error",), kwargs={})
    try:
        with pytest.raises((Retry, Reject)) as caught:
            fails(error)
    finally:
        fails.pop_request()
    return caught.value


AGAIN: Final[list[tuple[PerkamoError, int, float, float]]] = [
    (PerkamoServerError("x", status=503, retryable=True), 0, 0, 0.5),
    (PerkamoConnectionError("x", retryable=True), 3, 0, 4),
    (PerkamoConnectionError("x", retryable=True), 1000, 0, 300),
    (PerkamoRateLimitError("x", retryable=True, retry_after_seconds=7), 0, 7, 7.5),
    (PerkamoRateLimitError("x", retryable=True, retry_after_seconds=86_400), 0, 300, 300.5),
    (PerkamoAuthenticationError("x"), 0, 0, 0.5),
    (PerkamoConfigurationError("x"), 5, 0, 16),
    (PerkamoClosedError("x"), 0, 0, 0.5),
    (PerkamoConflictError("x"), 4, 0, 8),
]


@pytest.mark.parametrize(("error", "tries", "least", "most"), AGAIN, ids=lambda value: str(value)[:20])
def test_what_may_pass_is_tried_again(
    error: PerkamoError, tries: int, least: float, most: float, celery: Celery
) -> None:
    """As long as it takes, and no sooner than the service asks; catches an event that is lost with a wrong key."""
    told = settle(error, tries=tries)

    assert isinstance(told, Retry)
    assert least <= float(str(told.when)) <= most


def test_an_eager_task_fails_with_the_error(celery: Celery) -> None:
    """Nothing waits there; catches a task that is tried again in itself until the stack is full."""
    error = PerkamoConfigurationError("x")

    result = fails.apply((error,))

    assert (result.state, result.result) == ("FAILURE", error)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (PerkamoApiError("x", status=422, outcome="rejected"), 0),
        (PerkamoApiError("x", status=400, outcome="rejected"), 0),
        (PerkamoValidationError("x", field="event"), 0),
        (PerkamoConflictError("x"), 5),
    ],
)
def test_what_was_refused_is_rejected(
    error: PerkamoError, tries: int, celery: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """For a broker's dead letters, and the log says why; catches a task that is tried forever."""
    told = settle(error, tries=tries)

    assert isinstance(told, Reject)
    assert told.args[1] is False  # not to be put into the queue again
    assert "tests.fails was rejected" in caplog.text


def test_a_task_that_is_called_directly_raises(celery: Celery, sandbox: Sandbox) -> None:
    """As a function; catches an error of Celery's in place of ours."""
    sandbox.faults.next("POST /v1/events", Status(503))

    with pytest.raises(PerkamoServerError):
        deliver(EVENT.to_bytes())
    deliver(EVENT.to_bytes().decode())

    assert len(sandbox.events()) == 1


def test_a_task_has_one_id_for_all_its_tries(celery: Celery) -> None:
    """The task's own, which a retry keeps; catches an event that counts with each try."""

    @celery.task(base=PerkamoTask, bind=True)
    def paid(self: PerkamoTask) -> str:
        return self.transaction_id

    seen = []
    for tries in range(2):
        paid.push_request(id="a-b-c", retries=tries, called_directly=False)
        seen.append(paid())
        paid.pop_request()

    assert seen == ["celery_a-b-c"] * 2


@pytest.mark.parametrize("signal", [worker_process_shutdown, worker_shutdown], ids=["process", "worker"])
def test_the_client_is_closed_when_the_worker_shuts_down(signal: object, celery: Celery) -> None:
    """Of the process and of the worker; catches connections that are left to the service."""
    task: Task[..., object] = deliver
    assert isinstance(task, PerkamoTask)
    client = task.perkamo
    assert client is task.perkamo

    signal.send(None, pid=1, exitcode=0)  # type: ignore[attr-defined]  # both are signals

    with pytest.raises(PerkamoClosedError):
        client.program()
    assert task.perkamo is not client


def test_without_celery_the_extra_is_named() -> None:
    """Catches a bare ImportError of a name that nobody installed."""
    program = "import sys; sys.modules['celery'] = None; import perkamo.integrations.celery"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert 'pip install "perkamo[celery]"' in done.stderr
