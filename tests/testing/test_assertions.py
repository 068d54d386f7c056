"""sandbox/assertions: which events match, and what a failure says."""

from collections.abc import Mapping

import pytest

from perkamo import PerkamoApiError, PerkamoClient
from perkamo.sandbox import Lost, Sandbox, Status
from perkamo.sandbox.assertions import Expected, problem
from perkamo.sandbox.ledger import SandboxEvent
from perkamo.sandbox.messages import Json

MOMENT = "2026-06-01T10:00:00.000Z"


def applied(event: str = "purchase.completed", user_id: str = "a", number: int = 1, **context: Json) -> SandboxEvent:
    """Make an event as the sandbox keeps it."""
    return SandboxEvent(user_id, event, f"order_{number}", context, MOMENT, 0.0, {})


def complaint(expected: Expected, *events: SandboxEvent, times: int | None = 1) -> str:
    """Return what is wrong, which something must be."""
    text = problem(expected, times, events, ())
    assert text is not None
    return text


@pytest.mark.parametrize(
    ("context", "matches"),
    [
        (None, True),
        ({}, True),
        ({"amount": 12900}, True),
        ({"amount": 12900.0}, True),
        ({"item": {"sku": "x"}}, True),
        ({"item": {"sku": "x", "tags": ["a", {"b": 1}]}}, True),
        ({"item": {"tags": ("a", {})}}, True),
        ({"gift": True, "note": None}, True),
        ({"amount": 12901}, False),
        ({"amount": "12900"}, False),
        ({"gift": 1}, False),
        ({"amount": True}, False),
        ({"note": False}, False),
        ({"absent": None}, False),
        ({"item": {"sku": "y"}}, False),
        ({"item": {"absent": 1}}, False),
        ({"item": "x"}, False),
        ({"item": {"tags": ["a"]}}, False),
        ({"item": {"tags": [{"b": 1}, "a"]}}, False),
        ({"item": {"tags": "a"}}, False),
    ],
)
def test_a_context_matches_what_it_holds_at_least(context: Mapping[str, object] | None, *, matches: bool) -> None:
    """Objects by the fields that are named, lists item by item, numbers by value; catches 1 taken for True."""
    got = applied(amount=12900, gift=True, note=None, item={"sku": "x", "size": 3, "tags": ["a", {"b": 1}]})

    text = problem(Expected("purchase.completed", context=context), 1, [got], ())

    assert (text is None) == matches


@pytest.mark.parametrize(
    ("expected", "matches"),
    [
        (Expected("purchase.completed"), True),
        (Expected("purchase.completed", "a", "order_1", {"amount": 1}), True),
        (Expected("purchase.complete"), False),
        (Expected("purchase.completed", "b"), False),
        (Expected("purchase.completed", ""), False),
        (Expected("purchase.completed", transaction_id="order_2"), False),
    ],
)
def test_an_event_matches_in_all_that_is_named(expected: Expected, *, matches: bool) -> None:
    """What is not named may be anything; catches an empty id that counts as none."""
    assert (problem(expected, 1, [applied(amount=1)], ()) is None) == matches


@pytest.mark.parametrize(
    ("times", "count", "head"),
    [
        (1, 0, "found 0, expected exactly 1; no event was applied"),
        (1, 1, None),
        (1, 2, "found 2, expected exactly 1"),
        (3, 3, None),
        (3, 2, "found 2, expected exactly 3"),
        (0, 0, None),
        (0, 1, "found 1, expected none"),
        (None, 0, "found 0, expected at least 1; no event was applied"),
        (None, 1, None),
        (None, 5, None),
    ],
)
def test_events_are_counted(times: int | None, count: int, head: str | None) -> None:
    """Exactly so often, or once or more; catches a purchase that earned twice."""
    events = [applied(number=number) for number in range(count)]

    text = problem(Expected("purchase.completed"), times, events, ())

    assert (text and text.splitlines()[0]) == (head and f"purchase.completed: {head}")


def test_a_negative_count_is_refused() -> None:
    """It can only be a mistake, which would else read as a failed assertion."""
    with pytest.raises(ValueError, match="times must be 0 or more"):
        problem(Expected("a"), -1, (), ())


