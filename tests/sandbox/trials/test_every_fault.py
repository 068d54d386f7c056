"""sandbox.trials: a flow under every fault, without a test runner, and each kind of planted bug."""

import re
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from perkamo import PerkamoApiError, PerkamoClient, PerkamoConnectionError, PerkamoError, RetryPolicy
from perkamo.sandbox import Lost, Sandbox, Status, try_every_fault
from perkamo.sandbox.trials.strike import DISTURBANCES, parse_strike
from perkamo.sandbox.trials.trial import Trial

PATIENT = RetryPolicy(attempts=2, base_delay=0, max_delay=0, attempt_timeout=20)
QUICK = evolve(PATIENT, attempt_timeout=1)  # for answers that never come
PER_REQUEST = len(DISTURBANCES)
LOST = "POST /v1/events #1: answer lost"


def client_of(sandbox: Sandbox, retry: RetryPolicy = QUICK) -> PerkamoClient:
    """A client that does not wait between attempts, nor long for an answer."""
    return PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=retry)


def buy(sandbox: Sandbox, order: str = "order_1") -> None:
    """Send the event of an order."""
    with client_of(sandbox) as client:
        client.emit("customer_1", "purchase.completed", {"amount": 12_900}, transaction_id=order)


def keep_trying(sandbox: Sandbox, make_id: Callable[[], str]) -> None:
    """Try on, as an application may that does not trust its client."""
    for _ in range(3):
        try:
            return buy(sandbox, make_id())
        except PerkamoError:
            continue
    raise RuntimeError("Perkamo is down")


def swallow(sandbox: Sandbox) -> None:
    """Pass over an error."""
    with suppress(PerkamoError):
        buy(sandbox)


class Shop:
    """A shop with a database, which has one order for a cart."""

    def __init__(self, *, saves_first: bool) -> None:
        self.saves_first = saves_first
        self.orders: dict[str, str] = {}

    def __call__(self, sandbox: Sandbox) -> None:
        """Place the order; with a sandbox as new begins a new day."""
        if not sandbox.requests:
            self.orders.clear()
        order = self.orders.get("cart_1", f"order_{uuid4()}")
        if self.saves_first:
            self.orders["cart_1"] = order
        buy(sandbox, order)
        self.orders["cart_1"] = order


def failure_of(flow: Callable[[Sandbox], object], sandbox: Sandbox, **options: object) -> str:
    """The message of a flow that does not end right."""
    with pytest.raises(AssertionError) as failure:
        try_every_fault(flow, sandbox=sandbox, **options)  # type: ignore[arg-type]  # as the test says
    return str(failure.value)


def test_a_right_flow_passes_with_every_fault_of_every_request(sandbox: Sandbox) -> None:
    """Expect each fault for each request once, in a few words; catches a search that leaves some out."""

    def flow(sandbox: Sandbox) -> None:
        with client_of(sandbox) as client:
            client.identify("customer_1", {"plan": "pro"})
        buy(sandbox)

    report = try_every_fault(flow, sandbox=sandbox, allow=PerkamoError)

    assert (report.tried, report.possible, report.not_reached) == (2 * PER_REQUEST, 2 * PER_REQUEST, 0)
    assert re.fullmatch(rf"{2 * PER_REQUEST} faults, 0 differences, [0-9.]+ s", str(report))
    assert sandbox.events() == ()


def test_a_swallowed_error_of_identify_is_found(sandbox: Sandbox) -> None:
    """Expect the traits that are missing by name, whatever their values are; catches a look at events alone."""

    def flow(sandbox: Sandbox) -> None:
        with client_of(sandbox) as client, suppress(PerkamoError):
            client.identify("customer_1", {"plan": "pro", "seen": str(uuid4())})
        buy(sandbox)

    failure = failure_of(flow, sandbox, only="POST /v1/identify #1: refused with 400")

    assert "customer 'customer_1': traits: expected plan, seen, got none" in failure
    assert try_every_fault(flow, sandbox=sandbox, only="POST /v1/identify #1: answer lost").differences == ()


def test_a_flow_without_a_sandbox_gets_one() -> None:
    """Expect the shortest call to do: catches a sandbox that must be made first."""
    assert try_every_fault(buy, allow=PerkamoError, only=LOST).tried == 1


