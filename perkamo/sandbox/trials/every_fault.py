"""Chooses the runs, and makes them, without any test runner."""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from random import Random

from attrs import field, frozen
from attrs.validators import ge, instance_of, optional

from perkamo.runtime.clock import Clock
from perkamo.sandbox.sandbox import Sandbox
from perkamo.sandbox.trials.report import FaultReport, failure_text, make_report
from perkamo.sandbox.trials.strike import Strike, parse_strike
from perkamo.sandbox.trials.trial import Allowed, Trial


@frozen
class Plan:
    """The plan of the runs.

    Attributes:
        allow: Errors with which a flow may end if a fault happens; a second run must then repair it.
        depth: The most faults in one run.
        seed: Decides which runs are chosen if there is a limit.
        limit: The most runs of each depth; None for all.
        only: Only this one run, with these faults.
    """

    allow: Allowed = ()
    depth: int = field(default=1, validator=[instance_of(int), ge(1)])
    seed: int = field(default=0, validator=instance_of(int))
    limit: int | None = field(default=None, validator=optional([instance_of(int), ge(1)]))
    only: tuple[Strike, ...] = ()

    def carry_out(self, baseline: Trial, run: Callable[[Trial], None]) -> tuple[list[Trial], int]:
        """Make all runs.

        Args:
            baseline: The run without faults, after its end.
            run: Makes a run, and records in it how it ended.

        Returns:
            The runs, and how many were possible.
        """
        if self.only:
            trials = [Trial(self.only, self.allow)]
            run(trials[0])
            return trials, 1
        chance = Random(self.seed)  # noqa: S311 - repeatable, not secret
        done: list[Trial] = []
        possible, last = 0, [baseline]
        for _ in range(self.depth):
            ahead = [
                (*trial.strikes, strike) for trial in last if trial.has_struck for strike in trial.further_strikes()
            ]
            possible += len(ahead)
            if self.limit is not None and len(ahead) > self.limit:
                ahead = [ahead[index] for index in sorted(chance.sample(range(len(ahead)), self.limit))]
            last = [Trial(strikes, self.allow) for strikes in ahead]
            for trial in last:
                run(trial)
            done += last
        return done, possible


def try_every_fault(
    flow: Callable[[Sandbox], object],
    *,
    sandbox: Sandbox | None = None,
    allow: Allowed = (),
    depth: int = 1,
    seed: int = 0,
    limit: int | None = None,
    only: str | Sequence[str] = (),
) -> FaultReport:
    """Run a flow once without faults, then once more for each of its requests and each fault, and compare the ends.

    The faults of a request: it is refused with 400, 401, 409, 429, 500 or 503; the connection is reset before or after
    it was applied; its answer is lost, cut, or later than the client waits. A delivery of a webhook comes twice.
    A fault after which a client retries happens once, and in another run at every attempt.

    For pytest there is ``@pytest.mark.perkamo_faults``.

        def flow(sandbox: Sandbox) -> None:
            with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
                client.emit("customer_123", "purchase.completed", {"amount": 12900}, transaction_id="order_1")

        print(try_every_fault(flow, allow=PerkamoError))

    Args:
        flow: The flow; called with the sandbox, which is empty each time. Its own assertions count. State outside the
            sandbox, such as a database, must be reset by the flow itself.
        sandbox: A running sandbox, whose program, address and keys are kept; None for one on a free port.
        allow: Errors with which a flow may end if a fault happens. It then runs once more, without faults, on the
            state that is there: that must repair it.
        depth: The most faults in one run; 2 tries pairs of faults as well, which are many.
        seed: Decides which runs are chosen if there is a limit.
        limit: The most runs of each depth; None for all.
        only: Pairs of a request and a fault, as a failure names them: only this one run is made.

    Returns:
        The report; as text, its summary.

    Raises:
        AssertionError: A run ended differently. The message says which run, how it differs, and how to run it alone.
        TypeError: The flow is async: give ``lambda sandbox: asyncio.run(flow(sandbox))``.
        ValueError: An argument is out of its range.
    """
    __tracebackhide__ = True
    if sandbox is None:
        with Sandbox() as own:
            return try_every_fault(flow, sandbox=own, allow=allow, depth=depth, seed=seed, limit=limit, only=only)
    pairs = (only,) if isinstance(only, str) else only
    plan = Plan(allow, depth, seed, limit, tuple(parse_strike(pair) for pair in pairs))
    clock = Clock()
    began = clock.now()
    baseline = Trial()
    _run(flow, sandbox, baseline)

    def run(trial: Trial) -> None:
        try:
            _run(flow, sandbox, trial)
        except Exception as error:  # noqa: BLE001 - any error of the flow is a result
            trial.failure = failure_text(error)

    trials, possible = plan.carry_out(baseline, run)
    if baseline.outcome is None:
        raise RuntimeError("the run without faults never ended")
    report = make_report(baseline.outcome, trials, possible, clock.now() - began, must_strike=bool(plan.only))
    sandbox.reset()
    if report.differences:
        raise AssertionError(report.failure(lambda pairs: f"try_every_fault(…, only={list(pairs)!r})"))
    return report


def _run(flow: Callable[[Sandbox], object], sandbox: Sandbox, trial: Trial) -> None:
    sandbox.reset()
    try:
        result = trial.call(sandbox, lambda: flow(sandbox))
    finally:
        trial.end(sandbox)
    if inspect.iscoroutine(result):
        _close(result)
        raise TypeError("the flow is async: pass lambda sandbox: asyncio.run(flow(sandbox)) instead")


def _close(coroutine: Coroutine[object, object, object]) -> None:
    coroutine.close()
