"""Faults that a test arms: failures of the network and of the service, on request.

sandbox.faults.next("POST /v1/events", Reset(after="apply"), times=2)
sandbox.faults.sequence("POST /v1/events", [Status(503), Status(503), None])
sandbox.faults.rate(0.1, Lost(), seed=7)
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from random import Random
from typing import Final, Literal, Protocol, TypeAlias

from attrs import define, field, frozen

from perkamo.sandbox.messages import Request
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.routes import ROUTES

MAX_DELAY_SECONDS: Final = 86_400.0


@frozen
class Status:
    """Answers with a status code and applies nothing.

    Attributes:
        code: 200 to 599.
        headers: Headers to send besides the usual ones, such as ``{"retry-after": "1"}``.
        body: The body as bytes or text; None for ``{"message": …}``.
    """

    code: int
    headers: Mapping[str, str] = field(factory=dict[str, str])
    body: bytes | str | None = None

    def __attrs_post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError("a status code must be 200 to 599")


@frozen
class Delay:
    """Applies the request at once and sends the answer late, by this many seconds of real time.

    Attributes:
        seconds: 0 to 86,400.
    """

    seconds: float

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.seconds <= MAX_DELAY_SECONDS:
            raise ValueError(f"a delay must be 0 to {MAX_DELAY_SECONDS:.0f} seconds")


@frozen(kw_only=True)
class Reset:
    """Resets the connection (RST) before a byte of the answer is sent.

    Give exactly one.

    Attributes:
        before: ``"apply"``: the request changes nothing.
        after: ``"apply"``: the request has been applied.
    """

    before: Literal["apply"] | None = None
    after: Literal["apply"] | None = None

    def __attrs_post_init__(self) -> None:
        if (self.before is None) == (self.after is None):
            raise ValueError('a reset takes before="apply" or after="apply"')


@frozen
class Truncate:
    """Applies the request, announces the whole answer, sends this many bytes of its body and closes the connection.

    Attributes:
        length: How many bytes of the body arrive, 0 or more.
    """

    length: int

    def __attrs_post_init__(self) -> None:
        if self.length < 0:
            raise ValueError("an answer must be cut after 0 or more bytes")


@frozen
class Stall:
    """Applies the request, announces the whole answer, sends this many bytes of its body, and then stays silent.

    Attributes:
        length: How many bytes of the body arrive, 0 or more.
    """

    length: int

    def __attrs_post_init__(self) -> None:
        if self.length < 0:
            raise ValueError("an answer must stall after 0 or more bytes")


@frozen
class Lost:
    """Applies the request and loses the answer: the connection is closed normally, without a byte."""


Fault: TypeAlias = Status | Delay | Reset | Truncate | Stall | Lost


class Interceptor(Protocol):
    """Sees every request and delivery of a sandbox, and may apply a fault. The sandbox is locked meanwhile."""

    def strike(self, route: str, request: Request) -> Fault | None:
        """Return the fault of a request, or None."""
        ...

    def repeats(self) -> bool:
        """Return whether the next delivery of a webhook is made twice."""
        ...


@frozen
class ArmedFault:
    """An armed fault.

    Attributes:
        number: The number by which it can be removed.
        route: The route of the requests; None for all.
        faults: The faults, in order; None lets a request through.
        share: The share of requests that fail, at random; None if it applies to the next ones.
    """

    number: int
    route: str | None
    faults: tuple[Fault | None, ...]
    share: float | None


@define
class _Armed:
    """Faults waiting on a route, in order; None lets one request through."""

    number: int
    route: str
    waiting: list[Fault | None]


@define
class _Chance:
    """A fault that happens at random."""

    number: int
    route: str | None
    share: float
    fault: Fault
    random: Random
    fired: int = 0


class Faults:
    """The faults of one sandbox. It is thread-safe.

    Faults from ``next`` and ``sequence`` happen in the order of arming; ``rate`` applies to all other requests. A fault
    happens before key and signature are checked. ``sandbox.requests`` shows each fault that happened.

    Args:
        lock: The lock of the whole sandbox.
    """

    def __init__(self, lock: ProcessLock) -> None:
        self._lock = lock
        self._armed: list[_Armed] = []
        self._chances: list[_Chance] = []
        self._number = 0

    def next(self, route: str, fault: Fault, *, times: int = 1) -> None:
        """Arm a fault for the next requests on a route.

        Args:
            route: Method and path, such as ``"POST /v1/events"`` or ``"GET /v1/customer/{user_id}"``.
            fault: The fault.
            times: For how many requests, 1 or more.

        Raises:
            ValueError: The route does not exist, or times is below 1.
        """
        if times < 1:
            raise ValueError("times must be 1 or more")
        self.sequence(route, [fault] * times)

    def sequence(self, route: str, faults: Sequence[Fault | None]) -> None:
        """Arm faults for the next requests on a route, one each; None lets a request through.

        Args:
            route: Method and path.
            faults: The faults, in order.

        Raises:
            ValueError: The route does not exist, or there is no fault.
        """
        _check_route(route)
        if not any(fault is not None for fault in faults):
            raise ValueError("a sequence must contain at least one fault")
        with self._lock:
            self._armed.append(_Armed(self._next_number(), route, list(faults)))

    def rate(self, share: float, fault: Fault, *, seed: int, route: str | None = None) -> None:
        """Arm a fault for a share of the requests, the same ones for the same seed, until ``clear``.

        Args:
            share: Above 0 and at most 1.
            fault: The fault.
            seed: For the random numbers.
            route: Method and path; None for every route.

        Raises:
            ValueError: The route does not exist, or the share is out of its range.
        """
        if route is not None:
            _check_route(route)
        if not 0 < share <= 1:
            raise ValueError("a share must be above 0 and at most 1")
        with self._lock:
            self._chances.append(_Chance(self._next_number(), route, share, fault, Random(seed)))  # noqa: S311 - repeatable, not secret

    def listed(self) -> tuple["ArmedFault", ...]:
        """Return the armed faults, one by one. A rate stays armed until it is removed."""
        with self._lock:
            waiting = [ArmedFault(armed.number, armed.route, tuple(armed.waiting), None) for armed in self._armed]
            rates = [ArmedFault(one.number, one.route, (one.fault,), one.share) for one in self._chances]
            return (*waiting, *rates)

    def remove(self, number: int) -> bool:
        """Disarm one of those listed; return whether it was armed."""
        with self._lock:
            before = len(self._armed) + len(self._chances)
            self._armed = [armed for armed in self._armed if armed.number != number]
            self._chances = [chance for chance in self._chances if chance.number != number]
            return len(self._armed) + len(self._chances) < before

    def clear(self) -> None:
        """Disarm all faults, whether they fired or not."""
        with self._lock:
            self._armed.clear()
            self._chances.clear()

    @property
    def unfired(self) -> tuple[str, ...]:
        """The armed faults that have not happened yet, in words."""
        with self._lock:
            return tuple(self._describe())

    @property
    def armed(self) -> tuple[tuple[str, str], ...]:
        """The armed faults in words, by route. A rate stays armed until ``clear``."""
        with self._lock:
            waiting = [(armed.route, ", ".join(_runs(armed.waiting))) for armed in self._armed]
            rates = [
                (chance.route or "any route", f"{name_of(chance.fault)} at a rate of {chance.share:g}")
                for chance in self._chances
            ]
            return (*waiting, *rates)

    def assert_all_fired(self) -> None:
        """Disarm all faults, and fail if one of them never happened.

        Leaving the sandbox's context manager without an exception does the same.

        Raises:
            AssertionError: A fault never happened; the message names it.
        """
        with self._lock:
            waiting = list(self._describe())
            self._armed.clear()
            self._chances.clear()
        if waiting:
            raise AssertionError(f"armed faults never fired: {'; '.join(waiting)}")

    def take(self, route: str) -> Fault | None:
        """Return the fault of a request on this route, and count it as fired. For the sandbox itself."""
        with self._lock:
            for armed in self._armed:
                if armed.route == route:
                    fault = armed.waiting.pop(0)
                    if not armed.waiting:
                        self._armed.remove(armed)
                    return fault
            for chance in self._chances:
                if chance.route in (None, route) and chance.random.random() < chance.share:
                    chance.fired += 1
                    return chance.fault
            return None

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _describe(self) -> Iterator[str]:
        for armed in self._armed:
            faults = [name_of(fault) for fault in armed.waiting if fault is not None]
            if faults:
                yield f"{armed.route}: {', '.join(faults)}"
        for chance in self._chances:
            if not chance.fired:
                yield f"{chance.route or 'any route'}: {name_of(chance.fault)} at a rate of {chance.share:g}"


def name_of(fault: Fault) -> str:
    """Return a fault in a few words, without the body of a status."""
    match fault:
        case Status():
            return f"Status({fault.code})"
        case Reset():
            return 'Reset(before="apply")' if fault.before else 'Reset(after="apply")'
        case _:
            return repr(fault)


def _runs(faults: Sequence[Fault | None]) -> Iterator[str]:
    for fault, run in groupby(faults):
        count = len(list(run))
        name = "nothing" if fault is None else name_of(fault)
        yield name if count == 1 else f"{count} x {name}"


def _check_route(route: str) -> None:
    if route not in ROUTES:
        raise ValueError(f"there is no route {route!r}; the routes are {', '.join(ROUTES)}")