def test_a_random_transaction_id_is_found(sandbox: Sandbox) -> None:
    """Expect the second count where an applied call looks lost, and the same flow with the order's id to pass."""
    message = failure_of(lambda sandbox: keep_trying(sandbox, lambda: f"tx_{uuid4()}"), sandbox)

    assert message.startswith(f"{PER_REQUEST} faults, 4 differences")
    for fault in ("reset after it is applied", "answer lost", "answer cut", "answer late"):
        assert (
            f"POST /v1/events #1: {fault} at every attempt\n  purchase.completed: found 2, expected exactly 1"
            in message
        )
    assert "customer 'customer_1': wallets.points: expected 129, got 258" in message
    assert f"run it alone: try_every_fault(…, only=['{LOST} at every attempt'])" in message
    assert try_every_fault(lambda sandbox: keep_trying(sandbox, lambda: "order_1"), sandbox=sandbox).differences == ()


def test_a_swallowed_error_is_found(sandbox: Sandbox) -> None:
    """Expect the event that is missing, and what refused it."""
    message = failure_of(swallow, sandbox, allow=PerkamoError, only="POST /v1/events #1: refused with 409")

    assert "purchase.completed: found 0, expected exactly 1" in message
    assert "failed: 1 x POST /v1/events 409, by the fault Status(409)" in message
    assert "customer 'customer_1': is missing" in message


def test_an_emit_before_the_order_is_saved_is_found(sandbox: Sandbox) -> None:
    """Expect the order of which only Perkamo knows, which the next run makes anew; saved first, all is mended."""
    message = failure_of(Shop(saves_first=False), sandbox, allow=PerkamoError, only=f"{LOST} at every attempt")

    assert "ended with PerkamoConnectionError, which is allowed, and a second run does not repair it" in message
    assert "found 2, expected exactly 1" in message
    assert try_every_fault(Shop(saves_first=True), sandbox=sandbox, allow=PerkamoError).differences == ()


def test_an_error_that_is_not_allowed_fails(sandbox: Sandbox) -> None:
    """Expect its name and what to do; an allowed one of another kind does not help."""
    message = failure_of(buy, sandbox, allow=PerkamoConnectionError, only="POST /v1/events #1: refused with 400")

    assert "ended with PerkamoApiError" in message
    assert "allow=PerkamoApiError" in message


def test_an_error_before_anything_struck_is_never_allowed(sandbox: Sandbox) -> None:
    """Expect the error of the undisturbed run, also where it is of an allowed kind: catches a flow that never works."""

    def flow(sandbox: Sandbox) -> None:
        sandbox.faults.next("POST /v1/events", Status(400))
        buy(sandbox)

    with pytest.raises(PerkamoApiError):
        try_every_fault(flow, sandbox=sandbox, allow=PerkamoError)


def test_each_error_of_a_task_group_must_be_allowed(sandbox: Sandbox) -> None:
    """Expect a group of allowed errors to count as one, and a group with another one not."""

    def grouped(other: Exception | None) -> Callable[[Sandbox], None]:
        def flow(sandbox: Sandbox) -> None:
            try:
                buy(sandbox)
            except PerkamoError as error:
                raise ExceptionGroup("tasks", [error, *([other] if other else [])]) from None

        return flow

    only = "POST /v1/events #1: refused with 400"

    assert try_every_fault(grouped(None), sandbox=sandbox, allow=PerkamoError, only=only).differences == ()
    assert "ended with ExceptionGroup" in failure_of(grouped(KeyError("x")), sandbox, allow=PerkamoError, only=only)


def test_two_faults_are_tried_in_one_run(sandbox: Sandbox) -> None:
    """Expect a flow that is right whatever happens once to be found wrong with a fault on its own remedy."""

    def mends_once(sandbox: Sandbox) -> None:
        try:
            buy(sandbox)
        except PerkamoError:
            swallow(sandbox)

    assert try_every_fault(mends_once, sandbox=sandbox).differences == ()
    message = failure_of(
        mends_once,
        sandbox,
        only=["POST /v1/events #1: refused with 400", "POST /v1/events #2: refused with 409"],
    )
    assert "found 0, expected exactly 1" in message
    searched = failure_of(mends_once, sandbox, depth=2, limit=40, seed=3)
    assert "\nPOST /v1/events #1: " in searched
    assert "\nPOST /v1/events #2: " in searched


