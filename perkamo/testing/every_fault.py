"""``@pytest.mark.perkamo_faults``: runs a test once without faults, then once more for each request and each fault.

Each run is complete, with fresh fixtures of function scope, whichever plugin runs the test. The outcome of all runs is
reported as that of one test.
"""

import inspect
import shlex
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Final, Literal, TypeAlias, cast
from unittest import TestCase

import pytest
from _pytest.runner import runtestprotocol  # plugins that run a test again use it; there is no public one
from attrs import define, field

from perkamo.sandbox import Sandbox
from perkamo.sandbox.trials.every_fault import Plan
from perkamo.sandbox.trials.report import FaultReport, make_report
from perkamo.sandbox.trials.strike import Strike, parse_strike
from perkamo.sandbox.trials.trial import Allowed, Trial

MARK: Final = "perkamo_faults"
OPTION: Final = "--perkamo-fault"
SUMMARY: Final = "perkamo_faults"
"""The user property with the summary line of a report, which xdist's workers send along."""

_USAGE: Final = "@pytest.mark.perkamo_faults(allow=…, depth=1, seed=0, limit=None)"
_When: TypeAlias = Literal["setup", "call", "teardown"]
_TRIAL: Final = pytest.StashKey[Trial]()
_NEEDS_SANDBOX: Final = (
    "a test with @pytest.mark.perkamo_faults needs the fixture perkamo_sandbox: ask for it, or for one of the clients; "
    'for a class, @pytest.mark.usefixtures("perkamo_sandbox")'
)


def run_all(item: pytest.Function, nextitem: pytest.Item | None) -> None:
    """Make all runs of a test with the mark, and report them as one test.

    Args:
        item: The test.
        nextitem: The next test, from pytest.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in (*_reports(item), *_tear_down(item, nextitem)):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


@contextmanager
def disturbed(item: pytest.Item) -> Generator[None]:
    """Wrap the test's function in a run's trial, within the block.

    Args:
        item: The test, set up.
    """
    trial = item.stash.get(_TRIAL, None)
    if trial is None or not isinstance(item, pytest.Function):
        yield
        return
    original: object = item.obj
    instance: object = item.instance
    sandbox = cast("Sandbox", item.funcargs["perkamo_sandbox"])
    item.obj = _wrapped(cast("Callable[..., object]", original), trial, sandbox)
    if isinstance(instance, TestCase):  # for an async test, plugins take the method from the instance
        setattr(instance, item.name, item.obj)
    try:
        yield
    finally:
        item.obj = original
        if isinstance(instance, TestCase):
            with suppress(AttributeError):  # pytest has done so already
                delattr(instance, item.name)


def end_trial(item: pytest.Item, sandbox: Sandbox) -> None:
    """Keep the sandbox's state at the end of a run, when all other fixtures have been torn down."""
    trial = item.stash.get(_TRIAL, None)
    if trial is not None:
        trial.end(sandbox)


def is_late(item: pytest.Item) -> bool:
    """Return whether a test is in a run with an answer that comes later than its client waits."""
    trial = item.stash.get(_TRIAL, None)
    return trial is not None and trial.is_late


def _wrapped(function: Callable[..., object], trial: Trial, sandbox: Sandbox) -> Callable[..., object]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def run_async(*args: object, **kwargs: object) -> object:
            __tracebackhide__ = True
            return await trial.call_async(sandbox, partial(function, *args, **kwargs))

        return run_async

    @wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        __tracebackhide__ = True
        return trial.call(sandbox, partial(function, *args, **kwargs))

    return run


@define
class _Runs:
    """Runs one test again and again."""

    item: pytest.Function
    seconds: float = 0.0
    failed: list[pytest.TestReport] = field(factory=list[pytest.TestReport])

    def run(self, trial: Trial) -> list[pytest.TestReport]:
        """Run it once with fresh fixtures; the fixtures of wider scopes stay."""
        self.item.stash[_TRIAL] = trial
        try:
            # The parent as the next item makes pytest tear down the test itself, and nothing wider.
            reports = runtestprotocol(self.item, log=False, nextitem=cast("pytest.Item", self.item.parent))
        finally:
            del self.item.stash[_TRIAL]
        self.seconds += sum(report.duration for report in reports)
        return reports

    def run_and_note(self, trial: Trial) -> None:
        """Run it, and record in the trial how it ended."""
        bad = [report for report in self.run(trial) if not _is_good(report)]
        if bad:
            self.failed.extend(bad)
            trial.failure = _why(bad[0], trial)


