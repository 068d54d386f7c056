"""check, shapes: each part of an answer is held to what the client itself can read, and named where it is otherwise."""

import pytest

from perkamo import JSONValue
from perkamo.cli.checking import shapes
from perkamo.cli.checking.findings import CONFIRMED
from perkamo.cli.checking.shapes import Check, JsonObject

PUBLISHED = {**shapes.RESULT, **shapes.DELTA, **shapes.LEVEL, **shapes.UNLOCKED, **shapes.TOKEN}

ROWS: list[tuple[str, JSONValue, str]] = [
    ("result.applied", True, CONFIRMED),
    ("result.applied", "true", "has a text"),
    ("result.delta", [], CONFIRMED),
    ("result.delta", None, "has null"),
    ("result.delta", ["points"], "has a list with a text"),
    ("result.unlocked", [{}], CONFIRMED),
    ("result.unlocked", [{}, "p"], "has a list with a text"),
    ("result.wallet_state", {"points": 1.5, "stars": 2}, CONFIRMED),
    ("result.wallet_state", {"points": "50"}, "has an object with a text"),
    ("result.wallet_state", {"points": True}, "has an object with a boolean"),
    ("result.wallet_state", [], "has a list"),
    ("result.level", None, CONFIRMED),
    ("result.level", 1, "has an integer"),
    ("delta.amount", 1.0, CONFIRMED),
    ("delta.amount", "1", "has a text"),
    ("level.level", 1.0, CONFIRMED),
    ("level.level", 1.5, "has a number"),
    ("level.progress", 0, CONFIRMED),
    ("level.progress", 50, "is not from 0 to 1"),
    ("level.progress", "0.5", "has a text"),
    ("level.nextLevelAt", None, CONFIRMED),
    ("unlocked.name", {"en": "P"}, "has an object"),
    ("token.token_type", "Bearer", CONFIRMED),
    ("token.token_type", "MAC", "is another one"),
    ("token.expires_at", "2026-06-04T12:10:00.000Z", CONFIRMED),
    ("token.expires_at", "2026-06-04T12:10:00", "has a time without a zone"),
    ("token.expires_at", "tomorrow", "has a time that is not ISO 8601 text"),
    ("token.expires_in", 600.0, CONFIRMED),
]


@pytest.mark.parametrize(("name", "value", "answer"), ROWS, ids=[f"{row[0]} {row[1]!r}" for row in ROWS])
def test_a_published_field_is_held_to_what_the_client_reads(name: str, value: JSONValue, answer: str) -> None:
    """What it takes is confirmed, what it can't read differs; catches a check that passes where the client fails."""
    assert PUBLISHED[name]({name.partition(".")[2]: value}) == answer


OPTIONAL = {"result.level", "level.nextLevelAt", "unlocked.type", "unlocked.key", "unlocked.name"}


@pytest.mark.parametrize(("name", "check"), PUBLISHED.items(), ids=PUBLISHED)
def test_a_published_field_that_is_missing_differs(name: str, check: Check) -> None:
    """Except for those that may be absent; catches a field that is taken as given."""
    assert check({}) == (CONFIRMED if name in OPTIONAL else "is missing")


@pytest.mark.parametrize(
    ("rules", "answer", "count"),
    [
        ([{"event": "e"}], CONFIRMED, 1),
        ([{"event": "e"}, {"label": "E"}], "one without event", 1),
        ([{"key": "e"}, {"event": 5}], CONFIRMED, 0),
        (["e"], "has a list with a text", 0),
        ([], None, 0),
    ],
)
def test_rules_are_told_apart_from_their_events(rules: list[JSONValue], answer: str | None, count: int) -> None:
    """That no rule names its event is another fact, a published one; catches an assumption that hides it."""
    shape, named = shapes.rules({"earningRules": rules})

    assert (shape, len(named)) == (answer, count)


@pytest.mark.parametrize("reason", [{"error": "unknown event"}, {"status": "rejected"}, {"message": "no"}])
def test_an_item_that_gives_its_reason_is_not_unexplained(reason: JsonObject) -> None:
    """The sandbox would otherwise imitate another service; catches a reason that check overlooks."""
    assert shapes.failed_item({"applied": False, "duplicate": False, **reason}) == "has another shape"
    assert shapes.failed_item({"applied": False, "duplicate": False}) == "unexplained"