def test_a_limit_leaves_the_same_runs_for_the_same_seed(sandbox: Sandbox) -> None:
    """Expect as many as it says of each depth, others for another seed, and a summary of how many there were."""
    reports = [failure_of(swallow, sandbox, limit=4, seed=seed).splitlines() for seed in (1, 1, 2)]
    pairs = [[line for line in report if line.startswith("POST")] for report in reports]

    assert reports[0][0].startswith(f"4 faults of {PER_REQUEST}, ")
    assert pairs[0] == pairs[1] != pairs[2]


def test_a_request_that_never_comes_is_reported(sandbox: Sandbox) -> None:
    """Expect it in the summary, and a failure where it was asked for alone: catches a pair that tried nothing."""
    runs = iter(range(100))

    def flow(sandbox: Sandbox) -> None:
        if next(runs) == 0:
            with client_of(sandbox) as client:
                client.customer("customer_1")
        buy(sandbox)

    report = try_every_fault(flow, sandbox=sandbox, allow=PerkamoError)

    assert report.not_reached == PER_REQUEST
    assert f", {PER_REQUEST} not reached, " in str(report)
    assert "was never reached" in failure_of(buy, sandbox, only="GET /v1/program #1: answer lost")


def test_new_customers_in_each_run_are_compared_in_their_order(sandbox: Sandbox) -> None:
    """Expect a flow of new ids to pass, and a missing event of one of them to be found."""

    def flow(sandbox: Sandbox, *, swallows: bool = False) -> None:
        with client_of(sandbox, PATIENT) as client:
            for amount in (100, 200):
                user = f"user_{uuid4()}"
                try:
                    client.emit(user, "purchase.completed", {"amount": amount}, transaction_id=user)
                except PerkamoError:
                    if not swallows:
                        raise

    only = "POST /v1/events #2: answer cut"
    assert try_every_fault(flow, sandbox=sandbox, only=only).differences == ()
    message = failure_of(
        lambda sandbox: flow(sandbox, swallows=True), sandbox, only="POST /v1/events #1: refused with 400"
    )
    assert "wallets.points: expected 1, got 2" in message
    assert "is missing" in message


def test_faults_of_the_flow_itself_go_first(sandbox: Sandbox) -> None:
    """Expect a flow that arms its own fault to keep it: catches a search that takes its place."""

    def flow(sandbox: Sandbox) -> None:
        sandbox.faults.next("POST /v1/events", Lost())
        buy(sandbox)
        assert sandbox.requests[0].fault == "Lost()"

    assert try_every_fault(flow, sandbox=sandbox, only="POST /v1/events #2: answer cut", allow=PerkamoError).tried == 1


def test_levels_perks_and_achievements_are_compared(sandbox: Sandbox) -> None:
    """Expect each of them named where a run leaves less: catches a comparison of balances alone."""

    def flow(sandbox: Sandbox) -> None:
        with client_of(sandbox) as client:
            client.emit("customer_1", "user.registered", transaction_id="registration")
        swallow(sandbox)

    message = failure_of(flow, sandbox, only="POST /v1/events #2: refused with 400")

    assert "customer 'customer_1': level: expected 2, got 1" in message
    assert "perks: expected welcome_member, free_shipping, got welcome_member" in message
    assert "achievements: expected first_purchase, got none" in message


def test_an_async_flow_is_refused_with_the_line_to_write(sandbox: Sandbox) -> None:
    """Expect TypeError: catches a coroutine that never runs and a search that finds nothing."""

    async def flow(sandbox: Sandbox) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match=r"asyncio\.run"):
        try_every_fault(flow, sandbox=sandbox)


@pytest.mark.parametrize("options", [{"depth": 0}, {"limit": 0}, {"only": "nothing"}])
def test_wrong_arguments_are_refused(sandbox: Sandbox, options: dict[str, object]) -> None:
    """Expect ValueError before anything runs."""
    with pytest.raises(ValueError, match=r"depth|limit|written"):
        try_every_fault(buy, sandbox=sandbox, **options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.anyio
async def test_an_async_run_is_mended_in_its_own_loop(anyio_backend: str) -> None:
    """Expect the second run after an allowed error, and its result: what the pytest mark does with async tests."""
    results = iter([PerkamoConnectionError("The answer was lost."), "mended"])

    async def flow() -> object:
        await anyio.lowlevel.checkpoint()
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    trial = Trial((parse_strike(LOST),), PerkamoError)
    trial._next = 1

    assert await trial.call_async(Sandbox(), flow) == "mended"
    assert trial.allowed_error == "PerkamoConnectionError"
