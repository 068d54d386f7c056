"""sandbox.trials.strike: how a pair of a request and a fault is written and read."""

import pytest

from perkamo.sandbox.routes import ROUTES
from perkamo.sandbox.trials.strike import DISTURBANCES, WEBHOOK, Strike, Target, parse_strike, strikes_on

EVENTS = Target("POST /v1/events", 1)


def test_what_is_written_is_read_again() -> None:
    """Expect each pair of each route to survive; catches a name that its own failure message can't be pasted from."""
    for route in (*ROUTES, WEBHOOK):
        for strike in strikes_on(Target(route, 12)):
            assert parse_strike(str(strike)) == strike


def test_every_kind_of_fault_is_tried() -> None:
    """Expect the statuses, both resets, a lost, a cut and a late answer: catches one that was forgotten."""
    names = " / ".join(DISTURBANCES)

    for word in ("400", "401", "409", "429", "500", "503", "before", "after", "lost", "cut", "late"):
        assert word in names
    assert [strike.name for strike in strikes_on(Target(WEBHOOK, 1))] == ["delivered twice"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "are written as"),
        ("POST /v1/events", "are written as"),
        ("POST /v1/events #0: answer lost", "are written as"),
        ("POST /v1/nothing #1: answer lost", "are written as"),
        ("POST /v1/events #1: 418", "refused with 400, refused with 401"),
        ("webhook #1: answer lost", "is: delivered twice"),
    ],
)
def test_what_is_no_pair_is_refused_with_what_there_is(text: str, reason: str) -> None:
    """Expect the form, or the names to choose from: catches a wrong name that silently tries nothing."""
    with pytest.raises(ValueError, match=reason):
        parse_strike(text)


def test_a_pair_reads_as_a_sentence() -> None:
    """Expect what a failure shows."""
    assert str(Strike(EVENTS, "answer lost at every attempt")) == "POST /v1/events #1: answer lost at every attempt"
