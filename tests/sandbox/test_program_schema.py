"""sandbox: the published JSON Schema of a program file says what the reader does."""

import copy
import json
from collections.abc import Iterator
from importlib.resources import files

import pytest

from perkamo.sandbox.blueprint import ProgramError, read_program
from perkamo.sandbox.messages import Json, JsonObject
from perkamo.sandbox.shop import SHOP_PROGRAM

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads(files("perkamo.sandbox").joinpath("program.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VALUES: list[Json] = [None, 0, 1, -1, 2.5, "", " ", "points", "{{amount}} * 2", "x" * 129, "x" * 257, True, [], {}]


def is_readable(program: Json) -> bool:
    """Tell whether the sandbox takes it."""
    try:
        read_program(program if isinstance(program, dict) else json.dumps(program))
    except ProgramError:
        return False
    return True


def changes(value: Json, whole: Json) -> Iterator[Json]:
    """Every copy of the whole in which one member is left out, added, or has another value."""
    if isinstance(value, dict):
        for key in list(value):
            kept = value.pop(key)
            yield copy.deepcopy(whole)
            for other in VALUES:
                value[key] = other
                yield copy.deepcopy(whole)
            value[key] = kept
            yield from changes(kept, whole)
        value["unknown"] = 1
        yield copy.deepcopy(whole)
        del value["unknown"]
    elif isinstance(value, list):
        yield from changes(value[0], whole)


def test_the_schema_is_one_and_takes_the_default_program() -> None:
    """Expect a valid schema of the draft that it names, and $schema to be allowed in a program, for editors."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    program: JsonObject = {"$schema": "program.schema.json", **SHOP_PROGRAM}

    assert VALIDATOR.is_valid(program)
    assert is_readable(program)


def test_what_the_schema_refuses_the_sandbox_refuses_too() -> None:
    """Expect no change of the default program that only the schema minds: catches a schema that is out of date."""
    whole = copy.deepcopy(SHOP_PROGRAM)
    found = list(changes(whole, whole))

    wrong = [program for program in found if not VALIDATOR.is_valid(program) and is_readable(program)]

    assert len(found) > 400
    assert wrong == []


def test_the_schema_misses_only_what_a_schema_can_not_say() -> None:
    """Expect what it takes and the sandbox does not to be about other parts of the program, or inside a formula."""
    whole = copy.deepcopy(SHOP_PROGRAM)
    missed: set[str] = set()
    for program in changes(whole, whole):
        if VALIDATOR.is_valid(program) and not is_readable(program):
            with pytest.raises(ProgramError) as error:
                read_program(program)  # type: ignore[arg-type]  # an object, as the schema says
            missed |= set(error.value.problems)

    said = ("names ", "must be above the level before it", "formula cannot be read", "occurs twice")
    assert [problem for problem in missed if not any(words in problem for words in said)] == []


def test_everything_that_is_wrong_is_named_at_once() -> None:
    """Expect one problem for each part, with its place: catches a reader that stops at the first."""
    program = copy.deepcopy(SHOP_PROGRAM)
    program["nmae"] = "x"
    program["earningRules"] = [{"event": "a", "reward": {"amount": "5"}}, {"event": "b", "reward": {"formula": "("}}]
    program["levels"] = {"steps": [{"level": 2, "at": 0}, {"level": 1, "at": 5}]}
    program["perks"] = [{"key": "p", "unlockAt": {"level": 9}}, {"key": "q", "unlockAt": {}}]

    with pytest.raises(ProgramError) as error:
        read_program(program)

    assert [problem.partition(" ")[0] for problem in error.value.problems] == [
        "program.nmae",
        "program.levels.steps[1]",
        "program.earningRules[0].reward.amount",
        "program.earningRules[1].reward.formula",
        "program.perks[1].unlockAt.balance",
    ]
    assert str(error.value) == error.value.problems[0]
    assert error.value.path == "program.nmae"


def test_no_rule_is_blamed_for_a_wallet_that_can_not_be_read() -> None:
    """Expect the wallet alone to be told: the rule may mean it."""
    rule = {"event": "a", "reward": {"wallet": "x", "amount": 1}}
    program = {"wallets": [{"key": ""}, {"key": "stars"}], "earningRules": [rule]}

    with pytest.raises(ProgramError) as error:
        read_program(program)

    assert error.value.problems == ("program.wallets[0].key must be text of 1 to 256 characters",)
