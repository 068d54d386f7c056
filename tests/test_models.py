"""models: values that copy, pickle and show no personal data."""

import copy
import pickle
from datetime import UTC, datetime

import pytest
from attrs import exceptions

from perkamo import (
    ApiResponse,
    BatchIngestResponse,
    Blueprint,
    BrowserToken,
    Customer,
    EventFailure,
    EventIngestResponse,
    IdentifyResponse,
    JSONValue,
    Level,
    PerkamoEventError,
    Program,
    ProgramEvent,
    RateLimit,
    ResponseMeta,
    RetryPolicy,
    UnlockedPerk,
    WalletDelta,
)
from tests.canary import CANARY_EMAIL, find_canary

LEVEL = Level("points", 1, 50, 0, 0.5, 100)
RESULT = EventIngestResponse(
    applied=True,
    duplicate=False,
    delta=(WalletDelta("points", 50),),
    leveled_up=False,
    unlocked=(UnlockedPerk("perk", "k", "n"),),
    wallet_state={"points": 50},
    level=LEVEL,
)
RAW: dict[str, JSONValue] = {"email": CANARY_EMAIL}
VALUES: list[object] = [
    RESULT,
    BatchIngestResponse((RESULT, EventFailure("invalid_event", "no", RAW))),
    EventFailure(None, "no", RAW, outcome="rejected", meta=ResponseMeta(request_id="req_1")),
    IdentifyResponse(raw=RAW),
    Customer(CANARY_EMAIL, {"email": CANARY_EMAIL}, {"points": 5}, LEVEL, (UnlockedPerk(),), raw=RAW),
    Program(Blueprint((ProgramEvent("e", "label"),), raw=RAW)),
    BrowserToken(CANARY_EMAIL, "Bearer", datetime(2026, 6, 4, tzinfo=UTC), 600, raw=RAW),
    ApiResponse(RAW),
    ResponseMeta(200, "req_1", RateLimit(1, 2, "3"), 2),
    RetryPolicy(attempts=2),
]


@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
def test_a_value_survives_pickling_and_copying(value: object) -> None:
    """Task queues and caches hand values around; catches a value that holds what can't be pickled."""
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value
        assert getattr(again, "raw", None) == getattr(value, "raw", None)
        assert getattr(again, "meta", None) == getattr(value, "meta", None)


@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
def test_a_value_is_frozen_and_shows_nothing_personal(value: object) -> None:
    """Reprs hold no ids, traits, tokens or raw answers, and nothing can be set; catches an attrs default repr."""
    with pytest.raises((exceptions.FrozenInstanceError, AttributeError)):
        value.status = 1  # type: ignore[attr-defined]  # the mistake under test

    assert find_canary(repr(value)) is None
    assert not hasattr(value, "__dict__")


def test_a_batch_tells_its_failures_and_raises_for_those_who_want_it() -> None:
    """By position, and as the first one's error; catches a failure that passes for a result."""
    sound = BatchIngestResponse((RESULT, RESULT))
    failed = BatchIngestResponse((RESULT, EventFailure("invalid_event", "no"), EventFailure(None, "never")))

    assert sound.raise_for_failures() == (RESULT, RESULT)
    assert sound.failures == {}
    assert list(failed.failures) == [1, 2]
    with pytest.raises(PerkamoEventError, match="The event was not accepted: no") as caught:
        failed.raise_for_failures()
    assert caught.value.__notes__ == ["events[1], the first of 2 of 3 without a result"]
    assert [one.accepted for one in failed.results] == [True, False, False]
