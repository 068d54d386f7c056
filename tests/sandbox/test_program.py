"""Programs: what is read, what is refused and where, and what the rules give."""

import json

import pytest

from perkamo.sandbox import ProgramError, Sandbox
from perkamo.sandbox.blueprint import read_program
from perkamo.sandbox.shop import SHOP_PROGRAM

POINTS = [{"key": "points"}]
SHOP = read_program(SHOP_PROGRAM)


def test_the_default_program_comes_back_from_its_blueprint() -> None:
    """Expect what GET /v1/program serves to be a program again, with or without its envelope, as dict and as JSON."""
    blueprint = SHOP.blueprint()

    assert blueprint == SHOP_PROGRAM
    assert read_program(blueprint) == SHOP
    assert read_program({"blueprint": blueprint, "metrics": {}}) == SHOP
    assert read_program(json.dumps(blueprint)) == SHOP
    assert read_program(json.dumps(blueprint).encode()) == SHOP


def test_the_smallest_program_needs_one_wallet() -> None:
    """Expect names, labels and the wallet of rules to have defaults."""
    program = read_program({"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"amount": 1}}]})

    assert program.earn("a", {}) == ({"points": 1.0}, [])
    assert program.level_state({"points": 1.0}) is None
    assert program.rules[0].label == "a"


@pytest.mark.parametrize(
    ("program", "path"),
    [
        ({}, "program.wallets"),
        ({"wallets": []}, "program.wallets"),
        ({"wallets": "points"}, "program.wallets"),
        ({"wallets": ["points"]}, "program.wallets[0]"),
        ({"wallets": [{"name": "Points"}]}, "program.wallets[0].key"),
        ({"wallets": [{"key": " "}]}, "program.wallets[0].key"),
        ({"wallets": [{"key": "a"}, {"key": "a"}]}, "program.wallets[1].key"),
        ({"wallets": POINTS, "earning_rules": []}, "program.earning_rules"),
        ({"wallets": POINTS, "earningRules": {}}, "program.earningRules"),
        ({"wallets": POINTS, "earningRules": [{}]}, "program.earningRules[0].event"),
        ({"wallets": POINTS, "earningRules": [{"event": "a"}]}, "program.earningRules[0].reward"),
        ({"wallets": POINTS, "earningRules": [{"event": "a", "reward": {}}]}, "program.earningRules[0].reward"),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"amount": 1, "formula": "1"}}]},
            "program.earningRules[0].reward",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"amount": True}}]},
            "program.earningRules[0].reward.amount",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"amount": float("nan")}}]},
            "program.earningRules[0].reward.amount",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"amount": 10**400}}]},
            "program.earningRules[0].reward.amount",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"formula": "1 +"}}]},
            "program.earningRules[0].reward.formula",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"formula": 1}}]},
            "program.earningRules[0].reward.formula",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a", "reward": {"wallet": "gold", "amount": 1}}]},
            "program.earningRules[0].reward.wallet",
        ),
        (
            {"wallets": POINTS, "earningRules": [{"event": "a" * 129, "reward": {"amount": 1}}]},
            "program.earningRules[0].event",
        ),
        ({"wallets": POINTS, "levels": {"steps": []}}, "program.levels.steps"),
        ({"wallets": POINTS, "levels": {"steps": [{"level": 0, "at": 0}]}}, "program.levels.steps[0].level"),
        (
            {"wallets": POINTS, "levels": {"steps": [{"level": 1, "at": 0}, {"level": 2, "at": 0}]}},
            "program.levels.steps[1]",
        ),
        (
            {"wallets": POINTS, "levels": {"steps": [{"level": 2, "at": 0}, {"level": 1, "at": 5}]}},
            "program.levels.steps[1]",
        ),
        ({"wallets": POINTS, "perks": [{"key": "p"}]}, "program.perks[0].unlockAt"),
        ({"wallets": POINTS, "perks": [{"key": "p", "unlockAt": {"level": 1}}]}, "program.perks[0].unlockAt.level"),
        (
            {"wallets": POINTS, "perks": [{"key": "p", "unlockAt": {"level": 1, "balance": 2}}]},
            "program.perks[0].unlockAt",
        ),
        (
            {"wallets": POINTS, "perks": [{"key": "p", "unlockAt": {"balance": "2"}}]},
            "program.perks[0].unlockAt.balance",
        ),
        ({"wallets": POINTS, "perks": [{"key": "p", "unlockAt": {"balance": 1}}] * 2}, "program.perks[1].key"),
        (
            {"wallets": POINTS, "achievements": [{"key": "a", "event": "b", "count": 0}]},
            "program.achievements[0].count",
        ),
        ({"wallets": POINTS, "rewards": [{"key": "a", "cost": 0}]}, "program.rewards[0].cost"),
        ({"wallets": [{"key": "points", "nam": "P"}]}, "program.wallets[0].nam"),
        (
            {"wallets": POINTS, "perks": [{"key": "p", "unlockAt": {"balance": 1}, "names": "P"}]},
            "program.perks[0].names",
        ),
        (
            {"wallets": POINTS, "achievements": [{"key": "a", "event": "b", "count": 1, "label": "A"}]},
            "program.achievements[0].label",
        ),
        ({"wallets": POINTS, "rewards": [{"key": "a", "cost": 1, "price": 1}]}, "program.rewards[0].price"),
        ({"wallets": POINTS * 1001}, "program.wallets"),
        ("[]", "program"),
        ("{", "program"),
        (b"\xff", "program"),
        ("[" * 100_000, "program"),
        (" " * 1_000_001, "program"),
    ],
)
def test_a_wrong_program_is_refused_with_the_place(program: dict[str, object] | str | bytes, path: str) -> None:
    """Expect ProgramError at once, with the path of what is wrong in it."""
    with pytest.raises(ProgramError) as caught:
        Sandbox(program)

    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_a_misspelt_field_is_answered_with_the_right_one() -> None:
    """Expect the Python spelling of a name to be recognised."""
    with pytest.raises(ProgramError, match=r"did you mean earningRules\?"):
        read_program({"wallets": POINTS, "earning_rules": []})


