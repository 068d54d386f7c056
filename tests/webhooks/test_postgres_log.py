"""PostgresDeliveryLog: a delivery is handled once over all machines, by the database's clock."""

import threading
from collections.abc import Iterator

import pytest

from perkamo import PerkamoConfigurationError
from perkamo.webhooks import PerkamoDeliveryLogError, PostgresDeliveryLog
from tests.outbox.postgres.conftest import schema, server, server_version, servers
from tests.outbox.postgres.server import Server
from tests.webhooks.test_once import (
    test_a_repetition_is_told_so,
    test_of_many_threads_one_gets_it,
    test_one_that_is_being_handled_is_neither_done_nor_new,
    test_what_failed_is_handled_again,
    test_what_was_cancelled_is_handled_again,
)

__all__ = [
    "schema",
    "server",
    "server_version",
    "servers",
    "test_a_repetition_is_told_so",
    "test_of_many_threads_one_gets_it",
    "test_one_that_is_being_handled_is_neither_done_nor_new",
    "test_what_failed_is_handled_again",
    "test_what_was_cancelled_is_handled_again",
]


@pytest.fixture
def log(server: Server, schema: str) -> Iterator[PostgresDeliveryLog]:
    """A log with a table of its own."""
    log = PostgresDeliveryLog(server.dsn, schema=schema)
    yield log
    log.close()


def test_of_many_machines_one_gets_each(server: Server, schema: str) -> None:
    """Four logs race for fifty deliveries; catches a claim that looks first and writes later."""
    logs = [PostgresDeliveryLog(server.dsn, schema=schema) for _ in range(4)]
    got: list[str] = []

    def race(one: PostgresDeliveryLog) -> None:
        got.extend(name for name in map(str, range(50)) if one.claim(name).state == "mine")

    threads = [threading.Thread(target=race, args=(one,)) for one in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in logs:
        one.close()

    assert sorted(got) == sorted(map(str, range(50)))


def test_a_dead_machines_claim_ends_with_its_lease(server: Server, schema: str, log: PostgresDeliveryLog) -> None:
    """Not before, and what it gives back late is no longer its own; catches a delivery that nobody handles."""
    late = log.claim("dlv_1")
    early = log.claim("dlv_1")
    server.execute(f'UPDATE "{schema}".webhook_deliveries SET until = clock_timestamp()')
    current = log.claim("dlv_1")
    log.failed("dlv_1", late.token)

    assert (late.state, early.state, current.state) == ("mine", "busy", "mine")
    assert log.claim("dlv_1").state == "busy"


def test_what_is_old_is_forgotten(server: Server, schema: str, log: PostgresDeliveryLog) -> None:
    """By the way, and a little at a time; catches a table that grows forever."""
    for number in range(5):
        log.done(f"dlv_{number}")
    server.execute(f"UPDATE \"{schema}\".webhook_deliveries SET until = clock_timestamp() WHERE id <> 'dlv_0'")
    log.done("dlv_9")

    assert server.execute(f'SELECT id FROM "{schema}".webhook_deliveries ORDER BY id') == [("dlv_0",), ("dlv_9",)]
    assert log.claim("dlv_1").state == "mine"


def test_a_database_that_fails_is_told_with_what_to_answer(server: Server) -> None:
    """503 before the handler, 2xx after it, and no password; catches a driver's error in the open."""
    nowhere = PostgresDeliveryLog("postgresql://shop:canary-5a1ad@/shop?host=/nowhere")
    with pytest.raises(PerkamoDeliveryLogError, match="503") as before:
        nowhere.claim("dlv_1")
    with pytest.raises(PerkamoDeliveryLogError, match="2xx") as after:
        nowhere.done("dlv_1")
    with pytest.raises(PerkamoDeliveryLogError, match="perkamo outbox sql"):
        PostgresDeliveryLog(server.dsn, schema="not there").claim("dlv_1")

    assert (before.value.handled, after.value.handled) == (False, True)
    assert "5a1ad" not in str(before.value)
    for wrong in ({"lease": 0}, {"keep": float("nan")}):
        with pytest.raises(PerkamoConfigurationError):
            PostgresDeliveryLog(server.dsn, **wrong)
