"""split: one request for many events, the event at fault found, and one judgement for each result."""

import copy
import pickle
from collections.abc import Callable, Iterable, Mapping

import pytest
from attrs import evolve

from perkamo import AsyncPerkamoClient, Event, JSONValue, RetryPolicy
from perkamo.batching.split import SOLO_ATTEMPTS, EventResult, Verdict, classify_result, send_batch, send_undecided
from perkamo.errors import (
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoEventError,
    PerkamoResponseError,
    PerkamoServerError,
    PerkamoValidationError,
)
from perkamo.events import as_event
from perkamo.models import BatchIngestResponse, EventIngestResponse
from perkamo.runtime.clock import Clock
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.batching.items import POISON, READABLE, answer_batches

pytestmark = pytest.mark.anyio
BATCH = "POST /v1/events:batch"
GOOD = EventIngestResponse(
    applied=True, duplicate=False, delta=(), leveled_up=False, unlocked=(), wallet_state={}, level=None
)


def events(number: int, *poison: int) -> list[Event]:
    """Make events, some of them poison."""
    return [
        Event("customer_1", "review.created", f"{POISON if n in poison else 'good'}_{n}", {"n": n})
        for n in range(number)
    ]


JUDGED: list[tuple[EventResult, Verdict]] = [
    (GOOD, "accepted"),
    (PerkamoEventError("", accepted=True), "accepted"),
    (PerkamoEventError("", outcome="rejected"), "rejected"),
    (PerkamoApiError("", status=400), "rejected"),
    (PerkamoApiError("", status=413), "rejected"),
    (PerkamoApiError("", status=422), "rejected"),
    (PerkamoValidationError("", field="event"), "rejected"),
    (PerkamoEventError(""), "undecided"),
    (PerkamoConflictError("", status=409), "undecided"),
    (PerkamoResponseError("", status=200), "failed"),
    (PerkamoServerError("", status=500), "failed"),
    (PerkamoAuthenticationError("", status=401), "failed"),
    (PerkamoConnectionError(""), "failed"),
    (PerkamoApiError("", status=404), "failed"),
]


@pytest.mark.parametrize(("result", "verdict"), JUDGED, ids=[f"{type(one).__name__}-{way}" for one, way in JUDGED])
def test_each_result_has_one_judgement(result: EventResult, verdict: Verdict) -> None:
    """By type and attributes alone, and the same after a queue; catches a judgement by text."""
    assert classify_result(result) == verdict
    assert classify_result(copy.copy(result)) == classify_result(pickle.loads(pickle.dumps(result))) == verdict


ITEMS: list[tuple[JSONValue, Verdict]] = [
    ({"error": {"code": "invalid_event", "message": "no"}}, "rejected"),
    ({**READABLE, "error": {"message": "unknown event"}}, "rejected"),
    ("unknown event", "rejected"),
    ({**READABLE, "status": 503}, "undecided"),
    (dict(READABLE), "undecided"),
    (None, "undecided"),
    ({}, "undecided"),
    ([], "undecided"),
    ({"applied": True, "delta": "none"}, "accepted"),
]


@pytest.mark.parametrize(("item", "verdict"), ITEMS, ids=[str(item)[:40] for item, _ in ITEMS])
async def test_an_odd_item_concerns_its_event_alone(
    sandbox: Sandbox, client: AsyncPerkamoClient, item: JSONValue, verdict: Verdict
) -> None:
    """The other 24 are accepted in the same request; catches a batch that fails whole."""
    answer_batches(sandbox, item)

    results = await send_batch(client, events(25, 7))

    assert [classify_result(result) for result in results] == [verdict if n == 7 else "accepted" for n in range(25)]
    assert len(sandbox.requests) == 1
    assert len(sandbox.events()) == 24


WHOLE: dict[str, Callable[[list[JSONValue]], JSONValue]] = {
    "fewer": lambda results: {"results": [one for one in results if one != "poison"]},
    "more": lambda results: {"results": [*results, *(one for one in results if one == "poison")]},
    "null": lambda results: None if "poison" in results else {"results": results},
    "no results": lambda results: {} if "poison" in results else {"results": results},
    "a map": lambda results: {"results": {}} if "poison" in results else {"results": results},
}


@pytest.mark.parametrize("whole", WHOLE)
async def test_an_answer_that_cannot_be_told_apart_is_halved(
    sandbox: Sandbox, client: AsyncPerkamoClient, whole: str
) -> None:
    """The event at fault is found, and is undecided; all others are accepted, in at most fifteen requests."""
    answer_batches(sandbox, "poison", WHOLE[whole])

    results = await send_batch(client, events(100, 61))

    assert [place for place, result in enumerate(results) if classify_result(result) != "accepted"] == [61]
    error = results[61]
    assert isinstance(error, PerkamoEventError)
    assert (classify_result(error), error.retryable) == ("undecided", True)
    assert isinstance(error.__cause__, PerkamoResponseError)
    assert len(sandbox.requests) <= 15


@pytest.mark.parametrize("whole", [lambda _: {"data": []}, lambda _: None, lambda _: {"results": []}])
async def test_a_service_that_answers_nothing_readable_is_not_asked_for_each_event(
    sandbox: Sandbox, client: AsyncPerkamoClient, whole: Callable[[list[JSONValue]], JSONValue]
) -> None:
    """No event is at fault then, and all wait; catches 199 requests to a gateway's page."""
    answer_batches(sandbox, None, whole)

    results = await send_batch(client, events(100))

    assert [classify_result(result) for result in results] == ["failed"] * 100
    assert all(isinstance(result, PerkamoResponseError) and result.retryable for result in results)
    assert len(sandbox.requests) <= 10


