"""The faults of a run's requests, and how a pair of a request and a fault is written. Pure functions."""

import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from perkamo.sandbox.faults import MAX_DELAY_SECONDS, Delay, Fault, Lost, Reset, Status, Truncate
from perkamo.sandbox.routes import ROUTES

EVERY_ATTEMPT: Final = 3
"""How many requests fail by a fault "at every attempt": as many as a client makes for one call by default."""

WEBHOOK: Final = "webhook"
_TWICE: Final = "delivered twice"
_LATE: Final = "answer late at every attempt"
_AT_ONCE: Final[Mapping[str, str]] = {"retry-after": "0"}
"""Seconds; short, so that a client with its usual waits does not block a test."""

_TRANSIENT: Final[Mapping[str, Fault]] = {
    "refused with 429": Status(429, _AT_ONCE),
    "refused with 500": Status(500),
    "refused with 503": Status(503, _AT_ONCE),
    "reset before it is applied": Reset(before="apply"),
    "reset after it is applied": Reset(after="apply"),
    "answer lost": Lost(),
    "answer cut": Truncate(1),
}
"""Faults after which a client retries. They are tried once, which a retry repairs, and at every attempt."""


@frozen
class Disturbance:
    """A fault, and for how many requests in a row it happens: the chosen request and its retries."""

    fault: Fault
    times: int = 1


DISTURBANCES: Final[Mapping[str, Disturbance]] = {
    "refused with 400": Disturbance(Status(400)),
    "refused with 401": Disturbance(Status(401)),
    "refused with 409": Disturbance(Status(409)),
    **{
        name: disturbance
        for kind, fault in _TRANSIENT.items()
        for name, disturbance in (
            (kind, Disturbance(fault)),
            (f"{kind} at every attempt", Disturbance(fault, EVERY_ATTEMPT)),
        )
    },
    # Applied, and no byte of the answer until the client's own deadline.
    _LATE: Disturbance(Delay(MAX_DELAY_SECONDS), EVERY_ATTEMPT),
}
"""The faults by name."""

_PAIR: Final = re.compile(r"(?P<target>.+) #(?P<number>[1-9][0-9]{0,8}): (?P<name>.+)", re.ASCII)


@frozen
class Target:
    """One request of a run, or one delivery of a webhook.

    Attributes:
        name: Method and path, as in ``sandbox.faults``; ``webhook`` for a delivery.
        number: Its number among those of this name in the run, from 1.
    """

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} #{self.number}"


@frozen
class Strike:
    """A request or delivery, and its fault.

    Attributes:
        target: The request or delivery.
        name: The fault: a name of ``DISTURBANCES``, or ``delivered twice`` for a delivery.
    """

    target: Target
    name: str

    def __str__(self) -> str:
        return f"{self.target}: {self.name}"

    @property
    def is_late(self) -> bool:
        """Whether it takes as long as the client's deadline."""
        return self.name == _LATE


def strikes_on(target: Target) -> list[Strike]:
    """Return all faults of a request or a delivery."""
    names = (_TWICE,) if target.name == WEBHOOK else DISTURBANCES
    return [Strike(target, name) for name in names]


def parse_strike(text: str) -> Strike:
    """Read a pair as it is written: ``POST /v1/events #1: answer lost``.

    Raises:
        ValueError: It does not name a request and a fault; the message lists what exists.
    """
    match = _PAIR.fullmatch(text.strip())
    if match is None or match["target"] not in (*ROUTES, WEBHOOK):
        raise ValueError(f"a request and a fault are written as 'POST /v1/events #1: answer lost', not {text!r}")
    strike = Strike(Target(match["target"], int(match["number"])), match["name"])
    possible = strikes_on(strike.target)
    if strike not in possible:
        raise ValueError(f"what may happen to {strike.target} is: {', '.join(one.name for one in possible)}")
    return strike
