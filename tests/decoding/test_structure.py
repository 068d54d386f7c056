"""structure: one walk by cattrs, strict where it is published, patient where we guessed."""

import copy
import json
import logging
import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import cast, get_args, get_origin

import attrs
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from perkamo import models
from perkamo.contract import FACTS
from perkamo.decoding import class_hooks
from perkamo.decoding.answers import decode_batch
from perkamo.decoding.class_hooks import FACT_NAMES, WIRE_NAMES
from perkamo.decoding.structure import structure
from perkamo.encoding.encode import JSONValue
from perkamo.models import (
    Answer,
    Blueprint,
    BrowserToken,
    Customer,
    EventIngestResponse,
    Level,
    Part,
    Program,
    ProgramEvent,
    ResponseMeta,
    UnlockedPerk,
    WalletDelta,
)

META = ResponseMeta(request_id="req_1")
LEVEL: dict[str, JSONValue] = {
    "wallet": "points",
    "level": 1,
    "current": 50,
    "nextLevelAt": 100,
    "currentLevelAt": 0,
    "progress": 0.5,
}
RESULT: dict[str, JSONValue] = {
    "applied": True,
    "duplicate": False,
    "delta": [{"wallet": "points", "amount": 50}, {"wallet": "stars", "amount": 0.5}],
    "leveled_up": False,
    "unlocked": [{"type": "perk", "key": "welcome_member", "name": "Welcome"}],
    "wallet_state": {"points": 50},
    "level": LEVEL,
}
CUSTOMER: dict[str, JSONValue] = {
    "user_id": "u",
    "traits": {"a": [1]},
    "wallets": {"points": 1, "stars": 2.5},
    "level": LEVEL,
    "perks": [{"type": "perk", "key": "k", "name": "n"}],
    "flags": ["vip"],
}
PROGRAM: dict[str, JSONValue] = {
    "blueprint": {"earningRules": [{"event": "e", "label": "E", "reward": {"amount": 1}}, {"event": "f"}]},
    "metrics": {"events": 1},
    "usage": {"events": 1},
}
TOKEN: dict[str, JSONValue] = {
    "token": "t",
    "token_type": "Bearer",
    "expires_at": "2026-06-04T12:10:00.000Z",
    "expires_in": 600,
}
ANSWERS: list[tuple[type[Answer], dict[str, JSONValue]]] = [
    (EventIngestResponse, RESULT),
    (Customer, CUSTOMER),
    (Program, PROGRAM),
    (BrowserToken, TOKEN),
]
OF_EACH_TYPE: list[JSONValue] = [None, True, 7, 1.5, "canary", ["canary"], {"canary": 1}]

PLACES: dict[type[Part], tuple[type[Answer], dict[str, JSONValue], tuple[str | int, ...]]] = {
    EventIngestResponse: (EventIngestResponse, RESULT, ()),
    WalletDelta: (EventIngestResponse, RESULT, ("delta", 0)),
    Level: (EventIngestResponse, RESULT, ("level",)),
    UnlockedPerk: (EventIngestResponse, RESULT, ("unlocked", 0)),
    Customer: (Customer, CUSTOMER, ()),
    Program: (Program, PROGRAM, ()),
    Blueprint: (Program, PROGRAM, ("blueprint",)),
    ProgramEvent: (Program, PROGRAM, ("blueprint", "earningRules", 0)),
    BrowserToken: (BrowserToken, TOKEN, ()),
}
"""An answer for each class, and where in it the class stands."""

FIELDS = [
    (cls, attribute.name)
    for cls in FACT_NAMES
    for attribute in attrs.fields(cls)
    if attribute.name not in {"raw", "meta"}
]
"""Each typed field of each class."""


@pytest.fixture(autouse=True)
def _nothing_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_hooks, "_reported", set())


def at(value: JSONValue, path: tuple[str | int, ...]) -> dict[str | int, JSONValue]:
    """Return the container at a path."""
    for step in path:
        value = cast("dict[str | int, JSONValue]", value)[step]
    return cast("dict[str | int, JSONValue]", value)


def changed(value: JSONValue, path: tuple[str | int, ...], new: JSONValue, *, drop: bool = False) -> JSONValue:
    """Return a copy with one place changed, or dropped."""
    made = copy.deepcopy(value)
    inside = at(made, path[:-1])
    if drop:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return made


def fact_name(cls: type, name: str) -> str:
    """Return what a field is called in the table."""
    return f"{FACT_NAMES[cls]}.{WIRE_NAMES.get(cls, {}).get(name, name)}"


