"""The result of trying every fault, in words. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from perkamo.sandbox.trials.outcome import Outcome, differences
from perkamo.sandbox.trials.trial import Trial

MAX_SHOWN: Final = 10
"""How many differences a failure shows."""


@frozen
class FaultDifference:
    """A run that did not end like the run without faults.

    Attributes:
        pairs: The requests and their faults, in order, as ``only`` takes them.
        problem: The difference in words, of one or more lines.
    """

    pairs: tuple[str, ...]
    problem: str


@frozen
class FaultReport:
    """The result of trying every fault.

    Attributes:
        tried: How many runs there were besides the run without faults.
        possible: How many runs were possible; more than ``tried`` if there was a limit.
        not_reached: In how many runs the request with the fault never came.
        differences: The runs that ended differently.
        seconds: How long it took.
    """

    tried: int
    possible: int
    not_reached: int
    differences: tuple[FaultDifference, ...]
    seconds: float

    def __str__(self) -> str:
        of = "" if self.tried == self.possible else f" of {self.possible}"
        late = f", {self.not_reached} not reached" if self.not_reached else ""
        found = _counted(len(self.differences), "difference")
        return f"{_counted(self.tried, 'fault')}{of}, {found}{late}, {self.seconds:.1f} s"

    def failure(self, alone: Callable[[Sequence[str]], str]) -> str:
        """Return the message with which a test fails, or None.

        Args:
            alone: Returns how to run pairs alone.
        """
        lines = [str(self)]
        for difference in self.differences[:MAX_SHOWN]:
            lines += [
                "",
                *difference.pairs,
                *_indented(difference.problem),
                f"  run it alone: {alone(difference.pairs)}",
            ]
        if len(self.differences) > MAX_SHOWN:
            lines += ["", f"and {len(self.differences) - MAX_SHOWN} more"]
        return "\n".join(lines)


def make_report(
    baseline: Outcome, trials: Sequence[Trial], possible: int, seconds: float, *, must_strike: bool
) -> FaultReport:
    """Compare all runs with the run without faults.

    Args:
        baseline: The end of the run without faults.
        trials: The other runs.
        possible: How many runs were possible.
        seconds: How long all runs took.
        must_strike: Whether a run in which no fault happened counts as a difference.
    """
    found: list[FaultDifference] = []
    for trial in trials:
        problem = problem_of(baseline, trial)
        if problem is None and must_strike and not trial.has_struck:
            problem = "was never reached: the flow does not make this request"
        if problem is not None:
            found.append(FaultDifference(tuple(str(strike) for strike in trial.strikes), problem))
    not_reached = sum(not trial.has_struck for trial in trials)
    return FaultReport(len(trials), possible, not_reached, tuple(found), seconds)


def problem_of(baseline: Outcome, trial: Trial) -> str | None:
    """Return why a run is not as good as the run without faults; None if it is."""
    if trial.failure is None and trial.outcome is None:
        return "never ended"
    found = [] if trial.outcome is None else differences(baseline, trial.outcome)
    if trial.failure is not None:
        return "\n".join([trial.failure, *found])
    if found and trial.allowed_error is not None:
        return "\n".join(
            [f"ended with {trial.allowed_error}, which is allowed, and a second run does not repair it", *found]
        )
    return "\n".join(found) or None


def failure_text(error: BaseException) -> str:
    """Return how a run ended, and what to do about it."""
    return (
        f"ended with {type(error).__name__}: {error}\n"
        "handle it in the flow, or allow it, if a second run of the flow repairs it: allow="
        f"{type(error).__name__}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