@pytest.mark.parametrize(
    ("balance", "level", "at", "above", "progress"),
    [
        (-5.0, 1, 0, 100, 0),
        (0.0, 1, 0, 100, 0),
        (50.0, 1, 0, 100, 0.5),
        (99.999, 1, 0, 100, 0.99999),
        (100.0, 2, 100, 500, 0),
        (2000.0, 4, 2000, None, 1),
        (9000.0, 4, 2000, None, 1),
    ],
)
def test_the_level_state_follows_the_balance(
    balance: float, level: int, at: int, above: int | None, progress: float
) -> None:
    """Expect the published fields, progress as (current - currentLevelAt) / (nextLevelAt - currentLevelAt)."""
    state = SHOP.level_state({"points": balance})

    assert state is not None
    assert (state["level"], state["currentLevelAt"], state["nextLevelAt"]) == (level, at, above)
    assert state["progress"] == pytest.approx(progress)
    assert state["wallet"] == "points"


def test_two_rules_on_one_event_both_earn() -> None:
    """Expect amounts to be added by wallet, also when both fill the same one; what comes to nothing is left out."""
    rules = [{"event": "a", "reward": {"amount": 1}}, {"event": "a", "reward": {"formula": "{{n}}"}}]
    same = read_program({"wallets": POINTS, "earningRules": rules})

    assert SHOP.earn("review.created", {}) == ({"points": 20.0, "stars": 1.0}, [])
    assert same.earn("a", {"n": 2}) == ({"points": 3.0}, [])
    assert same.earn("a", {"n": -1}) == ({}, [])


def test_a_formula_without_a_value_earns_nothing_and_leaves_a_note() -> None:
    """Expect the event to go through all the same."""
    assert SHOP.earn("purchase.completed", {"amount": "12900"}) == (
        {},
        ["a rule on purchase.completed earned nothing: context.amount is not a number"],
    )