@pytest.mark.parametrize("odd", [slice(0, -1), slice(0, 0)])
async def test_results_of_a_subclass_that_cannot_be_told_apart_concern_no_other_event(
    odd: slice, sandbox: Sandbox
) -> None:
    """Its batch drops a result where the poison is; the others count; catches a relay that ends with a ValueError."""

    class Dropping(AsyncPerkamoClient):
        async def batch(self, events: Iterable[Event | Mapping[str, object]]) -> BatchIngestResponse:
            asked = [as_event(event) for event in events]
            answer = await super().batch(asked)
            is_odd = any(str(event.transaction_id).startswith(POISON) for event in asked)
            return evolve(answer, results=answer.results[odd]) if is_odd else answer

    async with Dropping(sandbox.api_key, base_url=sandbox.base_url) as client:
        results = await send_batch(client, events(9, 4))

    assert [classify_result(result) for result in results] == ["accepted"] * 4 + ["undecided"] + ["accepted"] * 4
    assert "batch() returned 0 results for 1 events." in str(results[4])


async def test_a_list_in_place_of_an_object_is_read_as_the_results(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """What can be told apart is; catches an accepted event that is sent again."""
    answer_batches(sandbox, None, list)

    results = await send_batch(client, events(3))

    assert [classify_result(result) for result in results] == ["accepted"] * 3
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_what_is_refused_is_halved_and_an_outage_of_one_half_leaves_the_other_half_sent(
    sandbox: Sandbox, client: AsyncPerkamoClient, status: int
) -> None:
    """After a 413 a 503 on one half concerns that half alone; catches one that fails the other half unsent."""
    sandbox.faults.next(BATCH, Status(status), times=1)
    sandbox.faults.next(BATCH, Status(503), times=1)

    results = await send_batch(client.with_options(retry=RetryPolicy.none()), events(10))

    assert [classify_result(result) for result in results] == ["failed"] * 5 + ["accepted"] * 5
    assert len({id(result) for result in results}) == 10


async def test_an_outage_stops_a_careful_sender(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """Whoever asks for it sends nothing more after a failure; catches a storm during an outage."""
    sandbox.faults.next(BATCH, Status(413), times=1)
    sandbox.faults.next(BATCH, Status(503), times=1)

    results = await send_batch(client.with_options(retry=RetryPolicy.none()), events(10), continue_on_error=False)

    assert [classify_result(result) for result in results] == ["failed"] * 10
    assert len(sandbox.requests) == 2


async def test_an_event_that_fails_alone_while_others_pass_is_undecided_whatever_the_reason(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """A 500 for one event only lies in that event, once somebody halves for it; catches one event that blocks all."""

    def handler(request: Request) -> Response | None:
        return Response(500) if b"poison" in request.body else None

    sandbox.add_handler(handler)
    sender = client.with_options(retry=RetryPolicy.none())

    results = await send_batch(sender, events(20, 3), halve=lambda error: isinstance(error, PerkamoServerError))

    assert [classify_result(result) for result in results] == ["undecided" if n == 3 else "accepted" for n in range(20)]
    assert isinstance(results[3], PerkamoEventError)
    assert isinstance(results[3].__cause__, PerkamoServerError)


class NoBackoff(Clock):
    """A clock that draws the shortest of all waits."""

    def randomness(self) -> float:
        """Return 0."""
        return 0.0


async def test_an_event_whose_answer_nobody_can_read_stays_undecided_alone(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """What showed itself to be at fault in company is not the service's fault alone; catches an import that stops."""
    answer_batches(sandbox, "poison", WHOLE["fewer"])
    sent = events(10, 4)
    results = await send_batch(client, sent)
    before = len(sandbox.requests)

    await send_undecided(client, sent, results, NoBackoff())

    assert [place for place, result in enumerate(results) if classify_result(result) != "accepted"] == [4]
    assert classify_result(results[4]) == "undecided"
    assert len(sandbox.requests) - before == SOLO_ATTEMPTS


async def test_an_outage_while_an_event_is_sent_alone_is_waited_out(
    sandbox: Sandbox, client: AsyncPerkamoClient
) -> None:
    """A 503 in between is one of the tries; catches an event that is given up for somebody else's failure."""
    sandbox.faults.next(BATCH, Status(503), times=1)
    results: list[EventResult] = [PerkamoEventError("no")]

    await send_undecided(client.with_options(retry=RetryPolicy.none()), events(1), results, NoBackoff())

    assert [classify_result(result) for result in results] == ["accepted"]


async def test_undecided_events_are_sent_alone_a_few_times(sandbox: Sandbox, client: AsyncPerkamoClient) -> None:
    """One that passes alone is accepted, one that never does is given up after three; catches one sent forever."""
    answer_batches(sandbox, None)
    sent = events(4, 1)
    results: list[EventResult] = [GOOD, PerkamoEventError("no"), PerkamoEventError("no"), GOOD]

    await send_undecided(client, sent, results, NoBackoff())

    assert [classify_result(result) for result in results] == ["accepted", "undecided", "accepted", "accepted"]
    assert len(sandbox.requests) == 3 + 1
