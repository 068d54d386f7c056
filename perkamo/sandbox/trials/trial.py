"""One run of a flow: its faults, its requests, and how it ended."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar, cast

import anyio.to_thread

from perkamo.sandbox.faults import Fault
from perkamo.sandbox.messages import Request
from perkamo.sandbox.sandbox import Sandbox
from perkamo.sandbox.trials.outcome import Outcome, take_outcome
from perkamo.sandbox.trials.strike import DISTURBANCES, WEBHOOK, Strike, Target, strikes_on

Allowed = type[BaseException] | tuple[type[BaseException], ...]
"""Errors with which a flow may end if a fault happens."""

WEBHOOK_SECONDS: Final = 10.0
_T = TypeVar("_T")


class Trial:
    """One run. It intercepts the sandbox's requests while the flow runs.

    Requests before and after the flow, such as those of a test's fixtures, are not counted and do not fail.

    Args:
        strikes: The faults of this run, in order; none in the run without faults.
        allow: Errors with which the flow may end if a fault happens; it then runs once more, which must repair it.

    Attributes:
        strikes: As given.
        outcome: How it ended; None until ``end``.
        failure: Why it failed, in words, with an error that is not allowed; None if it did not.
        allowed_error: The name of the last allowed error with which the flow ended; None if there was none.
    """

    def __init__(self, strikes: Sequence[Strike] = (), allow: Allowed = ()) -> None:
        self.strikes: tuple[Strike, ...] = tuple(strikes)
        self.outcome: Outcome | None = None
        self.failure: str | None = None
        self.allowed_error: str | None = None
        self._allow = allow
        self._counts: Counter[str] = Counter()
        self._seen: list[Target] = []
        self._struck: set[Target] = set()
        self._next = 0
        self._repeated: tuple[str, bytes, Fault] | None = None
        self._left = 0

    @property
    def has_struck(self) -> bool:
        """Whether all faults of the run have begun."""
        return self._next == len(self.strikes)

    @property
    def is_late(self) -> bool:
        """Whether an answer comes later than a client waits."""
        return any(strike.is_late for strike in self.strikes)

    def further_strikes(self) -> list[Strike]:
        """Return the faults that may follow the last one, for the requests and deliveries of this run."""
        after = self._seen.index(self.strikes[-1].target) + 1 if self.strikes else 0
        return [strike for target in self._seen[after:] if target not in self._struck for strike in strikes_on(target)]

    def end(self, sandbox: Sandbox) -> None:
        """Keep the state of the sandbox at the end."""
        self.outcome = take_outcome(sandbox)

    def call(self, sandbox: Sandbox, flow: Callable[[], _T]) -> _T:
        """Run the flow. If it ends with an allowed error, run it once more, which must repair it."""
        sandbox.intercept(self)
        try:
            result = self._call(flow)
            _wait_for_webhooks(sandbox)
        finally:
            sandbox.intercept(None)
        return result

    async def call_async(self, sandbox: Sandbox, flow: Callable[[], Awaitable[_T]]) -> _T:
        """Run an async flow in the same way, on asyncio or trio."""
        sandbox.intercept(self)
        try:
            result = await self._call_async(flow)
            await anyio.to_thread.run_sync(_wait_for_webhooks, sandbox)
        finally:
            sandbox.intercept(None)
        return result

    def strike(self, route: str, request: Request) -> Fault | None:
        """Count a request and return its fault, or None; called by the sandbox, which is locked."""
        target = self._count(route)
        if self._left and self._repeated is not None and self._repeated[:2] == (request.target, request.body):
            self._left -= 1
            self._struck.add(target)
            return self._repeated[2]
        if not self._strikes_next(target):
            return None
        disturbance = DISTURBANCES[self.strikes[self._next - 1].name]
        self._repeated = request.target, request.body, disturbance.fault
        self._left = disturbance.times - 1
        return disturbance.fault

    def repeats(self) -> bool:
        """Count a delivery and return whether it is made twice; called by the sandbox, which is locked."""
        return self._strikes_next(self._count(WEBHOOK))

    def _call(self, flow: Callable[[], _T]) -> _T:
        for _ in self.strikes:
            try:
                return flow()
            except Exception as error:  # noqa: BLE001 - raised again unless it is allowed
                self._check(error)
        return flow()

    async def _call_async(self, flow: Callable[[], Awaitable[_T]]) -> _T:
        for _ in self.strikes:
            try:
                return await flow()
            except Exception as error:  # noqa: BLE001 - raised again unless it is allowed
                self._check(error)
        return await flow()

    def _count(self, name: str) -> Target:
        self._counts[name] += 1
        target = Target(name, self._counts[name])
        self._seen.append(target)
        return target

    def _strikes_next(self, target: Target) -> bool:
        if self.has_struck or self.strikes[self._next].target != target:
            return False
        self._next += 1
        self._struck.add(target)
        return True

    def _check(self, error: Exception) -> None:
        """Raise the error again, unless it is allowed and a fault has happened."""
        if not self._next or not _is_allowed(error, self._allow):
            raise error
        self._left = 0  # the call is over: its repetition in the next run is another call
        self.allowed_error = type(error).__name__


def _wait_for_webhooks(sandbox: Sandbox) -> None:
    with suppress(TimeoutError):  # if a receiver hangs, the missing results show it
        sandbox.webhooks.settle(WEBHOOK_SECONDS)


def _is_allowed(error: BaseException, allow: Allowed) -> bool:
    """Return whether an error, or each error of a task group, is allowed."""
    if isinstance(error, allow):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    inner: tuple[BaseException, ...] = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return all(_is_allowed(one, allow) for one in inner)