def _reports(item: pytest.Function) -> list[pytest.TestReport]:
    """Make all runs; return their reports as those of one test."""
    plan = _plan_or_problem(item)
    if isinstance(plan, str):
        return [_make_report(item, "setup", plan)]
    runs = _Runs(item)
    baseline = Trial()
    setup, *rest = runs.run(baseline)
    if baseline.outcome is None or len(rest) != 2 or not all(_is_good(report) for report in (setup, *rest)):
        return [setup, *rest]
    trials, possible = plan.carry_out(baseline, runs.run_and_note)
    report = make_report(baseline.outcome, trials, possible, runs.seconds, must_strike=bool(plan.only))
    call, teardown = rest
    if report.differences:
        call = _failure(item, report, runs.failed)
    call.duration = runs.seconds
    call.user_properties.append((SUMMARY, str(report)))
    return [setup, call, teardown]


def _failure(item: pytest.Function, report: FaultReport, failed: Sequence[pytest.TestReport]) -> pytest.TestReport:
    def alone(pairs: Sequence[str]) -> str:
        options = " ".join(f"{OPTION} {shlex.quote(pair)}" for pair in pairs)
        return f"pytest {shlex.quote(item.nodeid)} {options}"

    made = _make_report(item, "call", report.failure(alone))
    if failed:
        made.sections.append(("the first run that failed", failed[0].longreprtext))
        made.sections.extend(failed[0].sections)
    return made


def _is_good(report: pytest.TestReport) -> bool:
    """Return whether the run passed; for a test with a strict xfail, a pass is reported as failed."""
    return report.passed or (report.failed and str(report.longrepr).startswith("[XPASS(strict)]"))


def _tear_down(item: pytest.Function, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Tear down the fixtures of wider scopes that the next test does not need; return a report if that fails."""
    state = item.session._setupstate  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - there is no public one
    report = _report_of(item, "teardown", lambda: state.teardown_exact(nextitem))
    return [] if report.passed else [report]


def _make_report(item: pytest.Function, when: _When, text: str) -> pytest.TestReport:
    return _report_of(item, when, lambda: pytest.fail(text, pytrace=False))


def _report_of(item: pytest.Function, when: _When, what: Callable[[], None]) -> pytest.TestReport:
    call = cast(
        "pytest.CallInfo[None]",
        pytest.CallInfo.from_call(what, when=when, reraise=(pytest.exit.Exception, KeyboardInterrupt)),
    )
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return report


def _why(report: pytest.TestReport, trial: Trial) -> str:
    """Return how a run ended, and what to do about it."""
    crash: object = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
    message = str(crash or report.longreprtext).strip()
    where = "" if report.when == "call" else f" in {report.when}"
    advice = "handle it in the flow; or allow it, if a second run of the flow repairs it: allow=…"
    if trial.allowed_error is not None:
        return f"ended with {trial.allowed_error}, which is allowed, and its second run fails{where}: {message}"
    return f"ended{where} with {message}\n{advice}" if not message.startswith("assert") else f"fails: {message}"


def _plan_or_problem(item: pytest.Function) -> Plan | str:
    try:
        plan = _plan(item)
    except (TypeError, ValueError) as error:
        return str(error)
    return plan if "perkamo_sandbox" in item.fixturenames else _NEEDS_SANDBOX


def _plan(item: pytest.Function) -> Plan:
    """Read the marks, the closest one first, and the command line."""
    given: dict[str, object] = {}
    for mark in item.iter_markers(MARK):
        if mark.args:
            raise TypeError(f"{_USAGE} takes keyword arguments only")
        for name, value in mark.kwargs.items():
            given.setdefault(name, value)
    unknown = sorted(given.keys() - {"allow", "depth", "seed", "limit"})
    if unknown:
        raise TypeError(f"{_USAGE} takes no argument {', '.join(unknown)}")
    only = cast("list[str]", item.config.getoption(OPTION))
    try:
        return Plan(
            allow=_allowed(given.get("allow", ())),
            depth=cast("int", given.get("depth", 1)),
            seed=cast("int", given.get("seed", 0)),
            limit=cast("int | None", given.get("limit")),
            only=tuple(_strike(pair) for pair in only),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_USAGE}: {error.args[0]}") from None


def _strike(pair: str) -> Strike:
    try:
        return parse_strike(pair)
    except ValueError as error:
        raise ValueError(f"{OPTION}: {error}") from None


def _allowed(value: object) -> Allowed:
    kinds = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError("allow must be an error class, or a tuple of error classes")
    return cast("Allowed", value)
