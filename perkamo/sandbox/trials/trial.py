"""One run of a flow: what strikes it, what it asked for, and how it ended."""

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
"""Errors with which a disturbed flow may end."""

WEBHOOK_SECONDS: Final = 10.0
_T = TypeVar("_T")


class Trial:
    """One run. It stands between the sandbox and its requests while the flow runs.

    What others ask for before and afterwards, such as a test's fixtures, is neither counted nor struck.

    Args:
        strikes: What happens in this run, in this order; nothing in the undisturbed one.
        allow: Errors with which the flow may end where something strikes; it runs once more then, and must repair it.

    Attributes:
        strikes: As given.
        outcome: How it ended; None until ``end``.
        failure: Why it failed, in words, with an error that is not allowed; None where it did not.
        allowed_error: The name of the last allowed error with which the flow ended; None where there was none.
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
        """Whether everything that was to happen has begun to."""
        return self._next == len(self.strikes)

    @property
    def is_late(self) -> bool:
        """Whether an answer comes later than a client waits."""
        return any(strike.is_late for strike in self.strikes)

    def further_strikes(self) -> list[Strike]:
        """Return what may happen after the last strike, to the requests and deliveries that this run had."""
        after = self._seen.index(self.strikes[-1].target) + 1 if self.strikes else 0
        return [strike for target in self._seen[after:] if target not in self._struck for strike in strikes_on(target)]

    def end(self, sandbox: Sandbox) -> None:
        """Keep how the sandbox stands, now that all is over."""
        self.outcome = take_outcome(sandbox)

    def call(self, sandbox: Sandbox, flow: Callable[[], _T]) -> _T:
        """Run the flow; where it ends with an allowed error, once more, which must repair it."""
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
        """Count a request and return what strikes it; called by the sandbox, which is locked."""
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
        """Count a delivery and tell whether it is made twice; called by the sandbox, which is locked."""
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
        """Raise the error again unless it is allowed, now that something has struck."""
        if not self._next or not _is_allowed(error, self._allow):
            raise error
        self._left = 0  # the call is over: its repetition by the next run is another one
        self.allowed_error = type(error).__name__


def _wait_for_webhooks(sandbox: Sandbox) -> None:
    with suppress(TimeoutError):  # a receiver that hangs shows in what it did not do
        sandbox.webhooks.settle(WEBHOOK_SECONDS)


def _is_allowed(error: BaseException, allow: Allowed) -> bool:
    """Return whether an error, or each one of a task group's, is allowed."""
    if isinstance(error, allow):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    inner: tuple[BaseException, ...] = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return all(_is_allowed(one, allow) for one in inner)