def the_attribute(answer: object, path: tuple[str | int, ...], name: str) -> object:
    """Return a field of a value that was made of the object at a path."""
    for step in path:
        wire = {value: key for key, value in WIRE_NAMES.get(type(answer), {}).items()}
        answer = answer[step] if isinstance(step, int) else getattr(answer, wire.get(step, step))  # type: ignore[index]
    return getattr(answer, name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was told."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_field_has_its_mark_in_the_table_and_in_its_docstring() -> None:
    """The two agree, and nothing is in one of them only; catches a field that nobody marked."""
    classes = [
        cls
        for cls in vars(models).values()
        if isinstance(cls, type) and issubclass(cls, Part) and cls.__module__ == models.__name__
    ]
    unmarked = {Part, Answer, models.BatchIngestResponse, models.IdentifyResponse}
    marks = {}
    for cls, name in FIELDS:
        text = re.search(rf"^ +{name}: (.*?)(?=^ +\w+: |\Z)", cls.__doc__ or "", re.MULTILINE | re.DOTALL)
        assert text is not None, name
        marks[fact_name(cls, name)] = re.findall(r"\((published|older|assumed)", text[1])

    assert set(classes) - unmarked == set(FACT_NAMES) == set(PLACES)
    assert marks == {name: [FACTS[name].known] for name in marks}
    told = {name for name in FACTS if name.partition(".")[0] in FACT_NAMES.values() and ":" in FACTS[name].behaviour}
    assert {name for name in told if FACTS[name].behaviour.startswith(f"{name}:")} == set(marks)


def fits(kind: object, value: JSONValue) -> bool:
    """Tell whether a value of ``OF_EACH_TYPE`` is one of a field's kind."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind == JSONValue:
        return True
    if NoneType in inner:
        return value is None or fits(inner[0], value)
    if origin is Mapping or kind is Blueprint:
        return type(value) is dict
    if kind is float:
        return type(value) in {int, float}
    return kind in {str, bool, int} and type(value) is kind


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=[fact_name(cls, name) for cls, name in FIELDS])
def test_the_rule_holds_for_every_field(cls: type[Part], name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Published: an error that names the path. Else: no error, left out, kept in raw, told once without its value.

    Catches a check on what we only assumed, and one that was forgotten on what is published.
    """
    whole, answer, path = PLACES[cls]
    wire = WIRE_NAMES.get(cls, {}).get(name, name)
    fact = FACTS[fact_name(cls, name)]
    attribute: attrs.Attribute[object] = getattr(attrs.fields(cls), name)
    for wrong in (value for value in OF_EACH_TYPE if not fits(attribute.type, value)):
        body = changed(answer, (*path, wire), wrong)
        caplog.clear()
        class_hooks._reported.clear()

        if fact.known == "published" and whole is not Program:
            with pytest.raises(ValueError, match=re.escape(wire)) as caught:
                structure(whole, body, META)
            assert "canary" not in str(caught.value)
            continue
        made = structure(whole, body, META)
        structure(whole, body, META)

        assert made.raw == body
        [message] = warnings(caplog)
        assert "canary" not in message
        if fact.known == "published":  # the event of a rule: a rule without it is left out
            assert message.startswith("blueprint.earningRules (assumed) has ")
            assert isinstance(made, Program)
            assert made.blueprint.earning_rules == (ProgramEvent("f"),)
        else:
            assert message.startswith(f"{fact.name} ({fact.known}) ")
            assert the_attribute(made, path, name) in (None, (), {}, Blueprint())


PATIENT: list[tuple[str, tuple[str | int, ...], JSONValue, str, object]] = [
    ("traits null", ("traits",), None, "traits", {}),
    ("perks null", ("perks",), None, "perks", ()),
    ("perks as texts", ("perks",), ["vip"], "perks", ()),
    ("perks as a map", ("perks",), {"vip": {}}, "perks", ()),
    ("a perk's name as an object", ("perks", 0, "name"), {"en": "n"}, "perks", (UnlockedPerk("perk", "k"),)),
    ("wallets as objects", ("wallets", "points"), {"balance": 50}, "wallets", {"stars": 2.5}),
    ("wallets as a list", ("wallets",), [{"points": 50}], "wallets", {}),
    ("a level of another kind", ("level",), {"wallet": "points", "level": 1}, "level", None),
    ("a level as a number", ("level",), 2, "level", None),
    ("no user_id", ("user_id",), 7, "user_id", None),
]


@pytest.mark.parametrize(("path", "new", "name", "left"), [row[1:] for row in PATIENT], ids=[row[0] for row in PATIENT])
def test_what_is_not_published_of_a_customer_never_fails(
    path: tuple[str | int, ...],
    new: JSONValue,
    name: str,
    left: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each shape a service might have reads as none or empty, the rest as ever; catches a read that fails whole."""
    body = changed(CUSTOMER, path, new)

    customer = structure(Customer, body, META)

    sound = structure(Customer, CUSTOMER, META)
    assert {**customer.to_dict(), name: None} == {**sound.to_dict(), name: None}
    assert getattr(customer, name) == left
    assert customer.raw == body
    assert [message.partition(" ")[0] for message in warnings(caplog)] in ([f"customer.{name}"], ["unlocked.name"])


def test_a_warning_does_not_call_published_what_is_not_published_there(caplog: pytest.LogCaptureFixture) -> None:
    """The name of a perk is published for an event's result alone; catches a warning that blames the service."""
    structure(Customer, changed(CUSTOMER, ("perks", 0, "name"), {"en": "P"}), META)

    [message] = warnings(caplog)
    assert message.startswith("unlocked.name (published for event results only) has an object instead of a text.")


def test_a_program_without_a_blueprint_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Its rules may stand elsewhere; catches an empty catalogue of which nobody hears."""
    program = structure(Program, {"earningRules": [{"event": "e"}]}, META)

    assert program.blueprint.earning_rules == ()
    assert [message.partition(".")[0] for message in warnings(caplog)] == ["program"]


def test_a_level_of_a_customer_may_lack_its_progress() -> None:
    """It reads as none, and its numbers stay in raw; catches a customer who can't be read."""
    body = changed(CUSTOMER, ("level", "progress"), None, drop=True)

    customer = structure(Customer, body, META)

    assert customer.level is None
    assert at(customer.raw["level"], ())["level"] == 1


@pytest.mark.parametrize("cls", [Customer, EventIngestResponse])
def test_a_whole_number_with_a_fraction_of_nothing_is_an_integer(cls: type[Answer]) -> None:
    """1.0 and 1 are one number in JSON; catches a client that knows one of the two spellings."""
    body = changed(CUSTOMER if cls is Customer else RESULT, ("level", "level"), 1.0)

    level = getattr(structure(cls, body, META), "level", None)

    assert isinstance(level, Level)
    assert (level.level, type(level.level)) == (1, int)


def test_one_rule_without_an_event_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """The others are listed, with labels and rewards where these can be read; catches an empty catalogue."""
    rules: list[JSONValue] = [
        {"label": "no event"},
        {"event": "e", "label": {"en": "E"}, "reward": 5},
        "f",
        {"event": "g"},
    ]

    program = structure(Program, {"blueprint": {"earningRules": rules}}, META)

    assert program.blueprint.earning_rules == (ProgramEvent("e", None, 5), ProgramEvent("g"))
    assert program.blueprint.raw["earningRules"] == rules
    assert [message.partition(" ")[0] for message in warnings(caplog)] == ["blueprint.earningRules", "rule.label"]


@pytest.mark.parametrize("rules", [{"e": {}}, "e", None, 7])
def test_rules_of_another_shape_are_none(rules: JSONValue) -> None:
    """A map of rules reads as no rules; catches a program that can't be read."""
    assert structure(Program, {"blueprint": {"earningRules": rules}}, META).blueprint.earning_rules == ()


def test_plain_parts_come_as_they_are() -> None:
    """Metrics, usage, flags and rewards are whatever JSON they are; catches a type that nobody published."""
    program = structure(Program, {"metrics": [1], "usage": "much", "blueprint": {}}, META)
    customer = structure(Customer, {"user_id": "u", "flags": {"vip": True}}, META)

    assert (program.metrics, program.usage, customer.flags) == ([1], "much", {"vip": True})


def places(value: JSONValue, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield every place in a JSON value, itself left out."""
    items: list[tuple[str | int, JSONValue]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


@given(st.data())
def test_no_change_of_an_answer_is_coerced_and_none_breaks_an_unpublished_one(data: st.DataObject) -> None:
    """Any one change is refused with a path, or read with raw as it came; catches a stray error out of the hook."""
    cls, answer = data.draw(st.sampled_from(ANSWERS))
    path = data.draw(st.sampled_from(list(places(answer))))
    body = changed(answer, path, data.draw(st.sampled_from(OF_EACH_TYPE)), drop=data.draw(st.booleans()))

    if cls in {Customer, Program}:
        assert structure(cls, body, META).raw == body
        return
    reason = ""
    try:
        assert structure(cls, body, META).raw == body
    except ValueError as error:
        reason = str(error)
    assert not reason or " at " in reason


def test_meta_and_raw_are_set_at_every_level() -> None:
    """Each part has its own raw, each answer the meta; catches one that is shared or forgotten."""
    answer = decode_batch(b'{"results":[' + json.dumps(RESULT).encode() + b'],"more":1}', META, "", 1)

    [result] = answer.results
    assert isinstance(result, EventIngestResponse)
    assert answer.meta is result.meta is META
    assert answer.raw["more"] == 1
    assert result.raw == RESULT
    assert result.delta[1].raw == {"wallet": "stars", "amount": 0.5}
    assert result.level is not None
    assert result.level.raw == LEVEL


def test_a_field_without_a_rule_is_refused_at_first_use() -> None:
    """A new kind of field needs a hook; catches one that would go unchecked."""

    @frozen
    class Odd(Answer):
        odd: bytearray

    with pytest.raises(Exception, match="bytearray"):
        structure(Odd, {"odd": "x"}, META)
