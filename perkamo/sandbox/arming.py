"""Reads a fault that was sent to ``POST /_sandbox/faults``, and describes armed faults in words. Pure functions."""

from collections.abc import Callable
from itertools import groupby
from typing import Final

from attrs import frozen

from perkamo.sandbox.checks import CheckError
from perkamo.sandbox.faults import ArmedFault, Delay, Fault, Lost, Reset, Stall, Status, Truncate
from perkamo.sandbox.messages import JsonObject
from perkamo.sandbox.routes import ROUTES

MAX_TIMES: Final = 1000


@frozen
class FaultRequest:
    """A fault to arm."""

    route: str
    fault: Fault
    times: int


def read_fault_request(body: JsonObject) -> FaultRequest:
    """Read ``{"route": "POST /v1/events", "kind": "status", "value": 503, "times": 2}``.

    Args:
        body: ``kind`` is one of ``KINDS``; ``value`` is the status code, the seconds of a delay, or the bytes after
            which an answer is cut or stalls; the other kinds have no value. ``times`` is 1 by default.

    Raises:
        CheckError: A field is wrong; the message says which.
    """
    route = body.get("route")
    if not isinstance(route, str) or route not in ROUTES:
        raise CheckError(f"route must be one of {', '.join(ROUTES)}")
    times = body.get("times", 1)
    if not isinstance(times, int) or isinstance(times, bool) or not 1 <= times <= MAX_TIMES:
        raise CheckError(f"times must be a whole number from 1 to {MAX_TIMES}")
    return FaultRequest(route, _fault(body), times)


def in_words(armed: ArmedFault) -> str:
    """Return in words: ``The next 2 calls of POST /v1/events are answered with status 503; nothing is applied``."""
    runs = [(fault, len(list(run))) for fault, run in groupby(armed.faults)]
    if armed.share is not None:
        of = "all calls" if armed.route is None else f"the calls of {armed.route}"
        return f"{armed.share * 100:g} % of {of} {_happens(armed.faults[0])}"
    if len(runs) == 1:
        fault, count = runs[0]
        if count == 1:
            return f"The next call of {armed.route} {_happens(fault, plural=False)}"
        return f"The next {count} calls of {armed.route} {_happens(fault)}"
    steps = [f"{count} {_happens(fault, plural=count > 1)}" for fault, count in runs]
    return f"Of the next calls of {armed.route} {', then '.join(steps)}"


def _happens(fault: Fault | None, *, plural: bool = True) -> str:
    verb, are, lose, end, fall = ("pass", "are", "lose", "end", "fall") if plural else _SINGULAR
    match fault:
        case None:
            words = f"{verb} undisturbed"
        case Status():
            words = f"{are} answered with status {fault.code}; nothing is applied"
        case Delay():
            words = f"{are} applied and answered {fault.seconds:g} s late"
        case Lost():
            words = f"{are} applied and {lose} the answer"
        case Reset():
            when = "before anything is applied" if fault.before else "after it was applied"
            words = f"{end} with a reset connection, {when}"
        case Truncate():
            words = f"{are} applied, and the answer is cut after {fault.length} bytes"
        case Stall():
            words = f"{are} applied and {fall} silent after {fault.length} bytes of the answer"
    return words


def _fault(body: JsonObject) -> Fault:
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise CheckError(f"kind must be one of {', '.join(KINDS)}")
    try:
        return _MAKERS[kind](body)
    except CheckError:
        raise
    except ValueError as error:
        raise CheckError(f"value: {error}") from error


def _number(body: JsonObject) -> float:
    value = body.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckError("value must be a number for this kind of fault")
    return value


def _whole(body: JsonObject) -> int:
    value = _number(body)
    if not isinstance(value, int):
        raise CheckError("value must be a whole number for this kind of fault")
    return value


_SINGULAR: Final = ("passes", "is", "loses", "ends", "falls")
_MAKERS: Final[dict[str, Callable[[JsonObject], Fault]]] = {
    "status": lambda body: Status(_whole(body)),
    "delay": lambda body: Delay(_number(body)),
    "reset-before": lambda _: Reset(before="apply"),
    "reset-after": lambda _: Reset(after="apply"),
    "lost": lambda _: Lost(),
    "truncate": lambda body: Truncate(_whole(body)),
    "stall": lambda body: Stall(_whole(body)),
}
KINDS: Final = tuple(_MAKERS)
