"""What is promised of every relay, over PostgreSQL: the tests of the other store's, with this one's outbox."""

import pytest

from tests.outbox.test_relay import (
    test_a_relay_needs_a_request_on_its_way,
    test_a_second_drain_returns_though_the_one_event_never_passes,
    test_one_event_holds_up_no_other,
    test_others_overtake_a_request_that_hangs,
    test_what_waits_can_be_read,
)
from tests.outbox.test_relay_trouble import (
    test_a_drain_raises_what_keeps_the_store_from_working,
    test_a_hook_that_raises_is_trouble_and_tells_nothing,
    test_a_key_supplier_that_fails_for_a_while_is_trouble_that_passes,
    test_a_relay_is_left_by_another_task_than_entered_it,
    test_a_store_that_fails_for_a_while_ends_no_relay,
    test_trouble_of_the_service_is_told_once,
    test_what_a_cancelled_relay_had_taken_is_free_at_once,
)

__all__ = [
    "test_a_drain_raises_what_keeps_the_store_from_working",
    "test_a_hook_that_raises_is_trouble_and_tells_nothing",
    "test_a_key_supplier_that_fails_for_a_while_is_trouble_that_passes",
    "test_a_relay_is_left_by_another_task_than_entered_it",
    "test_a_relay_needs_a_request_on_its_way",
    "test_a_second_drain_returns_though_the_one_event_never_passes",
    "test_a_store_that_fails_for_a_while_ends_no_relay",
    "test_one_event_holds_up_no_other",
    "test_others_overtake_a_request_that_hangs",
    "test_trouble_of_the_service_is_told_once",
    "test_what_a_cancelled_relay_had_taken_is_free_at_once",
    "test_what_waits_can_be_read",
]

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _sweeps_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are a thousandth of the real ones here, and a sweep on a busy machine must not take longer than they."""
    monkeypatch.setattr("perkamo.outbox.postgres.store._SWEEP_SHARE", 0)


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.stress)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The other store's relay is tested on both in each run; over this one, trio has its turn among the long tests."""
    backend: str = request.param
    return backend


@pytest.fixture(params=[18])
def server_version(request: pytest.FixtureRequest) -> int:
    """They ask more of the relay than of the database: one version is enough."""
    version: int = request.param
    return version
