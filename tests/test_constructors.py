"""constructors: what is written at first use agrees with cattrs, which explains its refusals."""

import copy
import json
from typing import cast

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from perkamo.constructors import Constructors, MismatchError
from perkamo.decoding.answers import WIRE_NAMES, _converter, _moment, decode_batch
from perkamo.models import (
    BrowserToken,
    Customer,
    EventIngestResponse,
    IdentifyResponse,
    Part,
    ResponseMeta,
)

LEVEL = {"wallet": "points", "level": 1, "current": 50, "nextLevelAt": 100, "currentLevelAt": 0, "progress": 0.5}
RESULT: dict[str, object] = {
    "applied": True,
    "duplicate": False,
    "delta": [{"wallet": "points", "amount": 50}, {"wallet": "stars", "amount": 0.5}],
    "leveled_up": False,
    "unlocked": [{"type": "perk", "key": "welcome_member"}],
    "wallet_state": {"points": 50},
    "level": LEVEL,
}
CUSTOMER: dict[str, object] = {
    "user_id": "u",
    "traits": {"a": [1]},
    "wallets": {"points": 1},
    "level": None,
    "perks": [{"name": None}],
}
TOKEN: dict[str, object] = {
    "token": "t",
    "token_type": "Bearer",
    "expires_at": "2026-06-04T12:10:00.000Z",
    "expires_in": 600,
}
ANSWERS: list[tuple[type[Part], dict[str, object]]] = [
    (EventIngestResponse, RESULT),
    (Customer, CUSTOMER),
    (BrowserToken, TOKEN),
    (IdentifyResponse, {"anything": 1}),
]
SCALARS: list[object] = [None, True, 0, 1.5, "text", [], {}, [1], {"a": 1}, "2026-06-04"]
META = ResponseMeta(request_id="req_1")


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON value, itself left out."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [place for key, one in items for place in [(*path, key), *places(one, (*path, key))]]


def changed(value: dict[str, object], path: tuple[str | int, ...], new: object, *, drop: bool) -> dict[str, object]:
    """A copy of a JSON value with one place changed, or dropped."""
    made = copy.deepcopy(value)
    inside = cast("dict[str | int, object]", made)
    for key in path[:-1]:
        inside = cast("dict[str | int, object]", inside[key])
    if drop:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return made


@given(st.data())
def test_written_constructors_agree_with_cattrs(data: st.DataObject) -> None:
    """Any one change of a sound answer is accepted by both, with equal values, or refused by both.

    Catches a check that was left out of the quick way, and a default that differs.
    """
    cls, answer = data.draw(st.sampled_from(ANSWERS))
    path = data.draw(st.sampled_from(places(answer)))
    value = changed(answer, path, data.draw(st.sampled_from(SCALARS)), drop=data.draw(st.booleans()))

    try:
        quick: object = Constructors(WIRE_NAMES, _moment).of(cls)(value, META)
    except (MismatchError, KeyError, ValueError):
        quick = None
    try:
        slow: object = _converter().structure(value, cls)
    except ValueError:
        slow = None

    assert quick == slow


def test_meta_and_raw_are_set_at_every_level() -> None:
    """Each part has its own raw, each answer the meta; catches one that is shared or forgotten."""
    value = json.loads(json.dumps({"results": [RESULT]}))

    answer = decode_batch(json.dumps(value).encode(), META, "", 1)

    [result] = answer.results
    assert answer.meta is result.meta is META
    assert isinstance(result, EventIngestResponse)
    assert result.raw == value["results"][0]
    assert answer.raw == value
    assert result.delta[1].raw == {"wallet": "stars", "amount": 0.5}
    assert result.level is not None
    assert result.level.raw == LEVEL


def test_a_field_without_a_rule_is_refused_when_the_constructor_is_made() -> None:
    """A new kind of field needs a rule; catches one that would go unchecked."""

    @frozen
    class Odd(Part):
        odd: bytes

    with pytest.raises(TypeError, match="no rule"):
        Constructors({}, _moment).of(Odd)