def test_a_failure_shows_the_nearest_event_and_its_differences() -> None:
    """The whole text, as a reader sees it."""
    expected = Expected("purchase.completed", "a", context={"amount": 12900, "item": {"sku": "x"}, "currency": "CZK"})
    far = applied("user.registered", "b")
    near = applied(amount=12000, item={"sku": "y"})

    text = complaint(expected, far, near)

    assert text == (
        "purchase.completed: found 0, expected exactly 1; "
        "the nearest differs in context.amount, context.item.sku, context.currency\n"
        "  expected exactly 1: purchase.completed user_id='a' "
        "context={'amount': 12900, 'item': {'sku': 'x'}, 'currency': 'CZK'}\n"
        "  nearest, event 2 of 2: purchase.completed user_id='a' transaction_id='order_1' "
        "context={'amount': 12000, 'item': {'sku': 'y'}}\n"
        "      context.amount: expected 12900, got 12000\n"
        "      context.item.sku: expected 'x', got 'y'\n"
        "      context.currency: expected 'CZK', got nothing\n"
        "  nearest, event 1 of 2: user.registered user_id='b' transaction_id='order_1' context={}\n"
        "      event: expected 'purchase.completed', got 'user.registered'\n"
        "      user_id: expected 'a', got 'b'\n"
        "      context.amount: expected 12900, got nothing\n"
        "      context.item: expected {'sku': 'x'}, got nothing\n"
        "      context.currency: expected 'CZK', got nothing"
    )


def test_the_three_nearest_are_shown_the_newest_of_equals_first() -> None:
    """An event of another name is further off than one with one wrong field; catches a screenful of a load test."""
    expected = Expected("purchase.completed", "a", context={"amount": 1})
    events = [
        applied("purchase.complete", "a", 1, amount=1),
        applied("purchase.completed", "a", 2, amount=2),
        applied("purchase.completed", "b", 3, amount=3),
        *(applied("user.registered", "b", number) for number in range(4, 50)),
        applied("purchase.completed", "a", 50, amount=4),
    ]

    lines = [line for line in complaint(expected, *events).splitlines() if line.startswith("  nearest")]

    assert [line.partition(" of ")[0] for line in lines] == [
        "  nearest, event 50",
        "  nearest, event 2",
        "  nearest, event 3",
    ]


def test_too_many_events_are_all_shown() -> None:
    """With their transaction ids, by which one sees that two made it twice."""
    text = complaint(Expected("purchase.completed", "a"), applied(number=1, n=1), applied(number=2, n=2))

    assert text.splitlines()[1:] == [
        "  expected exactly 1: purchase.completed user_id='a'",
        "  found event 1: purchase.completed user_id='a' transaction_id='order_1' context={'n': 1}",
        "  found event 2: purchase.completed user_id='a' transaction_id='order_2' context={'n': 2}",
    ]


def test_long_values_are_cut() -> None:
    """Catches a failure that prints a megabyte."""
    text = complaint(Expected("purchase.completed", context={"note": "x" * 100_000}), applied(note="y" * 100_000))

    assert len(text) < 2_000
    assert "…" in text


def test_failed_requests_are_named_as_the_possible_reason(
    perkamo_sandbox: Sandbox, perkamo_client: PerkamoClient
) -> None:
    """Only those for events, each kind once with its number; catches an hour's search for a 401."""
    perkamo_sandbox.faults.next("POST /v1/events", Status(401))
    perkamo_sandbox.faults.next("GET /v1/program", Status(404))
    with pytest.raises(PerkamoApiError):
        perkamo_client.emit("a", "user.registered")
    with pytest.raises(PerkamoApiError):
        perkamo_client.program()
    perkamo_sandbox.faults.sequence("POST /v1/events", [Lost(), Status(503), Status(503)])
    with pytest.raises(PerkamoApiError):
        perkamo_client.emit("a", "user.registered")

    with pytest.raises(AssertionError) as caught:
        perkamo_sandbox.assert_emitted("user.registered", times=2)

    assert [line.strip() for line in str(caught.value).splitlines() if "failed:" in line] == [
        "failed: 1 x POST /v1/events 401, by the fault Status(401)",
        "failed: 1 x POST /v1/events without an answer, by the fault Lost()",
        "failed: 2 x POST /v1/events 503, by the fault Status(503)",
    ]
    perkamo_sandbox.assert_emitted("user.registered", user_id="a")


def test_nothing_personal_is_in_the_repr_of_what_is_expected() -> None:
    """Values belong into the failure alone."""
    assert "secret" not in repr(Expected("a", "secret", "secret", {"secret": "secret"}))
